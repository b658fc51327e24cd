package judgement

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// comeback describes how one client recovered after an outage in which no client could connect.
type comeback struct {
	after    time.Duration // from the end of the outage to the first call that succeeded
	failed   int           // calls in that time that were sent and failed
	dials    int           // attempts to connect during the outage
	probes   uint64        // during the outage
	longest  time.Duration // the longest duration of a call during the outage
	eventLog *eventLog
}

// guards are the three clients of the tests of grpc's back-off and the breaker's.
var guards = []struct {
	name    string
	guarded bool
	opts    []interceptor.Option
}{
	{"no guard", false, nil},
	{"a guard", true, nil},
	{"a guard and WithConnectionReset(1s)", true, []interceptor.Option{interceptor.WithConnectionReset(time.Second)}},
}

// comeBack makes one fail-fast call each gap, before, during and after an outage of the given length. Calls do not wait
// for each other.
func comeBack(
	t *testing.T, guarded bool, opts []interceptor.Option, gap, length time.Duration, dial ...grpc.DialOption,
) (c comeback) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		backend := testpb.StartBufconn(t, new(testpb.Server))
		var dials atomic.Int64
		dial = append(slices.Clone(dial), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			dials.Add(1)
			return backend.DialContext(ctx, addr)
		}))
		g, d := newGuard(t, breaker.Config{}, opts...)
		if guarded {
			dial = append(dial, g.DialOptions()...)
		}
		client := testpb.NewTestClient(backend.Dial(t, dial...))
		var (
			mu     sync.Mutex
			wg     sync.WaitGroup
			healed time.Time
			back   bool
		)
		call := func() {
			began := time.Now()
			_, err := client.Unary(t.Context(), new(testpb.Request))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case healed.IsZero():
				c.longest = max(c.longest, time.Since(began))
			case err == nil && !back:
				back = true
				c.after = time.Since(healed)
			case err != nil && !back && !began.Before(healed) && !interceptor.IsRejected(err):
				c.failed++
			}
		}
		calls := func(until func() bool) {
			for !until() {
				wg.Go(call)
				time.Sleep(gap)
			}
		}
		after := func(d time.Duration) func() bool {
			end := time.Now().Add(d)
			return func() bool { return !time.Now().Before(end) }
		}
		calls(after(warmUp))
		backend.Stop()
		was := dials.Load()
		calls(after(length))
		c.dials = int(dials.Load() - was)
		if guarded {
			s := only(t, g).Snapshot()
			c.probes = s.Probes.Success + s.Probes.Failure + s.Probes.Ignored + s.Probes.Lost
		}
		backend.Restart()
		mu.Lock()
		healed = time.Now()
		mu.Unlock()
		calls(func() bool {
			mu.Lock()
			defer mu.Unlock()
			return back || time.Since(healed) > 10*time.Minute
		})
		wg.Wait()
		if !back {
			t.Errorf("no call succeeded within 10 minutes;%v", d)
		}
		c.eventLog = d
	})
	return c
}

// The breaker and grpc's connection back-off have separate timers. After ten minutes of outage grpc waits for up to two
// minutes before it connects again, so a fail-fast probe fails without a connection attempt. With WithConnectionReset,
// probes make grpc connect.
func TestG14_ConnectionResetEndsTheWaitForGRPC(t *testing.T) {
	check := func(t *testing.T, name string, c comeback, within time.Duration) {
		t.Helper()
		if c.after > within || c.failed > 0 {
			t.Errorf("%s: first success after %v and %d calls that failed, want at most %v and none;%v",
				name, c.after, c.failed, within, c.eventLog)
		}
	}
	const (
		gap    = time.Second
		length = 10 * time.Minute
		within = 15 * time.Second // with the reset
		beyond = 30 * time.Second // without the reset
	)
	// The source of grpc's jitter cannot be seeded. Without jitter grpc connects after 1, 1.6, 2.56 s and so on, and the
	// outage ends during a wait of two minutes.
	connect := backoff.DefaultConfig
	connect.Jitter = 0
	unjittered := grpc.WithConnectParams(grpc.ConnectParams{Backoff: connect, MinConnectTimeout: 20 * time.Second})
	for _, tt := range guards {
		resets := tt.opts != nil
		c := comeBack(t, tt.guarded, tt.opts, gap, length, unjittered)
		t.Logf("%s, grpc without jitter: first success after %v; in the outage %d dials, %d probes, the longest call %v",
			tt.name, c.after, c.dials, c.probes, c.longest)
		if resets {
			check(t, tt.name, c, within)
		}
		if !resets && c.after <= beyond {
			t.Errorf("%s: first success after %v, want more than %v: the test shows nothing", tt.name, c.after, beyond)
		}
	}
	for _, tt := range guards {
		var after []time.Duration
		var dials, probes int
		runs := size(100, 10)
		for range runs {
			c := comeBack(t, tt.guarded, tt.opts, gap, length)
			if tt.opts != nil {
				check(t, tt.name, c, within)
			}
			after = append(after, c.after)
			dials += c.dials
			probes += int(c.probes)
		}
		slices.Sort(after)
		t.Logf("%s, %d runs: first success after %v (median; %v to %v); in the outage %.1f attempts to connect, %.1f probes",
			tt.name, runs, after[runs/2], after[0], after[runs-1], share(dials, runs), share(probes, runs))
	}
}

