package interceptor

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that hookedCodec wraps
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// streamRig is a guarded connection to a server in memory.
type streamRig struct {
	testing.TB

	srv     *testpb.Server
	backend *testpb.Backend
	guard   *Guard
	conn    *grpc.ClientConn
	client  testpb.TestClient
}

// newStreamRig dials with the guard as the outermost interceptor. Interceptors in dial are inside it.
func newStreamRig(tb testing.TB, g *Guard, script testpb.Script, dial ...grpc.DialOption) *streamRig {
	tb.Helper()
	r := &streamRig{TB: tb, srv: new(testpb.Server), guard: g}
	r.srv.Set(script)
	r.backend = testpb.StartBufconn(tb, r.srv)
	r.conn = r.backend.Dial(tb, append(g.DialOptions(), dial...)...)
	r.client = testpb.NewTestClient(r.conn)
	return r
}

// streamArrangement is a set of interceptors between the guard and grpc.
type streamArrangement struct {
	name string
	dial []grpc.DialOption
}

// streamArrangements are three ways in which the guard may get a stream. They must make no difference to a caller: from
// grpc directly, from grpc through an interceptor, and wrapped by an interceptor, so that OnFinish does not decide.
var streamArrangements = []streamArrangement{
	{name: "bare"},
	{name: "unwrapped", dial: []grpc.DialOption{grpc.WithChainStreamInterceptor(passOn)}},
	{name: "wrapped", dial: []grpc.DialOption{grpc.WithChainStreamInterceptor(wrap)}},
}

func (a streamArrangement) wraps() bool { return a.name == "wrapped" }

func passOn(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return streamer(ctx, desc, cc, method, opts...)
}

func wrap(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	cs, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &wrappedStream{cs}, nil
}

type wrappedStream struct{ grpc.ClientStream }

// arranged is a test in one of the arrangements.
type arranged struct {
	*testing.T
	streamArrangement
}

// inEach runs f once for each arrangement, in a bubble.
func inEach(t *testing.T, f func(t arranged)) {
	t.Helper()
	for _, a := range streamArrangements {
		t.Run(a.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(arranged{t, a}) })
		})
	}
}

// drain receives until the stream ends. It returns the number of messages, and nil for io.EOF.
func drain[M any](s interface{ Recv() (*M, error) }) (n int, _ error) {
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n++
	}
}

// drainRaw is drain for a grpc.ClientStream.
func drainRaw(cs grpc.ClientStream) (n int, _ error) {
	for {
		if err := cs.RecvMsg(new(testpb.Response)); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n++
	}
}

// sends returns a script whose streams send n messages each and then end with err.
func sends(n int, err error) testpb.Script {
	return testpb.Script{
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			return sendAll(s, n, err)
		},
		OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			return sendAll(s, n, err)
		},
		OnClientStream: func(s grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
			if err != nil {
				return err
			}
			return s.SendAndClose(new(testpb.Response))
		},
	}
}

// lives returns a script whose streams send n messages each, and then stay open until the call's context ends.
func lives(n int) testpb.Script {
	return testpb.Script{
		OnServerStream: func(_ *testpb.Request, s grpc.ServerStreamingServer[testpb.Response]) error {
			return liveOn(s, n)
		},
		OnBidi: func(s grpc.BidiStreamingServer[testpb.Request, testpb.Response]) error {
			return liveOn(s, n)
		},
		OnClientStream: func(s grpc.ClientStreamingServer[testpb.Request, testpb.Response]) error {
			<-s.Context().Done()
			return s.Context().Err()
		},
	}
}

type sender interface {
	Send(m *testpb.Response) error
}

func sendAll(s sender, n int, err error) error {
	for range n {
		if e := s.Send(new(testpb.Response)); e != nil {
			return e
		}
	}
	return err
}

