package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// A caller calls one backend, one call after the other, so that no result is late. It counts the results by
// their errors, independently of the breaker, so that the metrics can be compared with these counts.
type caller struct {
	target string
	conn   *grpc.ClientConn
	stub   testpb.TestClient
	tracer trace.Tracer
	span   string // the name of the span that makes a call

	mu  sync.Mutex
	did counts
}

// counts are the results of calls.
type counts struct{ success, failure, rejected int }

func (n counts) String() string {
	return fmt.Sprintf("%d succeeded, %d failed, %d were rejected", n.success, n.failure, n.rejected)
}

// run makes 50 calls per second until stop is closed.
func (r *caller) run(stop <-chan struct{}) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			r.call()
		}
	}
}

// call makes one call under a new span, like a handler of an application.
func (r *caller) call() {
	// Long, because a call that runs into its deadline on a busy machine would be a failure that no server knows of.
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	ctx, span := r.tracer.Start(ctx, r.span)
	defer span.End()
	_, err := r.stub.Unary(ctx, &testpb.Request{Text: "hello"})

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.did.success++
	case interceptor.IsRejected(err):
		r.did.rejected++
	default:
		r.did.failure++
	}
}

func (r *caller) counts() counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.did
}
