package interceptor

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// G1: an interceptor inside returns neither a stream nor an error, which is a mistake. The guard returns the same, and
// the permit is settled.
func TestG01_NeitherStreamNorError(t *testing.T) {
	g := newGuard(t, breaker.Config{})
	cs, err := g.Stream(t.Context(), serverStreams, nil, fullMethod,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, nil
		})
	if cs != nil || err != nil {
		t.Errorf("got %v, %v; want nil, nil", cs, err)
	}
	wantTally(t, "neither", g, one(breaker.Ignored))
}
