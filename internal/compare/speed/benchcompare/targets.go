package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/grpcircuit/grpcircuit/internal/compare/speed"
)

// side is a kind of run: the number of goroutines that call at once.
type side struct {
	name      string
	benchmark string
	procs     int
}

func (f *figures) sides() []side {
	return []side{
		{"one goroutine", "BenchmarkOne", 1},
		{fmt.Sprintf("all cores (%d)", f.cores), "BenchmarkParallel", f.cores},
		{fmt.Sprintf("GOMAXPROCS %d", manyProcs), "BenchmarkParallel", manyProcs},
	}
}

func (s side) row(p speed.Peer, c speed.Case) string {
	return row(s.benchmark+"/"+c.BenchmarkName(p), s.procs)
}

// entry is a benchmark with its peer and case.
type entry struct {
	peer speed.Peer
	c    speed.Case
}

func (e entry) name() string { return e.peer.Name + ", " + e.c.Form }

// entries returns all entries for a work, in the order of the peers.
func entries(w speed.Work) (es []entry) {
	for _, p := range speed.Peers() {
		for _, c := range p.Cases {
			if c.Work == w {
				es = append(es, entry{p, c})
			}
		}
	}
	return es
}

// named returns the entries of one peer.
func named(es []entry, peer string) []entry {
	return slices.DeleteFunc(slices.Clone(es), func(e entry) bool { return e.peer.Name != peer })
}

// fullWork returns the entries of other libraries that do all of the work.
func fullWork(es []entry) []entry {
	return others(es, func(apart string) bool { return apart == "" })
}

// windowed returns the entries of other libraries that keep a sliding window or need none, even if they do less in
// other ways.
func windowed(es []entry) []entry {
	return others(es, func(apart string) bool { return apart != speed.NotSliding })
}

// others returns the entries of other libraries for which keep returns true. Its argument is [speed.Peer.Apart], or "".
func others(es []entry, keep func(apart string) bool) []entry {
	return slices.DeleteFunc(slices.Clone(es), func(e entry) bool {
		return e.peer.Name == speed.Ours || e.peer.Name == speed.Floor || e.peer.Name == speed.Nothing ||
			!keep(e.peer.Apart[e.c.Work])
	})
}

// time returns the median time of an entry, or infinity if it was not measured.
func (f *figures) time(e entry, s side) float64 {
	if ts := f.all(s.row(e.peer, e.c), "ns/op"); len(ts) > 0 {
		return median(ts)
	}
	return math.Inf(1)
}

// byTime compares entries for sorting.
func (f *figures) byTime(s side) func(a, b entry) int {
	return func(a, b entry) int { return cmp.Compare(f.time(a, s), f.time(b, s)) }
}

func (f *figures) fastest(es []entry, s side) entry { return slices.MinFunc(es, f.byTime(s)) }

// target is a goal of this library, and the result.
type target struct {
	what     string
	measured string
	limit    string
	against  string
	met      bool
}

// targets returns all targets. Each ratio is the time of this library's fastest form divided by that of the fastest
// form of the other libraries, within a round. The median over the rounds is compared with the limit.
func (f *figures) targets() (ts []target) {
	sides := f.sides()
	ratio := func(what string, w speed.Work, s side, limit float64, peers func([]entry) []entry) {
		es := entries(w)
		ours, peer := f.fastest(named(es, speed.Ours), s), f.fastest(peers(es), s)
		r := spreadOf(f.ratios(s.row(ours.peer, ours.c), s.row(peer.peer, peer.c)))
		ts = append(ts, target{
			what:     what + ", " + s.name + ": " + ours.c.Form,
			measured: fmt.Sprintf("%.2f (%.2f - %.2f)", r.median, r.low, r.high),
			limit:    fmt.Sprintf("at most %.1f", limit),
			against:  peer.name(),
			met:      r.median <= limit,
		})
	}
	only := func(name string) func([]entry) []entry {
		return func(es []entry) []entry { return named(es, name) }
	}
	for _, s := range sides {
		ratio("closed success with a window", speed.Success, s, 0.5, windowed)
		ratio("the same, among libraries that read the clock", speed.Success, s, 0.5, fullWork)
	}
	ratio("failure streak as the only rule", speed.Consecutive, sides[0], 2.5, only("eapache/go-resiliency"))
	for _, s := range sides {
		ratio("open rejection", speed.Open, s, 1, windowed)
		ratio("the same, among libraries that read the clock", speed.Open, s, 1, fullWork)
	}
	ratio("unary interceptor", speed.Unary, sides[0], 0.1, only("failsafe-go"))
	ts = append(ts, f.noAllocations())
	ratio("closed success with a window", speed.Success, sides[0], 1.7, only(speed.Floor))
	return append(ts, f.connTarget())
}

func (f *figures) noAllocations() target {
	e := f.fastest(named(entries(speed.Unary), speed.Ours), f.sides()[0])
	most := slices.Max(append(f.all(f.sides()[0].row(e.peer, e.c), "allocs/op"), 0))
	return target{
		what: "unary interceptor, allocations of a call: " + e.c.Form, measured: fmt.Sprintf("%.0f", most),
		limit: "0", against: "-", met: most == 0,
	}
}

// connDifference returns the difference between two connections within each pair of runs, in nanoseconds a call.
func (f *figures) connDifference(of, from string) interval {
	var ds []float64
	for _, p := range f.conns {
		ds = append(ds, p[of]-p[from])
	}
	return intervalOf(ds)
}

// connTime returns the median time of a call on a connection, in nanoseconds.
func (f *figures) connTime(of string) float64 {
	var ts []float64
	for _, p := range f.conns {
		ts = append(ts, p[of])
	}
	return median(ts)
}

func (f *figures) connTarget() target {
	d := f.connDifference(speed.ConnGuarded, speed.ConnBare)
	return target{
		what: "real unary call, difference that a guard makes",
		measured: fmt.Sprintf("%.0f ns (95%%: %.0f to %.0f, which is %.1f%% of a call)",
			d.median, d.low, d.high, 100*d.high/f.connTime(speed.ConnBare)),
		limit: "the interval includes 0", against: "the same call without a guard",
		met: d.includes(0),
	}
}
