package e2e

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/tcpproxy"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick opens at the fifth failure, no matter how fast the failures come, and its open period is short enough for a
// test.
var quick = breaker.Config{
	ConsecutiveFailures: 5, FailingFor: -1, OpenFor: 100 * time.Millisecond, MaxOpenFor: 200 * time.Millisecond,
	Jitter: -1,
}

func newGuard(t *testing.T, cfg breaker.Config) *interceptor.Guard {
	t.Helper()
	group, err := breaker.NewGroup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := interceptor.New(group)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

// reconnecting shortens grpc's connection back-off, so that the tests wait for the breaker and not for grpc.
func reconnecting(guard *interceptor.Guard) []grpc.DialOption {
	return append(guard.DialOptions(), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}))
}

// only returns the guard's breaker, and fails the test if there is not exactly one.
func only(t *testing.T, guard *interceptor.Guard) *breaker.Breaker {
	t.Helper()
	if n := guard.Group().Len(); n != 1 {
		t.Fatalf("%d breakers, want 1", n)
	}
	for _, b := range guard.Group().All() {
		return b
	}
	return nil
}

func breakerFor(t *testing.T, guard *interceptor.Guard, target string) *breaker.Breaker {
	t.Helper()
	for key, b := range guard.Group().All() {
		if key.Target == target {
			return b
		}
	}
	t.Fatalf("no breaker for target %q", target)
	return nil
}

// call makes one unary call with a deadline.
func call(ctx context.Context, conn *grpc.ClientConn, limit time.Duration, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := testpb.NewTestClient(conn).Unary(ctx, &testpb.Request{Text: "hello"}, opts...)
	return err
}

// load makes calls from several goroutines, one every millisecond from each.
type load struct {
	stop func()
	mu   sync.Mutex
	ends map[codes.Code]int // without rejections
	shut int
}

func startLoad(t *testing.T, conn *grpc.ClientConn, workers int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{ends: map[codes.Code]int{}}
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				err := call(t.Context(), conn, 5*time.Second)
				l.mu.Lock()
				if interceptor.IsRejected(err) {
					l.shut++
				} else {
					l.ends[status.Code(err)]++
				}
				l.mu.Unlock()
				<-tick.C
			}
		})
	}
	l.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(l.stop)
	return l
}

func (l *load) count(c codes.Code) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[c]
}

func (l *load) rejected() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shut
}

// await waits until condition is true, and fails the test after 20 s of real time.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("after 20s still waiting until %s", what)
		}
	}
}

// checkSum checks the sum of the counts (B37). No call may be running.
func checkSum(t *testing.T, b *breaker.Breaker) breaker.Snapshot {
	t.Helper()
	s := b.Snapshot()
	if sum := s.Successes + s.Failures + s.Overloads + s.Ignored + s.Late; s.InFlight != 0 || s.Admitted != sum {
		t.Errorf("%d admitted, %d ended, %d in flight; want all of them ended: %+v", s.Admitted, sum, s.InFlight, s)
	}
	return s
}

func TestEndToEnd_ServerKilledAndRestartedUnderLoad(t *testing.T) {
	srv := new(testpb.Server)
	backend := testpb.StartTCP(t, srv)
	guard := newGuard(t, quick)
	conn := backend.Dial(t, reconnecting(guard)...)
	l := startLoad(t, conn, 4)
	await(t, "calls succeed", func() bool { return l.count(codes.OK) >= 100 })
	b := only(t, guard)

	backend.Stop()
	await(t, "the breaker opens", func() bool { return b.Snapshot().Trips.Total() > 0 })
	await(t, "calls are rejected", func() bool { return l.rejected() >= 50 })

	received, ok := srv.Total(), l.count(codes.OK)
	backend.Restart()
	await(t, "the breaker has closed again", func() bool { return b.Snapshot().Recoveries == 1 })
	await(t, "calls succeed again", func() bool { return l.count(codes.OK) >= ok+100 })
	l.stop()

	s := checkSum(t, b)
	if s.State != breaker.Closed {
		t.Errorf("state %v after the restart, want closed", s.State)
	}
	if got := srv.Total() - received; got < 100 {
		t.Errorf("the restarted server received %d calls, want 100 or more", got)
	}
	for code := range l.ends {
		if code != codes.OK && code != codes.Unavailable {
			t.Errorf("%d calls ended with %v, want nothing but OK and Unavailable", l.ends[code], code)
		}
	}
	if got, want := uint64(l.rejected()), s.Rejections.Total(); got != want {
		t.Errorf("callers saw %d rejections, the breaker counts %d", got, want)
	}
}

