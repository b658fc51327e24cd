package statusz

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// sampler takes snapshots of all breakers of a group, at most once a second for all viewers together. Its goroutine
// runs while there is a viewer. With WithHistory it runs from the beginning to Close.
type sampler struct {
	group *breaker.Group
	wg    sync.WaitGroup

	mu      sync.Mutex
	entries map[breaker.Key]*entry // guarded by mu, the rings in it too
	clock   clock                  // guarded by mu
	samples uint64                 // guarded by mu: how many were taken
	latest  *frame                 // guarded by mu
	viewers int                    // guarded by mu
	stop    chan struct{}          // guarded by mu: closing it ends the goroutine; nil while there is none
	closed  bool                   // guarded by mu
}

// frame holds all breakers at one instant, the worst first. All viewers share it. It does not change, except for
// rendered.
type frame struct {
	at     time.Time
	clock  clock
	rows   []*row
	totals Totals
	group  breaker.GroupStats
	unused []breaker.PolicyRule
	names  func() []string // of rows, in lower case; computed for the first search
	next   chan struct{}   // closed when there is a newer frame

	rendered renderings
}

// row is one breaker in a frame.
type row struct {
	breaker.Snapshot
	rates    Rates
	severity int
	entry    *entry
}

// Totals holds sums over all breakers of the group, also those that the query does not select.
type Totals struct {
	Breakers  int `json:"breakers"`
	Closed    int `json:"closed"`
	HalfOpen  int `json:"halfOpen"`
	Open      int `json:"open"`
	NotReady  int `json:"notReady"`  // would reject a call now
	Overrides int `json:"overrides"` // with an override in force
	// Rates are zero for the first request in ten seconds, unless WithHistory is set: a rate needs two samples.
	Rates Rates `json:"rates"`
}

func newSampler(g *breaker.Group) *sampler {
	return &sampler{group: g, entries: make(map[breaker.Key]*entry)}
}

// join adds a viewer, which must call leave. It returns false, and adds none, if the sampler is closed.
func (s *sampler) join() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.viewers++
	if s.stop == nil {
		stop := make(chan struct{})
		s.stop = stop
		s.wg.Go(func() { s.run(stop) })
	}
	return true
}

// leave removes a viewer. The goroutine ends with the last viewer. The history stays, because a viewer who follows a
// link leaves for a moment.
func (s *sampler) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewers--
	if s.viewers == 0 {
		close(s.stop)
		s.stop = nil
	}
}

// close refuses new viewers. It waits until the others have left and the goroutine has ended.
func (s *sampler) close() {
	s.mu.Lock()
	s.closed = true // before Wait, because wg.Go must not be called while Wait runs
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *sampler) run(stop <-chan struct{}) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		s.refresh()
		select {
		case <-t.C:
		case <-stop:
			return
		}
	}
}

// refresh takes a sample now.
func (s *sampler) refresh() *frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sample()
}

// current returns the latest frame, or takes a sample if that frame is older than a second. While the goroutine runs
// the limit is two seconds, because the goroutine may be a little late. An older frame means that the goroutine was
// started just now.
func (s *sampler) current() *frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.latest; f != nil {
		if age := time.Since(f.at); age < tick || (s.stop != nil && age < 2*tick) {
			return f
		}
	}
	return s.sample()
}

