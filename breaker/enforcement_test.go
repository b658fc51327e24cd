package breaker

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// Under EnforcementShadow no call is rejected, the state machine runs, and what would have been rejected is counted.
// Openings are shadow trips.
func TestB41_EnforcementShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		g := mustGroup(t, Config{Jitter: -1, Enforcement: EnforcementShadow, MaxConcurrent: 1}, WithListener(rec.Transition))
		b := g.Get(Key{Method: "m"})
		newTimeline(t, b).run(
			row{0, "failure*5 success*3", "open"},
			row{5 * time.Second, "begin:1 begin:2 end:1=success", "probe half_open"},
			row{6 * time.Second, "success end:2=success", "probe closed"},
			row{7 * time.Second, "begin:3 begin:4 end:3=success end:4=success", "closed"},
		)
		s := b.Snapshot()
		if s.Mode != Shadow || s.Override.Mode != 0 || s.Rejections.Total() != 0 {
			t.Errorf("mode %v, override %v, %d rejections, want shadow, none, none", s.Mode, s.Override.Mode, s.Rejections.Total())
		}
		if s.ShadowRejections.Open != 3 || s.ShadowRejections.HalfOpen != 1 || s.ShadowRejections.Concurrency != 1 {
			t.Errorf("shadow rejections: %+v", s.ShadowRejections)
		}
		wantSame(t, "trips", s.Trips, RuleCounts{})
		wantSame(t, "shadow trips", s.ShadowTrips, RuleCounts{Consecutive: 1})
		want := Override{Mode: Shadow, Why: "Config.Enforcement is shadow", By: "policy"}
		wantSame(t, "the event's override", rec.events[0].Override, want)
	})
}

// EnforcementOff admits everything, counts, and evaluates no rule.
func TestB41_EnforcementOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, Config{Enforcement: EnforcementOff, MaxConcurrent: 1})
		b := g.Get(Key{Method: "m"})
		newTimeline(t, b).run(row{0, "begin:1 failure*100 end:1=success", "closed"})
		if s := b.Snapshot(); s.Failures != 100 || s.Generation != 1 || s.Rejections.Total() != 0 || s.Mode != ForceClosed {
			t.Errorf("%d failures, generation %d, %d rejections, mode %v", s.Failures, s.Generation, s.Rejections.Total(), s.Mode)
		}
	})
}

// A change of the enforcement has effect at once, in any state, and does not change the state.
func TestB41_EnforcementIsReloadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mustGroup(t, Config{})
		apply := func(e Enforcement) {
			t.Helper()
			if err := g.Apply(Config{FailingFor: -1, Jitter: -1, Enforcement: e}); err != nil {
				t.Fatal(err)
			}
		}
		b := g.Get(Key{})
		b.Trip(t.Context(), "test")
		_ = mustReject(t, b)
		apply(EnforcementShadow)
		acquire(t, b).Done(t.Context(), Success)
		if s := b.Snapshot(); s.State != Open || !s.Ready || s.ShadowRejections.Open != 1 {
			t.Errorf("shadow: %v, ready: %v, %d shadow rejections; want open, true, 1", s.State, s.Ready, s.ShadowRejections.Open)
		}
		apply(EnforcementOff)
		acquire(t, b).Done(t.Context(), Failure)
		if s := b.Snapshot(); s.State != Closed || s.Underlying != Open || !s.Ready || b.State() != Closed {
			t.Errorf("off: %v, underlying %v, ready: %v; want closed, open, true", s.State, s.Underlying, s.Ready)
		}
		apply(EnforcementOn)
		_ = mustReject(t, b)
		if s := b.Snapshot(); s.Generation != 2 {
			t.Errorf("generation %d, want 2: a reload keeps the state", s.Generation)
		}
	})
}

// An override takes precedence over the enforcement, until it ends.
func TestB41_AnOverrideWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, e := range []Enforcement{EnforcementShadow, EnforcementOff} {
			b := mustNew(t, Config{Enforcement: e})
			setOverride(t, b, ForceOpen, time.Minute)
			wantRejection(t, mustReject(t, b), Open, ReasonForced)
			time.Sleep(time.Minute)
			acquire(t, b).Done(t.Context(), Success)
			if got := b.Snapshot().Mode; got != e.mode() {
				t.Errorf("after the override: mode %v, want %v", got, e.mode())
			}
		}
	})
}