func liveOn(s interface {
	grpc.ServerStream
	Send(m *testpb.Response) error
}, n int,
) error {
	if err := sendAll(s, n, nil); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// hookedCodec can block messages on their way through grpc, so that a call of the guard keeps running for as long as a
// test needs.
type hookedCodec struct {
	encoding.CodecV2

	marshal, unmarshal func()
}

func newHookedCodec() *hookedCodec { return &hookedCodec{CodecV2: encoding.GetCodecV2("proto")} }

func (c *hookedCodec) Marshal(v any) (mem.BufferSlice, error) {
	if c.marshal != nil {
		c.marshal()
	}
	return c.CodecV2.Marshal(v)
}

func (c *hookedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if c.unmarshal != nil {
		c.unmarshal()
	}
	return c.CodecV2.Unmarshal(data, v)
}

// fakeStream is a ClientStream that is not grpc's. Its functions that are nil succeed, and a nil recv returns io.EOF.
type fakeStream struct {
	recv, send func(m any) error
	closeSend  func() error
	header     func() (metadata.MD, error)
	trailer    func() metadata.MD
	context    func() context.Context
}

func (f *fakeStream) RecvMsg(m any) error {
	if f.recv == nil {
		return io.EOF
	}
	return f.recv(m)
}

func (f *fakeStream) SendMsg(m any) error {
	if f.send == nil {
		return nil
	}
	return f.send(m)
}

func (f *fakeStream) CloseSend() error {
	if f.closeSend == nil {
		return nil
	}
	return f.closeSend()
}

func (f *fakeStream) Header() (metadata.MD, error) {
	if f.header == nil {
		return nil, nil
	}
	return f.header()
}

func (f *fakeStream) Trailer() metadata.MD {
	if f.trailer == nil {
		return nil
	}
	return f.trailer()
}

func (f *fakeStream) Context() context.Context {
	if f.context == nil {
		return nil
	}
	return f.context()
}

var (
	serverStreams = &grpc.StreamDesc{StreamName: "Method", ServerStreams: true}
	clientStreams = &grpc.StreamDesc{StreamName: "Method", ClientStreams: true}
	bothStream    = &grpc.StreamDesc{StreamName: "Method", ServerStreams: true, ClientStreams: true}
)

// finisher returns a function that calls the OnFinish options in opts, as grpc would.
func finisher(opts []grpc.CallOption) func(error) {
	return func(err error) {
		for _, o := range opts {
			if o, ok := o.(grpc.OnFinishCallOption); ok {
				o.OnFinish(err)
			}
		}
	}
}

// openFake opens a guarded stream over f. finish does what grpc would do at the end.
func openFake(
	ctx context.Context, tb testing.TB, g *Guard, desc *grpc.StreamDesc, f grpc.ClientStream,
) (cs grpc.ClientStream, finish func(error)) {
	tb.Helper()
	return openFakeOn(ctx, tb, g, desc, nil, f)
}

// openFakeOn is openFake for a stream of cc.
func openFakeOn(
	ctx context.Context, tb testing.TB, g *Guard, desc *grpc.StreamDesc, cc *grpc.ClientConn, f grpc.ClientStream,
) (cs grpc.ClientStream, finish func(error)) {
	tb.Helper()
	cs, err := g.Stream(ctx, desc, cc, fullMethod,
		func(
			_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			finish = finisher(opts)
			return f, nil
		})
	if err != nil {
		tb.Fatal(err)
	}
	return cs, finish
}

// openDirect is openFake for a stream that counts as grpc's own, with no interceptor between. The stream has reached a
// connection.
func openDirect(
	ctx context.Context, tb testing.TB, g *Guard, desc *grpc.StreamDesc, f grpc.ClientStream,
) (cs grpc.ClientStream, finish func(error)) {
	tb.Helper()
	streamer := func(
		_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		for _, o := range opts {
			if p, ok := o.(grpc.PeerCallOption); ok {
				p.PeerAddr.Addr = &net.UnixAddr{Name: "for the test"}
			}
		}
		finish = finisher(opts)
		return f, nil
	}
	seen := grpcStreamer.entry.Swap(reflect.ValueOf(streamer).Pointer())
	defer grpcStreamer.entry.Store(seen)
	cs, err := g.Stream(ctx, desc, nil, fullMethod, streamer)
	if err != nil {
		tb.Fatal(err)
	}
	return cs, finish
}

// fakeTrailer returns a Trailer function for a fakeStream.
func fakeTrailer(kv ...string) func() metadata.MD {
	return func() metadata.MD { return metadata.Pairs(kv...) }
}

// halfOpen opens the breaker of key, and waits until the next call is a probe.
func halfOpen(tb testing.TB, g *Guard, key breaker.Key) *breaker.Breaker {
	tb.Helper()
	b := g.Group().Get(key)
	b.Trip(tb.Context(), "for the test")
	time.Sleep(b.Snapshot().RetryAfter)
	return b
}

func statusError(c codes.Code) error { return status.Error(c, "for the test") }

// eofOr returns what RecvMsg returns at the end of a stream that ends with err.
func eofOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}
