package speed

import (
	"slices"
	"testing"
	"time"
)

// TestEveryCase runs each benchmark's work and check some times, so that a benchmark that no longer works fails a test.
func TestEveryCase(t *testing.T) {
	for _, p := range Peers() {
		for _, c := range p.Cases {
			t.Run(p.Name+"/"+string(c.Work)+"/"+c.Form, func(t *testing.T) {
				j, err := c.New()
				if err != nil {
					t.Fatal(err)
				}
				defer j.Close()
				const calls = 200
				if err := j.Check(calls, loop(j, 0, times(calls))); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func times(n int) func() bool {
	return func() bool {
		n--
		return n >= 0
	}
}

// TestEveryWork checks that a library gives a reason for each work that it cannot do, and only for those.
func TestEveryWork(t *testing.T) {
	for _, p := range Peers() {
		for _, w := range Works {
			has := slices.ContainsFunc(p.Cases, func(c Case) bool { return c.Work == w })
			if _, lacks := p.Lacks[w]; has && lacks {
				t.Errorf("%s has %s, and also a reason why it lacks it", p.Name, w)
			}
		}
	}
}

// TestCheck uses breakers that do not do their work, which a benchmark must not measure.
func TestCheck(t *testing.T) {
	none := func() uint64 { return 0 }
	honest := func(run func() error) func() error { return run }
	idle := func(func() error) func() error { return func() error { return nil } }
	for _, tt := range []struct {
		name       string
		work       Work
		wrap       func(func() error) func() error
		want       error
		counted    func() uint64
		unexpected uint64
		ok         bool
	}{
		{name: "admits", work: Success, wrap: honest, ok: true},
		{name: "some calls returned a wrong result", work: Success, wrap: honest, unexpected: 1},
		{name: "does not run the function", work: Success, wrap: idle},
		{name: "counts nothing", work: Success, wrap: honest, counted: none},
		{name: "rejects instead of admitting", work: Success, wrap: rejecting(nil)},
		{name: "rejects", work: Open, wrap: rejecting(nil), want: errRejected, ok: true},
		{name: "counts no rejections", work: Open, wrap: rejecting(nil), want: errRejected, counted: none, ok: true},
		{name: "runs the function and rejects", work: Open, wrap: rejecting(succeed), want: errRejected},
		{name: "admits instead of rejecting", work: Open, wrap: honest, want: errRejected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &Job{Work: tt.work, Call: tt.wrap(succeed), Want: tt.want, guard: &guard{counted: tt.counted}}
			if err := j.Check(100, tt.unexpected); (err == nil) != tt.ok {
				t.Errorf("Check: %v", err)
			}
		})
	}
}

// rejecting returns a breaker that rejects each call. If first is not nil, it runs first before it rejects.
func rejecting(first func() error) func(func() error) func() error {
	return func(func() error) func() error {
		return func() error {
			if first != nil {
				_ = first()
			}
			return errRejected
		}
	}
}

// TestSetUpFails uses breakers that cannot be brought into the state that the work needs.
func TestSetUpFails(t *testing.T) {
	never := func(settings) (*guard, error) {
		return &guard{wrap: func(run func() error) func() error { return run }}, nil
	}
	if _, err := newJob(Open, never); err == nil {
		t.Error("no error for a breaker that never opens")
	}
	// It opens at the first failure, and admits every call while half-open.
	uncapped := func(s settings) (*guard, error) {
		var opened time.Time
		return &guard{wrap: func(run func() error) func() error {
			return func() error {
				if !opened.IsZero() && time.Since(opened) < s.openFor {
					return errRejected
				}
				err := run()
				if err != nil {
					opened = time.Now()
				}
				return err
			}
		}}, nil
	}
	if _, err := newJob(HalfOpen, uncapped); err == nil {
		t.Error("no error for a breaker that bounds no probes")
	}
}
