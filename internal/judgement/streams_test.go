package judgement

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

var errDown = status.Error(codes.Unavailable, "down")

// eventLog records the events of the breakers of a group, with the time since the start of the run.
type eventLog struct {
	began time.Time

	mu     sync.Mutex
	events []breaker.Event // guarded by mu
}

// newGuard returns a guard whose group has the given Config, and the eventLog of the group. It must run in a bubble.
func newGuard(t *testing.T, cfg breaker.Config, opts ...interceptor.Option) (*interceptor.Guard, *eventLog) {
	t.Helper()
	d := &eventLog{began: time.Now()}
	group, err := breaker.NewGroup(cfg, breaker.WithListener(func(_ context.Context, e breaker.Event) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.events = append(d.events, e)
	}))
	if err != nil {
		t.Fatal(err)
	}
	g, err := interceptor.New(group, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return g, d
}

func (d *eventLog) all() []breaker.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events)
}

// opened returns the transitions to Open.
func (d *eventLog) opened() []breaker.Event {
	return slices.DeleteFunc(d.all(), func(e breaker.Event) bool { return e.To != breaker.Open })
}

// String returns the first events, one on each line.
func (d *eventLog) String() string {
	const most = 40
	var text strings.Builder
	for i, e := range d.all() {
		if i == most {
			text.WriteString("\n  …")
			break
		}
		fmt.Fprintf(&text, "\n  %9.3f s: %v to %v, %s (open for %v)", e.At.Sub(d.began).Seconds(), e.From, e.To, e.Why,
			e.OpenFor)
	}
	return text.String()
}

// only returns the guard's single breaker.
func only(t *testing.T, g *interceptor.Guard) *breaker.Breaker {
	t.Helper()
	if n := g.Group().Len(); n != 1 {
		t.Fatalf("the group has %d breakers, want 1", n)
	}
	for _, b := range g.Group().All() {
		return b
	}
	panic("unreachable")
}

// presence records which watches are open at the servers. The text of a watch's request is its number.
type presence struct {
	mu    sync.Mutex
	open  map[string]int       // guarded by mu
	ended map[string]time.Time // guarded by mu
	away  []time.Duration      // guarded by mu; from the end of each watch to its next start
}

func newPresence() *presence {
	return &presence{open: make(map[string]int), ended: make(map[string]time.Time)}
}

func (p *presence) enter(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[id]++
	if ended, ok := p.ended[id]; ok && p.open[id] == 1 {
		p.away = append(p.away, time.Since(ended))
		delete(p.ended, id)
	}
}

func (p *presence) leave(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[id]--; p.open[id] == 0 {
		delete(p.open, id)
		p.ended[id] = time.Now()
	}
}

// count returns the number of open watches.
func (p *presence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

func (p *presence) gaps() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.away)
}

// watching returns a script whose server streams send a message at once and then each period, until their context ends.
// If period is 0 they send no message.
func (p *presence) watching(period time.Duration) testpb.Script {
	return testpb.Script{OnServerStream: func(req *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
		p.enter(req.GetText())
		defer p.leave(req.GetText())
		if period == 0 {
			<-s.Context().Done()
			return s.Context().Err()
		}
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			if err := s.Send(new(testpb.Response)); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
	}}
}

// watcher is a client with one watch, which it opens again whenever it ends.
type watcher struct {
	client testpb.TestClient
	id     int
	retry  time.Duration // pause after the end of a watch; after a rejection at least 1 ms

	// Written by run. While run runs, call synctest.Wait before reading them.
	ended    int // completed attempts that were not rejected
	rejected int
	messages int
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := w.retry
		err := w.watch(ctx)
		if interceptor.IsRejected(err) {
			w.rejected++
			pause = max(pause, time.Millisecond)
		} else {
			w.ended++
		}
		time.Sleep(pause)
	}
}

func (w *watcher) watch(ctx context.Context) error {
	s, err := w.client.ServerStream(ctx, &testpb.Request{Text: strconv.Itoa(w.id)})
	for err == nil {
		if _, err = s.Recv(); err == nil {
			w.messages++
		}
	}
	return err
}

