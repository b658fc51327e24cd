package main

import (
	"math"
	"slices"
)

// median returns NaN if vs is empty.
func median(vs []float64) float64 {
	if len(vs) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(vs))
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// spread is a median with the smallest and the largest value.
type spread struct{ median, low, high float64 }

func spreadOf(vs []float64) spread {
	if len(vs) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	return spread{median(vs), slices.Min(vs), slices.Max(vs)}
}

// interval is a median with its 95% confidence interval.
type interval struct{ median, low, high float64 }

// includes reports whether v is in the interval.
func (i interval) includes(v float64) bool { return i.low <= v && v <= i.high }

// intervalOf makes no assumption about the distribution. Each of n values is above the true median with probability
// 1/2, so the number of values above it is binomial, and the k-th smallest and k-th largest value enclose the median
// with probability 1 - 2 P(fewer than k are below it). It returns the narrowest such pair with at least 95%. With fewer
// than 6 values no pair has 95%, and it returns the smallest and the largest.
func intervalOf(vs []float64) interval {
	n := len(vs)
	s := slices.Sorted(slices.Values(vs))
	k, p := 0, math.Pow(0.5, float64(n)) // p is the probability of exactly k
	for outside := p; outside <= 0.025; outside += p {
		k++
		p *= float64(n-k+1) / float64(k)
	}
	if k == 0 {
		return interval{median(vs), math.Inf(-1), math.Inf(1)}
	}
	return interval{median(vs), s[k-1], s[n-k]}
}
