package judgement

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// ending is how a target ends.
type ending int

const (
	leaves ending = iota // its client ends too
	dies                 // its client's calls fail for half a minute, then the client stops
	hangs                // like dies, but the first probe never reports, and the client stops then
	forced               // like dies, and the breaker is forced open, as a control
)

// target is one server of a changing fleet, such as a pod.
type target struct {
	key     breaker.Key
	gap     time.Duration // between calls, on average
	end     time.Duration // of its life
	ending  ending
	next    time.Duration    // the next call
	last    time.Duration    // the last call
	over    bool             // no more calls follow
	breaker *breaker.Breaker // of the last call; nil: no call yet
}

// byNext is a heap of targets, ordered by the time of the next call.
type byNext []*target

func (h *byNext) Len() int           { return len(*h) }
func (h *byNext) Less(i, j int) bool { return (*h)[i].next < (*h)[j].next }
func (h *byNext) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }
func (h *byNext) Push(x any)         { *h = append(*h, x.(*target)) }
func (h *byNext) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// fleet is a set of targets that start at random times in a span and live for a random time.
type fleet struct {
	targets int
	bound   int           // of the group
	span    time.Duration // in which the targets start
	life    time.Duration // on average
	gap     time.Duration // between calls of a target, on average
	forced  bool          // whether breakers of dead targets are forced open
	opts    []breaker.GroupOption
}

func (f fleet) make(rng *rand.Rand) byNext {
	h := make(byNext, f.targets)
	for i := range h {
		t := &target{key: breaker.Key{Target: "10.0.0." + strconv.Itoa(i)}, gap: f.gap}
		t.next = time.Duration(rng.Int64N(int64(f.span)))
		t.end = t.next + time.Duration(rng.ExpFloat64()*float64(f.life))
		switch n := rng.IntN(100); {
		case n < 10:
			t.ending = hangs
		case n < 40:
			t.ending = dies
		}
		if f.forced && t.ending != leaves {
			t.ending = forced
		}
		h[i] = t
	}
	heap.Init(&h)
	return h
}

// census holds observations of a group while targets start and end.
type census struct {
	calls    int
	shared   int           // calls that got the overflow breaker
	replaced int           // times that a target in use got a new breaker, because its breaker was evicted
	rejected int           // calls to living targets that were rejected
	stale    int           // breakers that All yielded although they had no call during the idle timeout
	missing  int           // breakers of targets in use that All did not yield
	left     int           // breakers that All yielded an hour after the last call
	most     int           // largest number of breakers at one time
	dead     int           // targets that failed at the end
	deadOpen int           // the number of these whose breaker was not closed after the last call
	oldest   time.Duration // the longest time from a breaker's last call until All last yielded it
	stats    breaker.GroupStats
}

const (
	idleTimeout = time.Hour // the default
	retry       = 500 * time.Millisecond
	givesUp     = 30 * time.Second // after the end of the target
)

// live simulates the fleet with a group, in a bubble.
func (f fleet) live(t *testing.T) (c census) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		group, err := breaker.NewGroup(breaker.Config{}, append(f.opts, breaker.WithMaxBreakers(f.bound))...)
		if err != nil {
			t.Fatal(err)
		}
		rng := newRand(0)
		coming := f.make(rng)
		all := make(map[breaker.Key]*target, f.targets)
		for _, x := range coming {
			all[x.key] = x
		}
		var now time.Duration
		sleepUntil := func(at time.Duration) {
			time.Sleep(at - now)
			now = at
		}
		for look := 10 * time.Minute; len(coming) > 0; {
			x := coming[0]
			if look < x.next {
				sleepUntil(look)
				c.look(group, all, now)
				look += 10 * time.Minute
				continue
			}
			sleepUntil(x.next)
			c.calls++
			if now < x.end {
				c.callAlive(t, group, x, rng)
			} else {
				c.callDead(t, group, x)
			}
			if x.over {
				heap.Pop(&coming)
			} else {
				heap.Fix(&coming, 0)
			}
		}
		c.stats = group.Stats()
		sleepUntil(now + idleTimeout + tenth)
		for range group.All() {
			c.left++
		}
	})
	return c
}

// get returns the breaker for a call to x.
func (c *census) get(group *breaker.Group, x *target) *breaker.Breaker {
	b := group.Get(x.key)
	if b.Key() != x.key {
		c.shared++
	}
	if x.breaker != nil && x.breaker != b {
		c.replaced++
	}
	x.breaker, x.last = b, x.next
	return b
}

// callAlive makes a call to x that succeeds, and schedules the next one.
func (c *census) callAlive(t *testing.T, group *breaker.Group, x *target, rng *rand.Rand) {
	t.Helper()
	p, err := c.get(group, x).Acquire(t.Context())
	if err != nil {
		c.rejected++
	} else {
		p.Done(t.Context(), breaker.Success)
	}
	if x.next += x.gap/2 + time.Duration(rng.Int64N(int64(x.gap))); x.next >= x.end {
		x.next = x.end
		x.over = x.ending == leaves
	}
}

