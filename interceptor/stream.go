package interceptor

import (
	"context"
	"io"
	"reflect"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Stream guards one streaming call. It is a grpc.StreamClientInterceptor; cc may be nil.
func (g *Guard) Stream(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	b := g.find(ctx, method, desc, nil, cc, opts)
	if b == nil {
		return streamer(ctx, desc, cc, method, opts...)
	}
	permit, err := b.Acquire(ctx)
	if err != nil {
		if cause := rejection(err); cause != nil {
			return nil, g.reject(ctx, cause) // G8: no stream comes with it
		}
		return streamer(ctx, desc, cc, method, opts...)
	}
	s := &stream{ctx: ctx, call: callOf(method, desc, nil, cc), pending: g.begin(ctx, b, permit), server: desc.ServerStreams}
	inner := append(s.optsBuf[:0], opts...) // a copy: the caller's slice may be shared (G1)
	inner = append(inner, grpc.OnFinish(s.onFinish))
	return s.open(func() (grpc.ClientStream, error) { return streamer(ctx, desc, cc, method, inner...) })
}

// stream is a guarded stream. Its outcome is settled once, by whatever knows it first:
//
//   - the streamer's error, if there is no stream at all;
//   - RecvMsg: an error, io.EOF being success, or the only message of a stream that is not server-streaming;
//   - SendMsg and CloseSend: an error other than io.EOF, which only says that RecvMsg knows more;
//   - grpc.OnFinish, which also hears of a stream that nobody reads;
//   - the end of the context, where an interceptor between the guard and grpc might keep OnFinish from firing.
//
// OnFinish needs care. grpc calls it when a stream of its own is over, and then it is right. But with a retry interceptor
// inside the guard it fires for each attempt, always while one of the guard's own calls is on the stack; there it decides
// nothing, and what the call returns does (S5). And RecvMsg, when it is on the stack, is about to return the same status with
// the trailer to go with it, so that one goes first in any case.
//
// Context and Header of the stream are never called by the guard: they commit the call, and service-config retries are
// over (S9).
type stream struct {
	grpc.ClientStream

	pending pending
	ctx     context.Context //nolint:containedctx // the call's; grpc's own stream has it too, for as long
	call    keyfunc.Call
	server  bool        // the server may send more than one message
	core    bool        // made by grpc itself, no interceptor between; written before the stream is handed out
	stop    func() bool // takes the watch on the context back; nil: none. Written before the stream is handed out

	settled  atomic.Bool
	finished atomic.Pointer[finish] // what OnFinish said when it did not decide
	busy     atomic.Int32           // calls on the stack that know better than OnFinish
	messages atomic.Bool            // the first has come
	latency  atomic.Int64           // until the first message, where the slow rule asks for it

	optsBuf [6]grpc.CallOption // so that one more option costs most calls no allocation
}

type finish struct{ err error }

var finishedWell = new(finish)

func (s *stream) open(streamer func() (grpc.ClientStream, error)) (grpc.ClientStream, error) {
	s.busy.Add(1) // no lock is held here, nor anywhere: OnFinish may fire before the streamer returns (S4)
	returned := false
	defer func() {
		if !returned {
			s.lost()
		}
	}()
	cs, err := streamer()
	returned = true
	if err != nil {
		s.settle(err, nil)
		return nil, err // S1
	}
	s.ClientStream = cs
	s.core = fromCore(cs)
	if !s.core && s.ctx.Done() != nil {
		s.stop = context.AfterFunc(s.ctx, s.onContextEnd)
	}
	s.leave(true)
	return s, nil
}

// fromCore says whether grpc itself made cs. Then OnFinish fires when the context ends, and there is no need to watch the
// context as well, at the price of three allocations and a place among the context's children.
func fromCore(cs grpc.ClientStream) bool {
	t := reflect.TypeOf(cs)
	return t != nil && t.Kind() == reflect.Pointer && t.Elem().PkgPath() == corePath
}

var corePath = reflect.TypeFor[grpc.ClientConn]().PkgPath()

// enter goes before a call to the stream below, leave after it. Over a stream of grpc's own only RecvMsg knows better than
// OnFinish; over anything else every call may hide an attempt that is not the last.
func (s *stream) enter(receive bool) {
	if receive || !s.core {
		s.busy.Add(1)
	}
}

func (s *stream) leave(receive bool) {
	if !receive && s.core {
		return
	}
	// Off the stack first, then a look for what OnFinish left; OnFinish leaves it first, then looks at the stack. So one of
	// the two sees the other.
	if s.busy.Add(-1) > 0 || !s.core {
		return
	}
	if f := s.finished.Load(); f != nil {
		s.settle(f.err, nil)
	}
}

func (s *stream) onFinish(err error) {
	if s.settled.Load() {
		return
	}
	f := finishedWell
	if err != nil {
		f = &finish{err}
	}
	s.finished.Store(f)
	if s.busy.Load() == 0 {
		s.settle(err, nil)
	}
}

// onContextEnd runs on a goroutine of the context's, and only if the context ended before the stream did.
func (s *stream) onContextEnd() {
	if !s.settled.Swap(true) {
		s.report(s.ctx.Err(), nil)
	}
}

// settle ends the guard's interest in the stream. Only the first call does anything.
func (s *stream) settle(err error, trailer metadata.MD) {
	if s.settled.Swap(true) {
		return
	}
	if s.stop != nil {
		s.stop()
	}
	s.report(err, trailer)
}

func (s *stream) report(err error, trailer metadata.MD) {
	r := Result{Call: s.call, Err: err, Trailer: trailer}
	if len(trailer) > 0 {
		r.Peer = PeerAnswered
	}
	// S10: a stream without a message has nothing that the slow rule could look at, so it gets the shortest time there is.
	latency := time.Duration(max(1, s.latency.Load()))
	if err == nil && s.pending.guard.plain && !s.pending.permit.IsProbe() {
		s.pending.permit.DoneWith(s.ctx, breaker.Report{Outcome: breaker.Success, Latency: latency})
		return
	}
	s.pending.settle(s.ctx, r, latency)
}

// lost settles a stream whose call below panicked or exited the goroutine (G1).
func (s *stream) lost() {
	if s.settled.Swap(true) {
		return
	}
	if s.stop != nil {
		s.stop()
	}
	s.pending.permit.Done(s.ctx, breaker.Failure)
}

// RecvMsg receives a message and notes how the stream ends.
func (s *stream) RecvMsg(m any) error {
	if s.settled.Load() {
		return s.ClientStream.RecvMsg(m)
	}
	s.enter(true)
	returned := false
	defer func() {
		if !returned {
			s.lost()
		}
		s.leave(true)
	}()
	err := s.ClientStream.RecvMsg(m)
	returned = true
	switch {
	case err == io.EOF: //nolint:errorlint // RecvMsg returns it as it is; an error that wraps it is something else
		s.settle(nil, nil)
	case err != nil:
		s.settle(err, s.Trailer())
	case !s.server:
		s.settle(nil, nil) // S3
	default:
		s.firstMessage()
	}
	return err
}

// firstMessage notes the time to it, and is the success of a probe (S8).
func (s *stream) firstMessage() {
	if s.messages.Load() || s.messages.Swap(true) {
		return
	}
	if d := s.pending.permit.Elapsed(); d > 0 {
		s.latency.Store(int64(d))
	}
	if s.pending.permit.IsProbe() {
		s.settle(nil, nil)
	}
}

// SendMsg sends a message and notes whether that ended the stream.
func (s *stream) SendMsg(m any) error {
	return s.through(func() error { return s.ClientStream.SendMsg(m) })
}

// CloseSend ends the sending and notes whether that ended the stream.
func (s *stream) CloseSend() error {
	return s.through(s.ClientStream.CloseSend)
}

func (s *stream) through(call func() error) error {
	s.enter(false)
	returned := false
	defer func() {
		if !returned {
			s.lost()
		}
		s.leave(false)
	}()
	err := call()
	returned = true
	if err != nil && err != io.EOF { //nolint:errorlint // as in RecvMsg
		s.settle(err, nil)
	}
	return err
}

// Header waits for the header. It decides nothing: over a stream of grpc's own OnFinish hears if that is all there will be,
// and over a retry interceptor RecvMsg may yet make another attempt.
func (s *stream) Header() (metadata.MD, error) {
	s.enter(false)
	defer s.leave(false)
	return s.ClientStream.Header() //nolint:forbidigo // the caller's own call, passed on
}
