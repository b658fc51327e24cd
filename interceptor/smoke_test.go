package interceptor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		g, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		cc := testpb.Bufconn(t, srv, g.DialOptions()...)
		c := testpb.NewTestClient(cc)
		ctx := t.Context()
		if _, err := c.Unary(ctx, &testpb.Request{}); err != nil {
			t.Fatal(err)
		}
		srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
			return nil, status.Error(codes.Unavailable, "down")
		}})
		for range 5 {
			c.Unary(ctx, &testpb.Request{})
		}
		_, err = c.Unary(ctx, &testpb.Request{})
		if !errors.Is(err, breaker.ErrRejected) || status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
		srv.Set(testpb.Script{})
		time.Sleep(6 * time.Second)
		for range 2 {
			if _, err := c.Unary(ctx, &testpb.Request{}); err != nil {
				t.Fatal(err)
			}
		}
		for k, b := range g.Group().All() {
			t.Logf("%v %+v", k, b.Snapshot())
			if b.State() != breaker.Closed {
				t.Fatal(b.State())
			}
		}
		st, err := c.ServerStream(ctx, &testpb.Request{Count: 3})
		if err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := st.Recv(); err != nil {
				t.Log(err)
				break
			}
		}
		for k, b := range g.Group().All() {
			t.Logf("%v %+v", k, b.Snapshot())
		}
	})
}

func BenchmarkUnary(b *testing.B) {
	g, _ := New(nil)
	ctx := context.Background()
	inv := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
		return nil
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Unary(ctx, "/pkg.Service/Method", nil, nil, nil, inv); err != nil {
			b.Fatal(err)
		}
	}
}