// timeOut makes calls that run into their deadline, until five of them are failures. On a busy machine a deadline may
// pass before the guard sees the call. Such a call does not reach the breaker (B24), so timeOut makes another one.
func timeOut(t *testing.T, guard *interceptor.Guard, conn *grpc.ClientConn, opts ...grpc.CallOption) {
	t.Helper()
	for i := range 100 {
		if err := call(t.Context(), conn, 30*time.Millisecond, opts...); status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("call %d: %v, want DeadlineExceeded", i, err)
		}
		s := only(t, guard).Snapshot()
		if s.Failures != s.Admitted {
			t.Fatalf("%d of %d admitted calls that ran into their deadline are failures", s.Failures, s.Admitted)
		}
		if s.Failures == 5 {
			return
		}
	}
	t.Fatal("100 calls have run into their deadline, and fewer than five of them are failures")
}

func TestEndToEnd_ServerAcceptsAndNeverAnswers(t *testing.T) {
	for _, tt := range []struct {
		name string
		dial func(t *testing.T, guard *interceptor.Guard) *grpc.ClientConn
	}{
		{"no HTTP/2", func(t *testing.T, guard *interceptor.Guard) *grpc.ClientConn {
			t.Helper()
			return dial(t, blackHole(t), guard.DialOptions()...)
		}},
		{"no reply", func(t *testing.T, guard *interceptor.Guard) *grpc.ClientConn {
			t.Helper()
			srv := new(testpb.Server)
			srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
				<-ctx.Done()
				return nil, status.FromContextError(ctx.Err()).Err()
			}})
			return testpb.StartTCP(t, srv).Dial(t, guard.DialOptions()...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := quick
			cfg.OpenFor, cfg.MaxOpenFor = time.Minute, time.Minute
			guard := newGuard(t, cfg)
			conn := tt.dial(t, guard)
			timeOut(t, guard, conn)
			start := time.Now()
			if err := call(t.Context(), conn, 10*time.Second); !interceptor.IsRejected(err) {
				t.Errorf("call after 5 that ran into their deadline: %v, want a rejection", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("the rejection took %v", d)
			}
			if s := checkSum(t, only(t, guard)); s.Failures != 5 || s.State != breaker.Open {
				t.Errorf("%d failures, %v; want 5, open", s.Failures, s.State)
			}
		})
	}
}

func TestEndToEnd_GoAwayWhileCallsAreInFlight(t *testing.T) {
	const inFlight = 10
	srv := new(testpb.Server)
	release := make(chan struct{})
	srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
		<-release
		return &testpb.Response{}, nil
	}})
	backend := testpb.StartTCP(t, srv)
	released := sync.OnceFunc(func() { close(release) })
	t.Cleanup(released)
	cfg := quick
	cfg.OpenFor, cfg.MaxOpenFor = time.Minute, time.Minute
	guard := newGuard(t, cfg)
	conn := backend.Dial(t, reconnecting(guard)...)

	ends := make(chan error, inFlight)
	for range inFlight {
		go func() { ends <- call(t.Context(), conn, 20*time.Second) }()
	}
	await(t, "all calls are at the server", func() bool { return srv.Total() == inFlight })
	var stopping sync.WaitGroup
	stopping.Go(backend.GracefulStop) // sends GOAWAY, then waits for the calls
	b := only(t, guard)
	await(t, "new calls fail, and the breaker opens", func() bool {
		_ = call(t.Context(), conn, time.Second)
		return b.State() == breaker.Open
	})
	released()
	for range inFlight {
		if err := <-ends; err != nil {
			t.Errorf("a call in flight at the GOAWAY ended with %v, want OK", err)
		}
	}
	stopping.Wait()
	s := checkSum(t, b)
	if s.Late != inFlight || s.Failures != 5 || s.State != breaker.Open || s.Trips.Total() != 1 {
		t.Errorf("%d late, %d failures, %v, %d trips; want %d late results that decide nothing, 5 failures, open, 1 trip",
			s.Late, s.Failures, s.State, s.Trips.Total(), inFlight)
	}
}

