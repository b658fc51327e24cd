package statusz

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const (
	keptTransitions = 5      // of each breaker
	maxTransitions  = 10_000 // breakers whose transitions are kept
)

// Transition is one transition of a breaker, or a change of its override.
type Transition struct {
	At      time.Time     `json:"at"`
	From    breaker.State `json:"from"`
	To      breaker.State `json:"to"`
	Rule    breaker.Rule  `json:"rule"`
	Why     string        `json:"why"`
	Cause   string        `json:"cause,omitempty"`
	OpenFor time.Duration `json:"openFor,omitempty"`
	By      string        `json:"by,omitempty"` // author of the override in force at that time; "policy" for Enforcement
	// OverrideChanged is true if an override was set or cleared. Then From and To are equal, and Why names what is in
	// force.
	OverrideChanged bool `json:"overrideChanged,omitempty"`
}

// transitions keeps the last transitions of each breaker. It is a listener, so calls wait for it. Therefore its lock is
// held only for some tens of nanoseconds, and never while the page is rendered.
type transitions struct {
	mu    sync.Mutex
	byKey map[breaker.Key]*recent // guarded by mu
}

// recent is a ring of the last transitions of one breaker.
type recent struct {
	ring [keptTransitions]Transition
	n    int // of all transitions so far
}

func (ts *transitions) listen(_ context.Context, e breaker.Event) {
	t := Transition{
		At: e.At.Round(0), From: e.From, To: e.To, Rule: e.Rule,
		Why: e.Why, Cause: e.Cause, OpenFor: e.OpenFor, By: e.Override.By,
		OverrideChanged: e.OverrideChanged,
	}
	if e.OverrideChanged && e.Override.Mode != 0 {
		t.Why += ": " + e.Override.Mode.String() + " by " + e.Override.By + ", " + e.Override.Why
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	r := ts.byKey[e.Key]
	if r == nil {
		if len(ts.byKey) >= maxTransitions {
			for k := range ts.byKey { // any breaker: finding the oldest would take time, and only the bound matters
				delete(ts.byKey, k)
				break
			}
		}
		r = new(recent)
		ts.byKey[e.Key] = r
	}
	r.ring[r.n%keptTransitions] = t
	r.n++
}

// of returns the last transitions of the breaker of k, the newest first.
func (ts *transitions) of(k breaker.Key) []Transition {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	r := ts.byKey[k]
	if r == nil {
		return nil
	}
	list := make([]Transition, 0, keptTransitions)
	for i := r.n - 1; i >= max(0, r.n-keptTransitions); i-- {
		list = append(list, r.ring[i%keptTransitions])
	}
	return slices.Clip(list)
}
