package judgement

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// replica is one of several servers of a service. Its unary calls take one second, and its watches do not end. A watch
// that ends on one server starts again on another, so the service as a whole has a presence too.
type replica struct {
	*testpb.Backend

	unary atomic.Int64 // in flight
	watch *presence
}

func newReplica(t *testing.T, period time.Duration, service *presence) *replica {
	t.Helper()
	r := &replica{watch: newPresence()}
	srv := new(testpb.Server)
	script := r.watch.watching(period)
	script.OnUnary = func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
		r.unary.Add(1)
		defer r.unary.Add(-1)
		select {
		case <-time.After(time.Second):
			return new(testpb.Response), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	watch := script.OnServerStream
	script.OnServerStream = func(req *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
		service.enter(req.GetText())
		defer service.leave(req.GetText())
		return watch(req, s)
	}
	srv.Set(script)
	r.Backend = testpb.StartBufconn(t, srv)
	return r
}

// rollout describes how the servers of a service restart, one after the other.
type rollout struct {
	graceful bool          // whether calls get up to 5 s to end
	away     time.Duration // from the stop of a server to the start of its replacement
	gap      time.Duration // from then until the next server stops
	times    int           // number of rollouts, with an hour between
	retry    time.Duration // of the watches
}

func (r rollout) String() string {
	stop := "hard stops"
	if r.graceful {
		stop = "graceful stops"
	}
	return fmt.Sprintf("%s, away %v, %v between", stop, r.away, r.gap)
}

const (
	perSecond = 30 // unary calls
	watches   = 30
)

const grace = 5 * time.Second

// rolled holds the results of a rollout.
type rolled struct {
	calls, failed, rejected int           // unary calls
	inFlight                int           // of them, on servers that stopped, when these cut their connections
	ended, turnedAway       int           // watches that ended, and watches that were rejected
	onStopped               int           // watches on servers that stopped, when these cut their connections
	open                    int           // watches that are open at the end
	longest                 time.Duration // the longest time between the end of a watch and its next start

	successes, failures, ignored uint64
	eventLog                     *eventLog
}

// roll restarts three servers under round_robin while one client makes 30 unary calls a second, which take one second
// each, and has 30 watches open.
func roll(t *testing.T, r rollout, period time.Duration) (sum rolled) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		service, replicas := newPresence(), make(map[string]*replica)
		for _, name := range []string{"a", "b", "c"} {
			replicas[name] = newReplica(t, period, service)
		}
		g, d := newGuard(t, breaker.Config{})
		names := manual.NewBuilderWithScheme("replicas")
		names.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "a"}, {Addr: "b"}, {Addr: "c"}}})
		cc := replicas["a"].DialTarget(t, "replicas:///service", append(g.DialOptions(),
			grpc.WithResolvers(names),
			grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return replicas[addr].DialContext(ctx, addr)
			}))...)
		client := testpb.NewTestClient(cc)
		ctx, cancel := context.WithCancel(t.Context())
		var watching, calling sync.WaitGroup
		all := make([]*watcher, watches)
		for i := range all {
			all[i] = &watcher{client: client, id: i, retry: r.retry}
			watching.Go(func() { all[i].run(ctx) })
		}
		time.Sleep(time.Second)

		var mu sync.Mutex
		call := func() {
			_, err := client.Unary(t.Context(), new(testpb.Request))
			mu.Lock()
			defer mu.Unlock()
			sum.calls++
			switch {
			case interceptor.IsRejected(err):
				sum.rejected++
			case err != nil:
				sum.failed++
			}
		}
		// A server never stops at the instant of a call, so each call has either reached it or not begun.
		send := func(length time.Duration) {
			const gap = time.Second / perSecond
			for end := time.Now().Add(length); time.Now().Before(end); {
				time.Sleep(gap / 2)
				calling.Go(call)
				time.Sleep(gap / 2)
			}
		}
		for range r.times {
			send(20 * time.Second)
			for _, name := range []string{"a", "b", "c"} {
				s := replicas[name]
				if r.graceful {
					calling.Go(s.GracefulStop)
					send(grace)
				}
				sum.inFlight += int(s.unary.Load())
				sum.onStopped += s.watch.count()
				s.Stop()
				send(r.away)
				s.Restart()
				send(r.gap)
			}
			time.Sleep(time.Hour)
		}
		calling.Wait()
		synctest.Wait()
		for _, s := range replicas {
			sum.open += s.watch.count()
		}
		for _, b := range g.Group().All() {
			s := b.Snapshot()
			sum.successes += s.Successes
			sum.failures += s.Failures
			sum.ignored += s.Ignored
		}
		for _, w := range all {
			sum.ended += w.ended
			sum.turnedAway += w.rejected
		}
		for _, away := range service.gaps() {
			sum.longest = max(sum.longest, away)
		}
		sum.eventLog = d
		cancel()
		watching.Wait()
	})
	return sum
}