func TestEndToEnd_ConnectionReset(t *testing.T) {
	conn, guard := resetConnection(t, quick)
	b := only(t, guard)
	if s := checkSum(t, b); s.Trips.Total() != 1 || s.Failures != 5 || s.Late != 5 {
		t.Errorf("%d trips, %d failures, %d late; want 1 trip on the fifth failure, and 5 late", s.Trips.Total(), s.Failures,
			s.Late)
	}
	await(t, "the breaker closes over a new connection", func() bool {
		_ = call(t.Context(), conn, time.Second)
		return b.State() == breaker.Closed
	})
}

// B4: the calls on one lost connection count as one failure. With the default Config the breaker stays closed, and the
// next call uses a new connection. FailingFor is longer than its default, because a busy machine may need more than a
// second until it has reported all failures and made a new connection.
func TestEndToEnd_ConnectionResetUnderTheDefaults(t *testing.T) {
	conn, guard := resetConnection(t, breaker.Config{FailingFor: time.Minute})
	await(t, "a call succeeds over a new connection", func() bool { return call(t.Context(), conn, time.Second) == nil })
	s := checkSum(t, only(t, guard))
	if s.State != breaker.Closed || s.Trips.Total() != 0 || s.Rejections.Total() != 0 || s.Failures < resetInFlight ||
		s.Late != 0 {
		t.Errorf("%v, %d trips, %d rejections, %d failures, %d late; want closed, 0, 0, %d or more, 0",
			s.State, s.Trips.Total(), s.Rejections.Total(), s.Failures, s.Late, resetInFlight)
	}
}

const resetInFlight = 10

// resetConnection resets a connection with calls in flight and waits until they have failed. The server keeps running
// and answers new calls.
func resetConnection(t *testing.T, cfg breaker.Config) (*grpc.ClientConn, *interceptor.Guard) {
	t.Helper()
	srv := new(testpb.Server)
	srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}})
	p := tcpproxy.Start(t, testpb.StartTCP(t, srv).Target())
	guard := newGuard(t, cfg)
	conn := dial(t, p.Addr, reconnecting(guard)...)
	ends := make(chan error, resetInFlight)
	for range resetInFlight {
		go func() { ends <- call(t.Context(), conn, 20*time.Second) }()
	}
	await(t, "all calls are at the server", func() bool { return srv.Total() == resetInFlight })
	srv.Set(testpb.Script{})
	p.Cut()
	for range resetInFlight {
		if err := <-ends; status.Code(err) != codes.Unavailable {
			t.Errorf("a call on the connection that was reset ended with %v, want Unavailable", err)
		}
	}
	return conn, guard
}

