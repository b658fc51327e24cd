package interceptor

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// The floor is the least that a breaker must do: read the time and count a call. Package breaker has the same
// benchmark. It is repeated here, so that one run gives the ratio.
var (
	floorStart = time.Now()
	floorState atomic.Pointer[int]
	floorCount atomic.Uint64
)

func floor() time.Duration {
	if floorState.Load() != nil {
		return 0
	}
	d := time.Since(floorStart)
	floorCount.Add(1)
	return d
}

func BenchmarkFloor(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		floor()
	}
}

func BenchmarkFloorParallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			floor()
		}
	})
}

func returnsAtOnce(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

func BenchmarkUnary(b *testing.B) {
	g := newGuard(b, breaker.Config{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); err != nil {
			b.Fatal(err)
		}
	}
	checkSuccesses(b, g)
}

func BenchmarkUnaryParallel(b *testing.B) {
	g := newGuard(b, breaker.Config{})
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); err != nil {
				b.Error(err)
				return
			}
		}
	})
	checkSuccesses(b, g)
}

// checkSuccesses checks that the benchmark measured guarded calls.
func checkSuccesses(b *testing.B, g *Guard) {
	b.Helper()
	if s := onlyBreaker(b, g).Snapshot(); s.Successes != s.Admitted || s.Admitted < uint64(b.N) {
		b.Fatalf("%d admitted, %d successes in %d calls", s.Admitted, s.Successes, b.N)
	}
}

func BenchmarkUnaryRejection(b *testing.B) {
	g := newGuard(b, breaker.Config{OpenFor: time.Hour})
	ctx := context.Background()
	g.Group().Get(methodKey).Trip(ctx, "benchmark")
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); err == nil {
			b.Fatal("admitted")
		}
	}
	checkRejections(b, g)
}

func BenchmarkUnaryRejectionParallel(b *testing.B) {
	g := newGuard(b, breaker.Config{OpenFor: time.Hour})
	ctx := context.Background()
	g.Group().Get(methodKey).Trip(ctx, "benchmark")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); err == nil {
				b.Error("admitted")
				return
			}
		}
	})
	checkRejections(b, g)
}

func checkRejections(b *testing.B, g *Guard) {
	b.Helper()
	if s := onlyBreaker(b, g).Snapshot(); s.Admitted != 0 || s.Rejections.Total() < uint64(b.N) {
		b.Fatalf("%d admitted, %d rejected in %d calls", s.Admitted, s.Rejections.Total(), b.N)
	}
}

// BenchmarkUnaryFailure measures a call that fails with a status while all rules are off. It shows how much more a
// failure costs than a success.
func BenchmarkUnaryFailure(b *testing.B) {
	g := newGuard(b, breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1})
	ctx := context.Background()
	err := status.Error(codes.Unavailable, "down")
	fails := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return err }
	b.ReportAllocs()
	for b.Loop() {
		if got := g.Unary(ctx, fullMethod, nil, nil, nil, fails); got != err { //nolint:errorlint // the same value (G1)
			b.Fatal(got)
		}
	}
	if s := onlyBreaker(b, g).Snapshot(); s.Failures != s.Admitted || s.Admitted < uint64(b.N) {
		b.Fatalf("%d admitted, %d failures in %d calls", s.Admitted, s.Failures, b.N)
	}
}

// BenchmarkUnaryEvidence measures the cost of WithPeerEvidence without grpc.
func BenchmarkUnaryEvidence(b *testing.B) {
	g := newGuard(b, breaker.Config{}, WithPeerEvidence())
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); err != nil {
			b.Fatal(err)
		}
	}
	checkSuccesses(b, g)
}

// BenchmarkUnaryDoubt measures a call over real grpc, in memory. NoDoubt: all outcomes of the last Window were
// successes. Troubled: an earlier outcome was not a success, so the guard requests the peer from grpc. InDoubt: the
// last outcome was not a success, so the guard also requests header and trailer. NoGuard is for comparison.
func BenchmarkUnaryDoubt(b *testing.B) {
	srv := new(testpb.Server)
	backend := testpb.StartBufconn(b, srv)
	for _, bm := range []struct {
		name   string
		before breaker.Outcome // of the call before each
		keep   bool            // the breaker stays in doubt
		plain  bool
	}{
		{name: "NoGuard", plain: true},
		{name: "NoDoubt"},
		{name: "Troubled", before: breaker.Ignored},
		{name: "InDoubt", before: breaker.Ignored, keep: true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			g := newGuard(b, breaker.Config{Window: time.Hour}, WithKey(oneKey))
			dial := g.DialOptions()
			if bm.plain {
				dial = nil
			}
			client := testpb.NewTestClient(backend.Dial(b, dial...))
			br := g.Group().Get(breaker.Key{})
			if bm.before != breaker.Success {
				settleOne(br, bm.before)
				settleOne(br, breaker.Success)
			}
			ctx, req := context.Background(), new(testpb.Request)
			b.ReportAllocs()
			for b.Loop() {
				if bm.keep {
					settleOne(br, bm.before)
				}
				if _, err := client.Unary(ctx, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUnaryKeyFunc measures Unary without the cache of breakers: each call makes a Call and hashes its key.
func BenchmarkUnaryKeyFunc(b *testing.B) {
	g := newGuard(b, breaker.Config{}, WithKey(keyfunc.TargetMethod))
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce); err != nil {
			b.Fatal(err)
		}
	}
	checkSuccesses(b, g)
}