// sample takes snapshots of all breakers. Caller must hold s.mu.
func (s *sampler) sample() *frame {
	s.samples++
	f := &frame{at: time.Now(), next: make(chan struct{}), group: s.group.Stats()}
	slot, spread, advanced := s.clock.advance(f.at)
	f.clock = s.clock
	rows := make([]row, 0, f.group.Breakers+f.group.Breakers/8)
	for k, b := range s.group.All() {
		e := s.entries[k]
		if e == nil {
			e = new(entry)
			s.entries[k] = e
		}
		if e.frame == s.samples {
			continue // the breaker was evicted and the key got another one while this loop ran
		}
		e.frame = s.samples
		r := row{Snapshot: b.Snapshot(), entry: e}
		r.Key = k // if the breaker was removed meanwhile, the Snapshot may be that of the overflow breaker
		if advanced {
			e.record(callsOf(&r.Snapshot), slot, spread)
		}
		r.rates, r.severity = s.clock.rates(e.ring), severity(&r.Snapshot)
		f.totals.add(&r)
		rows = append(rows, r)
	}
	for k, e := range s.entries {
		if e.frame != s.samples {
			delete(s.entries, k)
		}
	}
	f.rows = worstFirst(rows)
	f.names = sync.OnceValue(func() []string { return lowerNames(f.rows) })
	for _, p := range s.group.Policies() {
		if p.Breakers == 0 {
			f.unused = append(f.unused, p.Rule)
		}
	}
	if s.latest != nil {
		close(s.latest.next)
	}
	s.latest = f
	return f
}

// history returns the calls of the last two minutes of a row of f. The ring may already be some ticks ahead of f, so it
// has more slots than are shown.
func (s *sampler) history(f *frame, r *row) *History {
	if r.entry == nil {
		return f.clock.history(nil)
	}
	s.mu.Lock()
	var copied ring
	have := r.entry.ring != nil
	if have {
		copied = *r.entry.ring
	}
	s.mu.Unlock()
	if !have {
		return f.clock.history(nil)
	}
	return f.clock.history(&copied)
}

func (t *Totals) add(r *row) {
	t.Breakers++
	switch r.State {
	case breaker.Closed:
		t.Closed++
	case breaker.HalfOpen:
		t.HalfOpen++
	case breaker.Open:
		t.Open++
	}
	if !r.Ready {
		t.NotReady++
	}
	if r.Override.Mode != 0 {
		t.Overrides++
	}
	t.Rates = t.Rates.plus(r.rates)
}

// severity returns how urgently the breaker needs attention. Higher is worse.
func severity(s *breaker.Snapshot) int {
	switch {
	case s.State == breaker.Open && s.Mode == 0:
		return 7
	case s.Mode == breaker.ForceOpen: // somebody knows
		return 6
	case s.State == breaker.HalfOpen && s.Mode != breaker.Shadow:
		return 5
	case s.Underlying != breaker.Closed: // but an override or the policy lets calls through
		return 4
	case !s.Ready:
		return 3
	case s.Override.Mode != 0:
		return 2
	case s.Window.Failures+s.Window.Overloads+s.Window.ConsecutiveFailures > 0:
		return 1
	}
	return 0
}

// worstFirst sorts by severity, then by outage with the longest first, then by key. Rates do not affect the order,
// because nobody could read a list that changes its order each second.
func worstFirst(rows []row) []*row {
	order := make([]*row, len(rows))
	for i := range rows {
		order[i] = &rows[i]
	}
	slices.SortFunc(order, func(a, b *row) int {
		if c := cmp.Compare(b.severity, a.severity); c != 0 {
			return c
		}
		if c := a.Outage.At.Compare(b.Outage.At); c != 0 && a.severity >= 4 {
			return c
		}
		return cmpKeys(a.Key, b.Key)
	})
	return order
}

// find returns the row of k, or nil.
func (f *frame) find(k breaker.Key) *row {
	for _, r := range f.rows {
		if r.Key == k {
			return r
		}
	}
	return nil
}

// matching returns the rows that q selects, in order.
func (f *frame) matching(q query) []*row {
	if q.text == "" && q.state == "" {
		return f.rows
	}
	var names []string
	words := q.words()
	if len(words) > 0 {
		names = f.names()
	}
	var rows []*row
	for i, r := range f.rows {
		if q.hasState(&r.Snapshot) && (len(words) == 0 || containsAll(names[i], words)) {
			rows = append(rows, r)
		}
	}
	return rows
}

func containsAll(s string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(s, word) {
			return false
		}
	}
	return true
}

func lowerNames(rows []*row) []string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = strings.ToLower(r.Key.String())
	}
	return names
}