// A watch outlives many connections. Its end with each of them is no failure of the backend, with or without messages.
func TestS02_WatchesSurviveConnectionRotation(t *testing.T) {
	const (
		length  = 12 * time.Hour
		age     = 30 * time.Minute
		watches = 10
	)
	for _, tt := range []struct {
		name   string
		period time.Duration // between messages; 0: not even a header is sent
		grace  time.Duration // for the streams of a connection that is too old; 0: no limit
	}{
		{"a message a minute, a grace of 10 s", time.Minute, 10 * time.Second},
		{"no message, a grace of 10 s", 0, 10 * time.Second},
		{"a message a minute, a grace of 1 s", time.Minute, time.Second},
		{"no message, a grace of 1 s", 0, time.Second},
		{"a message a minute, an endless grace", time.Minute, 0},
		{"no message, an endless grace", 0, 0},
	} {
		for _, n := range []int{1, watches} {
			synctest.Test(t, func(t *testing.T) {
				g, d := newGuard(t, breaker.Config{})
				srv, p := new(testpb.Server), newPresence()
				srv.Set(p.watching(tt.period))
				backend := testpb.StartBufconn(t, srv,
					grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: age, MaxConnectionAgeGrace: tt.grace}))
				client := testpb.NewTestClient(backend.Dial(t, g.DialOptions()...))

				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				all := make([]*watcher, n)
				for i := range all {
					all[i] = &watcher{client: client, id: i}
					wg.Go(func() { all[i].run(ctx) })
					time.Sleep(time.Minute)
				}
				time.Sleep(length)
				b := only(t, g)
				if got := p.count(); got != n {
					t.Errorf("%d watches, %s: %d are open at the end", n, tt.name, got)
				}
				before := b.Snapshot() // without the end of the run
				cancel()
				wg.Wait()

				var sum watcher
				for _, w := range all {
					sum.ended += w.ended
					sum.rejected += w.rejected
					sum.messages += w.messages
				}
				t.Logf("%d watches, %s: opened %d times, %d rejected, %d messages; %d successes, %d failures, %d ignored",
					n, tt.name, sum.ended, sum.rejected, sum.messages, before.Successes, before.Failures, before.Ignored)
				if sum.rejected > 0 || before.Failures > 0 || len(d.all()) > 0 {
					t.Errorf("%d watches, %s: %d rejections and %d failures, want none; the breaker:%v",
						n, tt.name, sum.rejected, before.Failures, d)
				}
				if rotations := int(length / age); tt.grace > 0 && sum.ended < n*(rotations-4) {
					t.Errorf("%d watches, %s: opened %d times, want about %d a watch: the test shows nothing",
						n, tt.name, sum.ended, rotations)
				}
				if want := int(length/time.Minute) * n; tt.period > 0 && sum.messages < want {
					t.Errorf("%d watches, %s: %d messages, want %d or more", n, tt.name, sum.messages, want)
				}
			})
		}
	}
}

// Quiet watches are all open within 30 s after an outage in which they were refused. None of them ever reports a
// success: the breaker closes because the stream of a probe remains open.
func TestS14_QuietWatchesAreBackAfterAnOutage(t *testing.T) {
	const (
		watches = 200
		bound   = 30 * time.Second
		long    = 15 * time.Minute
	)
	for _, tt := range []struct {
		outage time.Duration
		step   bool // whether all clients retry at the same instants
	}{
		{time.Minute, false},
		{time.Minute, true},
		{10 * time.Minute, false},
		{10 * time.Minute, true},
	} {
		var slowest, slowestClosed time.Duration
		for run := range size(20, 2) {
			synctest.Test(t, func(t *testing.T) {
				rng := newRand(run)
				g, d := newGuard(t, breaker.Config{})
				srv, p := new(testpb.Server), newPresence()
				down, fail := context.WithCancel(t.Context())
				phases := make(map[string]time.Duration) // written before the clients begin
				for i := range watches {
					if !tt.step {
						phases[strconv.Itoa(i)] = time.Duration(rng.Int64N(int64(time.Second)))
					}
				}
				quiet := func(req *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
					p.enter(req.GetText())
					defer p.leave(req.GetText())
					select {
					case <-down.Done():
						time.Sleep(phases[req.GetText()]) // so that the clients keep their phases
						return errDown
					case <-s.Context().Done():
						return s.Context().Err()
					}
				}
				srv.Set(testpb.Script{OnServerStream: quiet})
				client := testpb.NewTestClient(testpb.Bufconn(t, srv, g.DialOptions()...))
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				all := make([]*watcher, watches)
				for i := range all {
					all[i] = &watcher{client: client, id: i, retry: time.Second}
					wg.Go(func() { all[i].run(ctx) })
				}
				time.Sleep(long)
				if got := p.count(); got != watches {
					t.Fatalf("%d watches are open before the outage, want %d", got, watches)
				}
				srv.Set(testpb.Script{OnServerStream: func(*testpb.Request, grpc.ServerStreamingServer[testpb.Response]) error {
					return errDown
				}})
				fail()
				time.Sleep(tt.outage + time.Duration(rng.Int64N(int64(10*time.Second))))
				if d.opened() == nil {
					t.Errorf("outage of %v: the breaker did not open: the test shows nothing", tt.outage)
				}
				down, fail = context.WithCancel(t.Context())
				defer fail()
				srv.Set(testpb.Script{OnServerStream: quiet})
				healed := time.Now()
				for p.count() < watches && time.Since(healed) < 10*time.Minute {
					time.Sleep(100 * time.Millisecond)
				}
				back := time.Since(healed)
				slowest = max(slowest, back)
				b := only(t, g)
				for b.State() != breaker.Closed && time.Since(healed) < 10*time.Minute {
					time.Sleep(100 * time.Millisecond)
				}
				closed := time.Since(healed)
				slowestClosed = max(slowestClosed, closed)
				if back > bound || closed > bound {
					t.Errorf("outage of %v: all are back after %v, the breaker is closed after %v, want at most %v;%v",
						tt.outage, back, closed, bound, d)
				}
				events := len(d.all())
				time.Sleep(time.Hour)
				if len(d.all()) != events || p.count() != watches {
					t.Errorf("outage of %v: an hour later %d watches are open and the breaker is %v;%v",
						tt.outage, p.count(), b.State(), d)
				}
				cancel()
				wg.Wait()
			})
		}
		t.Logf("outage of %v, retries in step %v: at most %v until all %d watches are back", tt.outage, tt.step, slowest,
			watches)
	}
}