// callDead makes a call to x that fails, and schedules the next one.
func (c *census) callDead(t *testing.T, group *breaker.Group, x *target) {
	t.Helper()
	b := c.get(group, x)
	p, err := b.Acquire(t.Context())
	x.next += retry
	switch {
	case err == nil && p.IsProbe() && x.ending == hangs:
		x.over = true
	case err == nil:
		p.Done(t.Context(), breaker.Failure)
	}
	if x.over = x.over || x.next > x.end+givesUp; !x.over {
		return
	}
	c.dead++
	if b.State() != breaker.Closed {
		c.deadOpen++
	}
	if x.ending == forced {
		if err := b.SetOverride(t.Context(), breaker.Override{Mode: breaker.ForceOpen, Why: "dead", By: "test"}); err != nil {
			t.Fatal(err)
		}
	}
}

// look updates the census.
func (c *census) look(group *breaker.Group, all map[breaker.Key]*target, now time.Duration) {
	yielded := make(map[breaker.Key]bool)
	for key := range group.All() {
		yielded[key] = true
		x, ok := all[key]
		if !ok {
			continue // the overflow breaker
		}
		unused := now - x.last
		if c.oldest = max(c.oldest, unused); unused > idleTimeout+tenth {
			c.stale++
		}
	}
	c.most = max(c.most, group.Len())
	for key, x := range all {
		if x.breaker != nil && !x.over && !yielded[key] {
			c.missing++
		}
	}
}

func (c *census) String() string {
	return fmt.Sprintf("%d calls, %d got the shared breaker; at most %d breakers; %d evicted, %d in use; "+
		"%d of %d dead open; in All at most %v after the last call, %d seen after an hour, %d left",
		c.calls, c.shared, c.most, c.stats.Evictions, c.replaced, c.deadOpen, c.dead,
		c.oldest.Round(time.Second), c.stale, c.left)
}

// fleets returns two fleets. In the first, targets start and end within six days, and the idle timeout keeps the group
// below its bound. In the second they do so within hours, and breakers must be evicted.
func fleets() (days, hours fleet) {
	days = fleet{targets: size(5000, 1500), bound: size(1000, 300), span: 6 * 24 * time.Hour, life: 12 * time.Hour}
	days.gap = size(90*time.Second, 10*time.Minute)
	hours = days
	hours.span, hours.life, hours.gap = 4*time.Hour, 30*time.Minute, size(10*time.Second, time.Minute)
	return days, hours
}

// ownBreakers checks what holds for every fleet: each target in use has its own breaker, which was open in the end if
// the target died. Few breakers in use are evicted; some are, because the group compares only a sample.
func ownBreakers(t *testing.T, c census) {
	t.Helper()
	if c.shared > 0 || c.stats.Overflow > 0 {
		t.Errorf("%d calls got the shared breaker, Overflow is %d, want 0", c.shared, c.stats.Overflow)
	}
	if c.replaced > int(c.stats.Evictions)/100 {
		t.Errorf("%d of %d evictions took the breaker of a target in use, want at most one in a hundred", c.replaced,
			c.stats.Evictions)
	}
	if c.missing > c.replaced || c.rejected > 0 {
		t.Errorf("targets in use: %d times not in All, %d calls rejected, want 0", c.missing, c.rejected)
	}
	if c.dead < size(1500, 400) || c.deadOpen != c.dead {
		t.Errorf("%d of %d dead targets had an open breaker, want all of some hundreds", c.deadOpen, c.dead)
	}
}

// Targets start and end for days, and many of them die. Their breakers disappear from All an hour after the last call.
func TestB40_BreakersOfDeadTargetsVanish(t *testing.T) {
	days, _ := fleets()
	c := days.live(t)
	t.Logf("six days: %v", &c)
	ownBreakers(t, c)
	if c.stale > 0 || c.left > 0 || c.oldest < idleTimeout-10*time.Minute {
		t.Errorf("%d seen after the idle timeout, %d left at the end, the oldest %v after the last call, "+
			"want 0, 0 and about 1h", c.stale, c.left, c.oldest)
	}
	if c.stats.Evictions > 0 || c.most >= days.bound {
		t.Errorf("%d evictions, %d breakers: the idle timeout frees no memory", c.stats.Evictions, c.most)
	}
}

// If so many targets start that the group is full, the breakers of dead targets are evicted.
func TestB33_BreakersOfDeadTargetsMakeRoom(t *testing.T) {
	days, hours := fleets()
	c := hours.live(t)
	t.Logf("four hours: %v", &c)
	ownBreakers(t, c)
	if c.stats.Evictions == 0 || c.stale > 0 || c.left > 0 {
		t.Errorf("%d evictions, %d seen after the idle timeout, %d left at the end, want some, 0, 0", c.stats.Evictions,
			c.stale, c.left)
	}

	never := days
	never.opts = []breaker.GroupOption{breaker.WithIdleTimeout(-1)}
	c = never.live(t)
	t.Logf("six days, no idle timeout: %v", &c)
	ownBreakers(t, c)
	if c.stats.Evictions == 0 || c.stale == 0 || c.left == 0 {
		t.Errorf("%d evictions, %d seen after an hour, %d left at the end: the tests show nothing", c.stats.Evictions,
			c.stale, c.left)
	}

	// Forced breakers are never evicted. The fleet is small, because each call that finds no free place looks at all
	// breakers.
	stuck := fleet{targets: 300, bound: 60, span: days.span, life: days.life, gap: 10 * time.Minute, forced: true}
	c = stuck.live(t)
	t.Logf("six days, a small fleet, the dead forced open: %v", &c)
	if c.shared == 0 || c.stats.Overflow == 0 {
		t.Errorf("%d calls got the shared breaker, Overflow is %d: the tests show nothing", c.shared, c.stats.Overflow)
	}
}