// restarts describes a day of one watch whose server restarts once an hour.
type restarts struct {
	away     []time.Duration // for each restart, from the end of the watch to the start of the next
	attempts int             // without rejections
	eventLog *eventLog
}

// liveThroughRestarts also checks that the breaker is closed before each restart.
func liveThroughRestarts(
	t *testing.T, cfg breaker.Config, opts []interceptor.Option, period, retry time.Duration, times int,
	dial ...grpc.DialOption,
) (r restarts) {
	t.Helper()
	const (
		every = time.Hour
		away  = 2500 * time.Millisecond
	)
	synctest.Test(t, func(t *testing.T) {
		g, d := newGuard(t, cfg, opts...)
		srv, p := new(testpb.Server), newPresence()
		srv.Set(p.watching(period))
		backend := testpb.StartBufconn(t, srv)
		w := &watcher{client: testpb.NewTestClient(backend.Dial(t, append(g.DialOptions(), dial...)...)), retry: retry}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.run(ctx) })
		for n := range times {
			time.Sleep(every - away - time.Minute)
			b := only(t, g)
			if got := b.State(); got != breaker.Closed || p.count() != 1 {
				t.Errorf("before restart %d the breaker is %v, and %d watches are open;%v", n+1, got, p.count(), d)
			}
			backend.Stop()
			time.Sleep(away)
			backend.Restart()
			time.Sleep(30 * time.Second)
			if got := b.State(); got != breaker.Closed {
				t.Errorf("30 s after restart %d the breaker is %v;%v", n+1, got, d)
			}
			time.Sleep(30 * time.Second)
		}
		synctest.Wait()
		r = restarts{away: p.gaps(), attempts: w.ended, eventLog: d}
		cancel()
		wg.Wait()
	})
	return r
}

func meanOf(all []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	return sum / time.Duration(len(all))
}

// A watch whose server restarts every hour works again within seconds each time, also at the end of a day. Earlier
// restarts have no effect on later ones.
func TestS14_WatchIsBackSoonAfterEachRestart(t *testing.T) {
	const (
		times = 24
		bound = 6 * time.Second
	)
	connect := backoff.DefaultConfig
	connect.Jitter = 0
	unjittered := grpc.WithConnectParams(grpc.ConnectParams{Backoff: connect, MinConnectTimeout: 20 * time.Second})
	reset := []interceptor.Option{interceptor.WithConnectionReset(time.Second)}
	longer := []interceptor.Option{interceptor.WithConnectionReset(1500 * time.Millisecond)}
	for _, tt := range []struct {
		name   string
		opts   []interceptor.Option
		retry  time.Duration
		period time.Duration
	}{
		{"every 500 ms, no message", nil, 500 * time.Millisecond, 0},
		{"every 500 ms, a message a minute", nil, 500 * time.Millisecond, time.Minute},
		{"every 100 ms with a reset, no message", reset, 100 * time.Millisecond, 0},
		{"every 100 ms with a reset, a message a minute", reset, 100 * time.Millisecond, time.Minute},
		// Longer than the second after which grpc connects again when it was reset.
		{"every 100 ms with a reset and a wait of 1.5 s, no message", longer, 100 * time.Millisecond, 0},
	} {
		// Without jitter each restart must take as long as the first ones.
		r := liveThroughRestarts(t, breaker.Config{Jitter: -1}, tt.opts, tt.period, tt.retry, times, unjittered)
		if len(r.away) != times {
			t.Fatalf("%s: away %d times, want %d", tt.name, len(r.away), times)
		}
		t.Logf("retrying %s, without jitter: away %v to %v, first %v, last %v, %d attempts",
			tt.name, slices.Min(r.away), slices.Max(r.away), r.away[0], r.away[times-1], r.attempts)
		// grpc connects again one second after a reset, which is also when the probe stops waiting. Some of the first
		// recoveries are therefore shorter.
		if first, last := slices.Max(r.away[:times/3]), slices.Max(r.away[times/3:]); last > first {
			t.Errorf("retrying %s, without jitter: away for up to %v at first, and for %v later;%v",
				tt.name, first, last, r.eventLog)
		}
		var all, begin, end []time.Duration
		trips := 0
		for range size(20, 4) {
			r := liveThroughRestarts(t, breaker.Config{}, tt.opts, tt.period, tt.retry, times)
			if len(r.away) != times {
				t.Fatalf("%s: away %d times, want %d", tt.name, len(r.away), times)
			}
			if most := slices.Max(r.away); most > bound {
				t.Errorf("retrying %s: away for %v, want at most %v: %v;%v", tt.name, most, bound, r.away, r.eventLog)
			}
			all, begin, end = append(all, r.away...), append(begin, r.away[:times/3]...), append(end, r.away[2*times/3:]...)
			trips += len(r.eventLog.opened())
		}
		t.Logf("retrying %s: away %v to %v, mean %v, of the first third %v, of the last %v; opened %d times in %d restarts",
			tt.name, slices.Min(all), slices.Max(all), meanOf(all), meanOf(begin), meanOf(end), trips, len(all))
		if b, e := meanOf(begin), meanOf(end); e > b+time.Second {
			t.Errorf("retrying %s: away for %v in the last third of the day, and for %v in the first", tt.name, e, b)
		}
	}
}