// If a backend sends a first message on each stream and then breaks it, every probe succeeds. The backend still gets
// only a small share of the streams, because the open period grows.
func TestS08_BackendThatBreaksStreamsAfterTheirFirstMessageIsBackedOff(t *testing.T) {
	const (
		outage  = 10 * time.Minute
		gap     = 100 * time.Millisecond
		mostAre = 1200 // of 6 000
	)
	for _, tt := range []struct {
		name string
		lag  func(run int) func() time.Duration // from the first message to the break
	}{
		{"at once", func(int) func() time.Duration { return func() time.Duration { return 0 } }},
		{"after 50 ms", func(int) func() time.Duration { return func() time.Duration { return 50 * time.Millisecond } }},
		{"after 100 ms", func(int) func() time.Duration { return func() time.Duration { return 100 * time.Millisecond } }},
		{"after up to 100 ms", func(run int) func() time.Duration {
			rng := newRand(run)
			var mu sync.Mutex
			return func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(rng.Int64N(int64(100 * time.Millisecond)))
			}
		}},
	} {
		for _, poissonian := range []bool{false, true} {
			var most int
			for run := range size(10, 3) {
				synctest.Test(t, func(t *testing.T) {
					g, d := newGuard(t, breaker.Config{})
					srv := new(testpb.Server)
					lag := tt.lag(run)
					srv.Set(testpb.Script{OnServerStream: func(
						_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
					) error {
						if err := s.Send(new(testpb.Response)); err != nil {
							return err
						}
						time.Sleep(lag())
						return errDown
					}})
					client := testpb.NewTestClient(testpb.Bufconn(t, srv, g.DialOptions()...))
					next := every(gap)
					if poissonian {
						next = poisson(newRand(run), gap)
					}
					var wg sync.WaitGroup
					began, asked := time.Now(), 0
					for at := next(); at < outage; at += next() {
						time.Sleep(at - time.Since(began))
						asked++
						wg.Go(func() { _ = list(t.Context(), client) })
					}
					wg.Wait()
					reached := srv.Received(testpb.Test_ServerStream_FullMethodName)
					most = max(most, reached)
					var longest time.Duration
					for _, e := range d.opened() {
						longest = max(longest, e.OpenFor)
					}
					if reached > mostAre {
						t.Errorf("broken %s: %d of %d streams reach the backend, want at most %d;%v",
							tt.name, reached, asked, mostAre, d)
					}
					if longest < 10*time.Second {
						t.Errorf("broken %s: the longest open period is %v, want MaxOpenFor, 10s;%v", tt.name, longest, d)
					}
				})
			}
			t.Logf("broken %s, independent streams %v: at most %d of about %d streams reach the backend",
				tt.name, poissonian, most, outage/gap)
		}
	}
}

