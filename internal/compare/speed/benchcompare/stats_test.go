package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		vs   []float64
		want float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(tt.vs); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.vs, got, tt.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestMedianLeavesOrder(t *testing.T) {
	vs := []float64{3, 1, 2}
	median(vs)
	if vs[0] != 3 {
		t.Errorf("median sorted its argument: %v", vs)
	}
}

// TestInterval compares with the ranks of published tables for the 95% interval of the sign test.
func TestInterval(t *testing.T) {
	for _, tt := range []struct {
		n         int
		low, high float64 // ranks, from 1
	}{
		{6, 1, 6},
		{10, 2, 9},
		{20, 6, 15},
		{30, 10, 21},
		{40, 14, 27},
		{60, 22, 39},
	} {
		vs := make([]float64, tt.n)
		for i, rank := range rand.New(rand.NewPCG(1, 2)).Perm(tt.n) {
			vs[i] = float64(rank + 1)
		}
		got := intervalOf(vs)
		want := interval{float64(tt.n+1) / 2, tt.low, tt.high}
		if got != want {
			t.Errorf("interval of 1 to %d = %v, want %v", tt.n, got, want)
		}
	}
	if got := intervalOf([]float64{1, 2, 3, 4, 5}); !math.IsInf(got.low, -1) || !math.IsInf(got.high, 1) {
		t.Errorf("five values cannot hold 95%%, got %v", got)
	}
}

func TestIntervalIncludes(t *testing.T) {
	i := interval{1, -1, 2}
	for v, want := range map[float64]bool{-1.1: false, -1: true, 0: true, 2: true, 2.1: false} {
		if got := i.includes(v); got != want {
			t.Errorf("%v includes %v: %v, want %v", i, v, got, want)
		}
	}
}