func TestEndToEnd_WaitForReadyAgainstADeadPort(t *testing.T) {
	cfg := quick
	cfg.ProbeTimeout = 100 * time.Millisecond
	guard := newGuard(t, cfg)
	conn := dial(t, deadPort(t), reconnecting(guard)...)
	timeOut(t, guard, conn, grpc.WaitForReady(true))
	b := only(t, guard)
	if got := b.State(); got != breaker.Open {
		t.Fatalf("%v after 5 calls that waited until their deadline, want open", got)
	}

	// Probes that never return hold their slots only for ProbeTimeout, so the breaker still recovers.
	ctx, cancel := context.WithCancel(t.Context())
	var hanging sync.WaitGroup
	for i := range uint64(3) {
		await(t, "the breaker is ready to admit a probe", func() bool { return b.Snapshot().Ready })
		hanging.Go(func() {
			_, err := testpb.NewTestClient(conn).Unary(ctx, &testpb.Request{}, grpc.WaitForReady(true))
			if status.Code(err) != codes.Canceled {
				t.Errorf("a probe without a deadline ended with %v, want Canceled", err)
			}
		})
		await(t, "the probe is out", func() bool { return b.Snapshot().InFlight == i+1 })
	}
	await(t, "the third probe is lost", func() bool { return b.Snapshot().Probes.Lost == 3 })
	cancel()
	hanging.Wait()
	if s := checkSum(t, b); s.State != breaker.HalfOpen || s.Late != 3 || !s.Ready {
		t.Errorf("%v, %d late, ready %v; want half_open, 3 late, ready", s.State, s.Late, s.Ready)
	}
}

func TestEndToEnd_TwoTargetsOneDead(t *testing.T) {
	alive, dying := new(testpb.Server), new(testpb.Server)
	up, down := testpb.StartTCP(t, alive), testpb.StartTCP(t, dying)
	guard := newGuard(t, quick)
	good, bad := up.Dial(t, reconnecting(guard)...), down.Dial(t, reconnecting(guard)...)
	for _, conn := range []*grpc.ClientConn{good, bad} {
		if err := call(t.Context(), conn, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	down.Stop()
	dead := breakerFor(t, guard, down.Target())
	await(t, "the dead target's breaker opens", func() bool {
		_ = call(t.Context(), bad, time.Second)
		return dead.State() == breaker.Open
	})
	for i := range 100 {
		if err := call(t.Context(), good, 5*time.Second); err != nil {
			t.Fatalf("call %d to the target that lives: %v", i, err)
		}
	}
	if s := checkSum(t, breakerFor(t, guard, up.Target())); s.Successes != 101 || s.Rejections.Total() != 0 ||
		s.State != breaker.Closed {
		t.Errorf("the living target's breaker: %d successes, %d rejections, %v; want 101, 0, closed", s.Successes,
			s.Rejections.Total(), s.State)
	}
}

// A calls B, and B calls C. C is down, and B's breaker for it is open. A must not count B's rejection as a failure of B
// (G7).
func TestEndToEnd_RejectionOneHopUpIsNoFailure(t *testing.T) {
	guardB := newGuard(t, breaker.Config{ConsecutiveFailures: 2, FailingFor: -1, OpenFor: time.Minute})
	toC := dial(t, deadPort(t), guardB.DialOptions()...)
	b := new(testpb.Server)
	b.Set(testpb.Script{OnUnary: func(ctx context.Context, req *testpb.Request) (*testpb.Response, error) {
		return testpb.NewTestClient(toC).Unary(ctx, req)
	}})
	guardA := newGuard(t, quick)
	toB := testpb.StartTCP(t, b).Dial(t, guardA.DialOptions()...)

	for i := range 50 {
		err := call(t.Context(), toB, 5*time.Second)
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("call %d: %v, want Unavailable", i, err)
		}
		if got, want := interceptor.IsRejected(err), i >= 2; got != want {
			t.Errorf("call %d: A sees a rejection: %v, want %v: %v", i, got, want, err)
		}
	}
	s := checkSum(t, only(t, guardA))
	if s.State != breaker.Closed || s.Failures != 2 || s.Ignored != 48 {
		t.Errorf("A's breaker for B: %v, %d failures, %d ignored; want closed, 2, 48", s.State, s.Failures, s.Ignored)
	}
	if got := only(t, guardB).State(); got != breaker.Open {
		t.Errorf("B's breaker for C: %v, want open", got)
	}
	if got := b.Total(); got != 50 {
		t.Errorf("B received %d calls, want all 50", got)
	}
}

func dial(t *testing.T, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