// A rolling restart costs only the calls that are in flight on the server that stops. The servers stop at least
// WithLongStream after each other.
func TestS02_RollingRestartLosesOnlyWhatIsInFlight(t *testing.T) {
	for _, period := range []time.Duration{0, time.Minute} {
		for _, r := range []rollout{
			{graceful: true, away: 0, gap: 30 * time.Second, times: size(3, 1)},
			{graceful: true, away: 10 * time.Second, gap: 30 * time.Second, times: size(3, 1)},
			{graceful: true, away: size(time.Minute, 20*time.Second), gap: 30 * time.Second, times: size(3, 1)},
			{graceful: true, away: 2 * time.Second, gap: 3 * time.Second, times: size(10, 3)},
			{graceful: false, away: 0, gap: 30 * time.Second, times: size(3, 1)},
			{graceful: false, away: 10 * time.Second, gap: 30 * time.Second, times: size(3, 1)},
			{graceful: false, away: size(time.Minute, 20*time.Second), gap: 30 * time.Second, times: size(3, 1)},
			{graceful: false, away: 2 * time.Second, gap: 10 * time.Second, times: size(10, 3)},
		} {
			name := fmt.Sprintf("%v, a message each %v", r, period)
			s := roll(t, r, period)
			t.Logf("%s: %v", name, &s)
			s.onlyInFlight(t, name, r)
			if s.ended != s.onStopped || s.turnedAway != 0 || s.open != watches {
				t.Errorf("%s: %d watches ended, %d were rejected, %d are open at the end, want %d, none and %d;%v",
					name, s.ended, s.turnedAway, s.open, s.onStopped, watches, s.eventLog)
			}
		}
	}
}

// onlyInFlight checks the unary calls.
func (s *rolled) onlyInFlight(t *testing.T, name string, r rollout) {
	t.Helper()
	if s.failed != s.inFlight || s.rejected != 0 {
		t.Errorf("%s: %d calls lost and %d rejected, want the %d in flight and none;%v",
			name, s.failed, s.rejected, s.inFlight, s.eventLog)
	}
	if r.graceful && s.failed > 0 {
		t.Errorf("%s: %d calls lost, want none", name, s.failed)
	}
	if s.onStopped < 3*r.times || (!r.graceful && s.inFlight < 15*r.times) {
		t.Errorf("%s: %d watches and %d calls on stopped servers: the test shows nothing", name, s.onStopped, s.inFlight)
	}
}

func (s *rolled) String() string {
	return fmt.Sprintf("%d calls, %d lost, %d in flight, %d rejected; "+
		"%d watches ended, %d on stopped servers, %d rejected, "+
		"away for up to %v; %d successes, %d failures, %d ignored", s.calls, s.failed, s.inFlight, s.rejected,
		s.ended, s.onStopped, s.turnedAway, s.longest, s.successes, s.failures, s.ignored)
}

// If servers stop within WithLongStream of each other, they break young watches, which counts as failures. If the
// watches are quiet, nothing ends the failure streak between two rollouts. So the breaker of the watches may open for
// some seconds, but the breaker of the unary calls must not.
func TestS02_FastRollingRestart(t *testing.T) {
	for _, period := range []time.Duration{0, time.Minute} {
		for _, r := range []rollout{
			{graceful: false, away: 0, gap: 2 * time.Second, times: size(10, 3), retry: time.Second},
			{graceful: false, away: 2 * time.Second, gap: 3 * time.Second, times: size(10, 3), retry: time.Second},
			{graceful: false, away: 2 * time.Second, gap: 6 * time.Second, times: size(10, 3), retry: time.Second},
		} {
			name := fmt.Sprintf("%v, a message each %v", r, period)
			s := roll(t, r, period)
			t.Logf("%s: %v; breaker:%v", name, &s, s.eventLog)
			s.onlyInFlight(t, name, r)
			if s.open != watches {
				t.Errorf("%s: %d watches are open at the end, want %d;%v", name, s.open, watches, s.eventLog)
			}
		}
	}
}