// list reads a stream to its end.
func list(ctx context.Context, client testpb.TestClient) error {
	s, err := client.ServerStream(ctx, new(testpb.Request))
	if err != nil {
		return err
	}
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A List call that stalls until its deadline each time opens the breaker, even if its first page arrived.
func TestS13_StallingListsOpen(t *testing.T) {
	const (
		deadline = 5 * time.Second
		length   = 2 * time.Minute
	)
	for _, pages := range []int{0, 1} {
		for _, perSecond := range []int{0, 1, 4} {
			name := fmt.Sprintf("%d/s, stalling after %d pages", perSecond, pages)
			if perSecond == 0 {
				name = fmt.Sprintf("one at a time, stalling after %d pages", pages)
			}
			synctest.Test(t, func(t *testing.T) {
				g, d := newGuard(t, breaker.Config{})
				srv := new(testpb.Server)
				srv.Set(testpb.Script{OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
					for range pages {
						if err := s.Send(new(testpb.Response)); err != nil {
							return err
						}
					}
					<-s.Context().Done()
					return s.Context().Err()
				}})
				client := testpb.NewTestClient(testpb.Bufconn(t, srv, g.DialOptions()...))
				call := func() {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					defer cancel()
					_ = list(ctx, client)
				}
				var wg sync.WaitGroup
				for time.Since(d.began) < length && d.opened() == nil {
					if perSecond == 0 {
						call()
						continue
					}
					wg.Go(call)
					time.Sleep(time.Second / time.Duration(perSecond))
				}
				if opened := d.opened(); opened == nil {
					t.Errorf("%s: the breaker is %v after %v, want open", name, only(t, g).State(), length)
				} else {
					t.Logf("%s: opened after %v, %s", name, opened[0].At.Sub(d.began), opened[0].Why)
				}
				wg.Wait()
			})
		}
	}
}

// A cut connection does not cancel the success of the pages that arrived before it. Such List calls never form a
// failure streak.
func TestS13_ListsCutAfterTheirFirstPageDoNotOpen(t *testing.T) {
	const length = 10 * time.Minute
	for _, tt := range []struct {
		name string
		gap  time.Duration
		cut  int // one of so many List calls is cut
	}{
		{"one in 2 s, all cut", 2 * time.Second, 1},
		{"4/s, one of three cut", 250 * time.Millisecond, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			g, d := newGuard(t, breaker.Config{})
			srv := new(testpb.Server)
			dial := new(cutter)
			srv.Set(testpb.Script{OnServerStream: func(
				req *testpb.Request, s grpc.ServerStreamingServer[testpb.Response],
			) error {
				if err := s.Send(new(testpb.Response)); err != nil {
					return err
				}
				if req.GetCount() == 0 {
					return nil
				}
				time.Sleep(50 * time.Millisecond)
				dial.cut()
				<-s.Context().Done()
				return s.Context().Err()
			}})
			backend := testpb.StartBufconn(t, srv)
			dial.dial = backend.DialContext
			client := testpb.NewTestClient(backend.Dial(t, append(g.DialOptions(), grpc.WithContextDialer(dial.context))...))
			failed := 0
			for n := 0; time.Since(d.began) < length; n++ {
				req := new(testpb.Request)
				if n%tt.cut == 0 {
					req.Count = 1
				}
				s, err := client.ServerStream(t.Context(), req)
				pages := 0
				for ; err == nil; pages++ {
					_, err = s.Recv()
				}
				if status.Code(err) == codes.Unavailable && pages == 2 { // the second page has failed
					failed++
				}
				time.Sleep(tt.gap - 50*time.Millisecond)
			}
			s := only(t, g).Snapshot()
			t.Logf("%s: %d cut after a page, %d successes, %d failures, trips %+v",
				tt.name, failed, s.Successes, s.Failures, s.Trips)
			if len(d.all()) > 0 {
				t.Errorf("%s: the breaker opened:%v", tt.name, d)
			}
			if failed < 200 {
				t.Errorf("%s: %d Lists were cut after a page: the test shows nothing", tt.name, failed)
			}
		})
	}
}

// cutter dials, and can cut the last connection.
type cutter struct {
	dial func(ctx context.Context, addr string) (net.Conn, error)

	mu   sync.Mutex
	last net.Conn // guarded by mu
}

func (c *cutter) context(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := c.dial(ctx, addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = conn
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	conn := c.last
	c.mu.Unlock()
	_ = conn.Close()
}