// With each enforcement the closed path takes no lock and allocates nothing, and a breaker can be evicted.
func TestB41_EnforcementCostsNothing(t *testing.T) {
	for e := EnforcementOn; e <= EnforcementOff; e++ {
		b := mustNew(t, Config{Enforcement: e})
		if kind := b.phase.Load().kind; kind != admitPlain {
			t.Errorf("%v: the closed path is %d, want %d", e, kind, admitPlain)
		}
		if n := testing.AllocsPerRun(100, func() { acquire(t, b).Done(t.Context(), Success) }); n != 0 {
			t.Errorf("%v: a call allocates %v times", e, n)
		}
	}
	g := mustGroup(t, Config{Enforcement: EnforcementShadow}, WithMaxBreakers(1))
	g.Get(Key{Method: "a"})
	g.Get(Key{Method: "b"})
	if s := g.Stats(); s.Evictions != 1 {
		t.Errorf("%d evictions, want 1: an enforcement is not an override", s.Evictions)
	}
}

func TestEnforcementText(t *testing.T) {
	for e, want := range map[Enforcement]string{0: "", EnforcementOn: "enforce", EnforcementShadow: "shadow", EnforcementOff: "off", 9: "Enforcement(9)"} {
		if got := e.String(); got != want {
			t.Errorf("%d: got %q, want %q", e, got, want)
		}
		text, err := e.MarshalText()
		if (err == nil) != (e <= EnforcementOff) || err == nil && string(text) != want {
			t.Errorf("%d: MarshalText returned %q, %v", e, text, err)
		}
		var back Enforcement
		if err := back.UnmarshalText([]byte(want)); (err == nil) != (e <= EnforcementOff) || err == nil && back != e {
			t.Errorf("%q: UnmarshalText made %v, %v", want, back, err)
		}
	}
}

// A breaker whose policy has an enforcement does what a breaker with the corresponding override does, also with reloads
// in each state and with other overrides on top.
func TestB41_EnforcementIsLikeAnOverride(t *testing.T) {
	modes := map[Enforcement]Mode{EnforcementOn: 0, EnforcementShadow: Shadow, EnforcementOff: ForceClosed}
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 41))
			cfg := Config{
				ConsecutiveFailures: 2, FailingFor: -1, Jitter: -1, MinCalls: 4, OpenFor: 20 * ms, MaxOpenFor: 100 * ms,
				ProbeTimeout: 50 * ms, MaxProbes: 1 + r.IntN(2), SlowCall: time.Duration(r.IntN(2)) * 5 * ms,
				Ramp: time.Duration(r.IntN(2)) * 200 * ms, MaxConcurrent: r.IntN(2) * 4,
			}
			policy, override := mustGroup(t, cfg), mustGroup(t, cfg)
			a, b := policy.Get(Key{}), override.Get(Key{})
			enforcement, forced := EnforcementOn, Mode(0)
			set := func(b *Breaker, m Mode) {
				if b.ClearOverride(t.Context()); m != 0 {
					setOverride(t, b, m, 0)
				}
			}
			var permits [][2]Permit
			for step := range 150 {
				switch r.IntN(10) {
				case 0:
					enforcement = Enforcement(1 + r.IntN(3))
					c := cfg
					c.Enforcement = enforcement
					if err := policy.Apply(opensAtOnce(c)); err != nil {
						t.Fatal(err)
					}
				case 1:
					forced = Mode(r.IntN(4))
					set(a, forced)
				case 2:
					if r.IntN(3) == 0 {
						a.Trip(t.Context(), "test")
						b.Trip(t.Context(), "test")
					}
				case 3:
					if r.IntN(5) == 0 {
						a.Reset(t.Context())
						b.Reset(t.Context())
					}
				default:
					pa, errA := a.Acquire(t.Context())
					pb, errB := b.Acquire(t.Context())
					if (errA == nil) != (errB == nil) {
						t.Fatalf("seed %d, step %d: %v, with an override %v", seed, step, errA, errB)
					}
					if errA == nil {
						permits = append(permits, [2]Permit{pa, pb})
					}
				}
				if forced != 0 {
					set(b, forced)
				} else {
					set(b, modes[enforcement])
				}
				time.Sleep(time.Duration(r.IntN(15)) * ms)
				for len(permits) > r.IntN(5) {
					o := Outcome(r.IntN(4))
					permits[0][0].Done(t.Context(), o)
					permits[0][1].Done(t.Context(), o)
					permits = permits[1:]
				}
				got, want := a.Snapshot(), b.Snapshot()
				got.Override, want.Override = Override{}, Override{}
				got.Config, want.Config = Config{}, Config{}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d, %v, override %v:\n%+v\nwith an override\n%+v", seed, step, enforcement, forced, got, want)
				}
			}
		})
	}
}
