package testpb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// call makes one whole call: it sends reqs and returns every response.
type call struct {
	method string
	do     func(ctx context.Context, cc *grpc.ClientConn, reqs ...*testpb.Request) ([]*testpb.Response, error)
}

var calls = []call{
	{testpb.Test_Unary_FullMethodName, func(
		ctx context.Context, cc *grpc.ClientConn, reqs ...*testpb.Request,
	) ([]*testpb.Response, error) {
		return one(testpb.NewTestClient(cc).Unary(ctx, reqs[0]))
	}},
	{testpb.Other_Ping_FullMethodName, func(
		ctx context.Context, cc *grpc.ClientConn, reqs ...*testpb.Request,
	) ([]*testpb.Response, error) {
		return one(testpb.NewOtherClient(cc).Ping(ctx, reqs[0]))
	}},
	{testpb.Test_ClientStream_FullMethodName, func(
		ctx context.Context, cc *grpc.ClientConn, reqs ...*testpb.Request,
	) ([]*testpb.Response, error) {
		stream, err := testpb.NewTestClient(cc).ClientStream(ctx)
		if err != nil {
			return nil, err
		}
		if err := sendAll(stream, reqs); err != nil {
			return nil, err
		}
		return one(stream.CloseAndRecv())
	}},
	{testpb.Test_ServerStream_FullMethodName, func(
		ctx context.Context, cc *grpc.ClientConn, reqs ...*testpb.Request,
	) ([]*testpb.Response, error) {
		stream, err := testpb.NewTestClient(cc).ServerStream(ctx, reqs[0])
		if err != nil {
			return nil, err
		}
		return recvAll(stream)
	}},
	{testpb.Test_Bidi_FullMethodName, func(
		ctx context.Context, cc *grpc.ClientConn, reqs ...*testpb.Request,
	) ([]*testpb.Response, error) {
		stream, err := testpb.NewTestClient(cc).Bidi(ctx)
		if err != nil {
			return nil, err
		}
		if err := sendAll(stream, reqs); err != nil {
			return nil, err
		}
		if err := stream.CloseSend(); err != nil {
			return nil, err
		}
		return recvAll(stream)
	}},
}

type sender interface {
	Send(*testpb.Request) error
}

type receiver interface {
	Recv() (*testpb.Response, error)
}

func one(resp *testpb.Response, err error) ([]*testpb.Response, error) {
	if err != nil {
		return nil, err
	}
	return []*testpb.Response{resp}, nil
}

func sendAll(stream sender, reqs []*testpb.Request) error {
	for _, req := range reqs {
		// io.EOF: the server has ended the call, and RecvMsg returns how.
		if err := stream.Send(req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func recvAll(stream receiver) ([]*testpb.Response, error) {
	var got []*testpb.Response
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, resp)
	}
}

func TestDefaultScript(t *testing.T) {
	reqs := []*testpb.Request{
		{Text: "a", Payload: []byte{1}, Count: 3},
		{Text: "b", Payload: []byte{2}, Count: 5},
	}
	want := map[string][]*testpb.Response{
		testpb.Test_Unary_FullMethodName:        {{Text: "a", Payload: []byte{1}, Count: 3}},
		testpb.Other_Ping_FullMethodName:        {{Text: "a", Payload: []byte{1}, Count: 3}},
		testpb.Test_ClientStream_FullMethodName: {{Count: 2}},
		testpb.Test_ServerStream_FullMethodName: {
			{Text: "a", Payload: []byte{1}, Count: 1},
			{Text: "a", Payload: []byte{1}, Count: 2},
			{Text: "a", Payload: []byte{1}, Count: 3},
		},
		testpb.Test_Bidi_FullMethodName: {
			{Text: "a", Payload: []byte{1}, Count: 3},
			{Text: "b", Payload: []byte{2}, Count: 5},
		},
	}
	for _, c := range calls {
		t.Run(c.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cc := testpb.Bufconn(t, new(testpb.Server))
				got, err := c.do(t.Context(), cc, reqs...)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want[c.method], got, protocmp.Transform()); diff != "" {
					t.Errorf("responses (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Each function of a script answers its own method. A new script replaces the whole script while the server runs:
// functions that it leaves nil have their default again.
func TestSetSwapsTheScript(t *testing.T) {
	fails := func(code codes.Code, msg string) testpb.Script {
		err := func(method string) error { return status.Error(code, msg+" "+method) }
		return testpb.Script{
			OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
				return nil, err(testpb.Test_Unary_FullMethodName)
			},
			OnClientStream: func(grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
				return err(testpb.Test_ClientStream_FullMethodName)
			},
			OnServerStream: func(*testpb.Request, grpc.ServerStreamingServer[testpb.Response]) error {
				return err(testpb.Test_ServerStream_FullMethodName)
			},
			OnBidi: func(grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
				return err(testpb.Test_Bidi_FullMethodName)
			},
			OnPing: func(context.Context, *testpb.Request) (*testpb.Response, error) {
				return nil, err(testpb.Other_Ping_FullMethodName)
			},
		}
	}
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		cc := testpb.Bufconn(t, srv)
		check := func(code codes.Code, msg string) {
			t.Helper()
			for _, c := range calls {
				_, err := c.do(t.Context(), cc, &testpb.Request{Count: 1})
				want := ""
				if code != codes.OK {
					want = msg + " " + c.method
				}
				if st := status.Convert(err); st.Code() != code || st.Message() != want {
					t.Errorf("%s: got %v %q, want %v %q", c.method, st.Code(), st.Message(), code, want)
				}
			}
		}
		check(codes.OK, "")
		srv.Set(fails(codes.Unavailable, "down"))
		check(codes.Unavailable, "down")
		srv.Set(fails(codes.ResourceExhausted, "busy"))
		check(codes.ResourceExhausted, "busy")
		srv.Set(testpb.Script{})
		check(codes.OK, "")
	})
}

func TestReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		cc := testpb.Bufconn(t, srv)
		want, total := map[string]int{}, 0
		for i, c := range calls {
			want[c.method] = i + 1
			total += i + 1
			for range i + 1 {
				if _, err := c.do(t.Context(), cc, &testpb.Request{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := map[string]int{}
		for _, c := range calls {
			got[c.method] = srv.Received(c.method)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Received (-want +got):\n%s", diff)
		}
		if got := srv.Total(); got != total {
			t.Errorf("Total() = %d, want %d", got, total)
		}
	})
}

func TestReceivedPanicsOnUnknownMethod(t *testing.T) {
	defer func() {
		got, want := fmt.Sprint(recover()), `testpb: no method "Unary"`
		if got != want {
			t.Errorf("panic = %q, want %q", got, want)
		}
	}()
	new(testpb.Server).Received("Unary")
}

func TestServerConcurrentSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(testpb.Server)
		cc := testpb.Bufconn(t, srv)
		const workers, rounds = 4, 25
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for range rounds {
					srv.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
						return &testpb.Response{Count: int32(w)}, nil
					}})
					for _, c := range calls {
						if _, err := c.do(t.Context(), cc, &testpb.Request{Count: 1}); err != nil {
							t.Errorf("%s: %v", c.method, err)
						}
					}
					_ = srv.Total()
				}
			})
		}
		wg.Wait()
		if got, want := srv.Total(), workers*rounds*len(calls); got != want {
			t.Errorf("Total() = %d, want %d", got, want)
		}
	})
}
