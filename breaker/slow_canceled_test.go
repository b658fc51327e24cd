package breaker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A call that its caller canceled after more than SlowCall is a slow call. Its outcome is still ignored.
func TestB06_SlowCanceledCalls(t *testing.T) {
	const s = time.Second
	slow := Config{SlowCall: s, MinCalls: 10}
	probing := []row{{0, "trip", "open"}}
	half := func(rows ...row) []row { return append(probing[:1:1], rows...) }
	for _, tt := range []struct {
		name string
		cfg  Config
		rows []row
		want Counts // of the window, if the breaker is closed
	}{
		{"ten canceled", slow, []row{
			{0, "canceled~2s*5", "closed"},
			{s, "canceled~2s*4", "closed"},
			{s, "canceled~2s", "open"},
		}, Counts{}},
		{
			"ten canceled before SlowCall", slow,
			[]row{{0, "canceled~1s*10", "closed"}, {s, "canceled~1s*10", "closed"}},
			Counts{},
		},
		{"ten calls are ignored for another reason", slow, []row{
			{0, "ignored~2s*10", "closed"},
			{s, "ignored~2s*10", "closed"},
		}, Counts{}},
		{"the slow rule is off", Config{MinCalls: 10}, []row{
			{0, "canceled~2s*10", "closed"},
			{s, "canceled~2s*10", "closed"},
		}, Counts{}},
		{"they count in the denominator too", slow, []row{
			{0, "success*2 canceled~2s*5", "closed"},
			{s, "success*3 canceled~2s*2", "closed"},
			{s, "canceled~2s", "open"},
		}, Counts{}},
		{
			"most calls are fast", slow,
			[]row{{0, "success*11 canceled~2s*5", "closed"}, {s, "canceled~2s*5", "closed"}},
			Counts{Successes: 11, Slow: 10, SlowCanceled: 10},
		},
		{
			"they do not count in the failure ratio", slow,
			[]row{{0, "failure*4 canceled~2s*1 success*11", "closed"}, {s, "canceled~2s failure*4", "closed"}},
			Counts{Successes: 11, Failures: 8, Slow: 2, SlowCanceled: 2, ConsecutiveFailures: 1},
		},
		{"they neither count in nor end a failure streak", Config{SlowCall: s, FailureRatio: -1, SlowRatio: 1}, []row{
			{0, "failure", "closed"},
			{300 * ms, "failure canceled~2s", "closed"},
			{600 * ms, "failure", "closed"},
			{900 * ms, "failure", "closed"},
			{1000 * ms, "canceled~2s", "closed"},
			{1100 * ms, "failure", "open"},
		}, Counts{}},
		{"in one instant", slow, []row{{0, "canceled~2s*100", "closed"}}, Counts{Slow: 100, SlowCanceled: 100}},
		{"a probe", slow, half(row{s, "canceled~2s", "probe open"}), Counts{}},
		{"a probe that was not slow", slow, half(row{s, "canceled~1s", "probe half_open"}), Counts{}},
		{"a probe, the slow rule off", Config{}, half(row{s, "canceled~2s", "probe half_open"}), Counts{}},
		{"a lost probe ends the successes in a row", slow, half(
			row{s, "begin:1", "probe half_open"}, row{11 * s, "success end:1=canceled~10s success", "probe*2 half_open"},
			row{11 * s, "success", "probe closed"},
		), Counts{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tl := newDefaultTimeline(t, tt.cfg)
				tl.run(tt.rows...)
				s := tl.b.Snapshot()
				wantBalance(t, "in the end", s)
				wantSame(t, "window", s.Window, tt.want)
			})
		})
	}
}

func TestB06_B37_ASlowCanceledCallInTheTotals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := newDefaultTimeline(t, Config{SlowCall: time.Second})
		tl.run(
			row{0, "canceled~2s*3 canceled*2 trip", "open"},
			row{time.Second, "canceled~2s", "probe open"},
			row{2 * time.Second, "shadow canceled~2s clear", "open"}, // through an open breaker
		)
		s := tl.b.Snapshot()
		wantBalance(t, "in the end", s)
		if s.Ignored != 7 || s.SlowCalls != 5 || s.Probes.Failure != 1 || s.Probes.Ignored != 0 || s.Failures != 0 {
			t.Errorf("%d ignored, %d slow, probes %+v, %d failures; want 7, 5, one failed, 0", s.Ignored, s.SlowCalls, s.Probes,
				s.Failures)
		}
	})
}

// Do reports a call as canceled by its caller only if the context of the caller was canceled.
func TestB06_DoReportsWhoCanceled(t *testing.T) {
	for _, byCaller := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			tl := newDefaultTimeline(t, Config{SlowCall: time.Second, MinCalls: 3})
			for range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				_ = tl.b.Do(ctx, func(ctx context.Context) error {
					time.Sleep(2 * time.Second)
					if byCaller {
						cancel()
						return ctx.Err()
					}
					return context.Canceled
				})
				cancel()
			}
			if got, want := tl.b.Snapshot().Trips.Slow > 0, byCaller; got != want {
				t.Errorf("canceled by the caller: %v; opened: %v", byCaller, got)
			}
		})
	}
}
