package interceptor

import (
	"context"
	"go/token"
	"io"
	"reflect"
	"runtime"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Stream guards one streaming call. It is a grpc.StreamClientInterceptor; cc may be nil.
func (g *Guard) Stream(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	b := g.find(ctx, method, desc, nil, cc, opts)
	if b == nil || pastDeadline(ctx) { // as in Unary
		return streamer(ctx, desc, cc, method, opts...)
	}
	permit, err := b.Acquire(ctx)
	if err != nil {
		if cause := rejection(err); cause != nil {
			err := g.reject(ctx, cause)
			tellFinished(opts, err)
			return nil, err // G8: no stream comes with it
		}
		return streamer(ctx, desc, cc, method, opts...)
	}
	s := &stream{
		ctx: ctx, cc: cc, method: method, desc: desc,
		pending: g.begin(ctx, b, permit),
	}
	// A copy: the caller's slice may be shared (G1). The guard's option goes first: whoever stands outside may end a span when
	// it hears that the stream is over, and what the guard makes of that belongs into it.
	inner := append(s.optsBuf[:0], grpc.OnFinish(s.onFinish))
	direct := isGRPC(streamer)
	if direct {
		inner = append(inner, grpc.Trailer(&s.trailer))
	}
	inner = append(inner, opts...)
	if permit.IsProbe() {
		inner = append(inner, &probeOption{of: b})
	}
	return s.open(direct, func() (grpc.ClientStream, error) { return streamer(ctx, desc, cc, method, inner...) })
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
// nothing, and what the call returns does (S5).
//
// Context and Header of the stream are never called by the guard: they commit the call, and service-config retries are
// over (S9).
type stream struct {
	grpc.ClientStream

	pending pending
	ctx     context.Context //nolint:containedctx // the call's; grpc's own stream has it too, for as long
	cc      *grpc.ClientConn
	method  string
	desc    *grpc.StreamDesc
	core    bool        // a stream of grpc's own, so OnFinish is right. Written before the stream is handed out
	direct  bool        // no interceptor between, so OnFinish is about this very stream. Written as core is
	stop    func() bool // takes the watch on the context back; nil: none. Written before the stream is handed out

	settled  atomic.Bool
	finished atomic.Pointer[finish] // what OnFinish said when it did not decide
	busy     atomic.Int32           // calls on the stack that know better than OnFinish
	sending  atomic.Int32           // SendMsg calls on the stack
	messages atomic.Bool            // the first has come
	latency  atomic.Int64           // until the first message, where the slow rule asks for it

	trailer metadata.MD        // of a direct stream: grpc fills it in before it calls OnFinish
	optsBuf [7]grpc.CallOption // so that the guard's options cost most calls no allocation
}

type finish struct{ err error }

var finishedWell = new(finish)

// open makes the stream and sets up what tells of its end. direct says that no interceptor stands between the guard and grpc.
func (s *stream) open(direct bool, streamer func() (grpc.ClientStream, error)) (grpc.ClientStream, error) {
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
	if cs == nil { // an interceptor's mistake, which is for its caller to find
		if s.claim() {
			s.pending.permit.Done(s.ctx, breaker.Ignored)
		}
		return nil, nil
	}
	s.ClientStream = cs
	s.direct = direct
	s.core = direct || fromGRPC(cs)
	if !direct {
		// An interceptor may have made attempts before this one, lost the guard's option, or got the stream elsewhere. So what
		// OnFinish has said so far counts for nothing, and the context is watched as well.
		s.finished.Store(nil)
		if s.ctx.Done() != nil {
			s.stop = context.AfterFunc(s.ctx, s.onContextEnd)
		}
	}
	s.offStack()
	if !direct && closed(s.cc) {
		s.settle(grpc.ErrClientConnClosing, nil) //nolint:staticcheck // deprecated for comparing with, and this is what grpc returns
	}
	return s, nil
}

// isGRPC says whether streamer is grpc's own, with no interceptor between it and the guard. Then OnFinish is sure to fire
// when the context ends, and there is no need to watch the context as well, at the price of three allocations and a place
// among the context's children. Should grpc give its function another name, streams stay right and cost that much more,
// and the test of the allocations says so.
func isGRPC(streamer grpc.Streamer) bool {
	pc := reflect.ValueOf(streamer).Pointer()
	if pc == coreStreamer.Load() {
		return true
	}
	if f := runtime.FuncForPC(pc); f == nil || f.Name() != "google.golang.org/grpc.newClientStream" {
		return false
	}
	coreStreamer.Store(pc)
	return true
}

var coreStreamer atomic.Uintptr // the entry of grpc's function, once seen

// fromGRPC says whether an interceptor handed on a stream of grpc's own: one of a type that grpc does not export.
func fromGRPC(cs grpc.ClientStream) bool {
	t := reflect.TypeOf(cs)
	if t == nil || t.Kind() != reflect.Pointer {
		return false
	}
	t = t.Elem()
	return t.PkgPath() == "google.golang.org/grpc" && !token.IsExported(t.Name())
}

// enter goes before a call to the stream below, leave after it. With nothing between the guard and grpc no call knows better
// than OnFinish; otherwise each may hide an attempt that is not the last.
func (s *stream) enter() {
	if !s.direct {
		s.busy.Add(1)
	}
}

// leave gets a pointer, because it is deferred: what it points to says whether the call returned or panicked or exited.
func (s *stream) leave(returned *bool) {
	if !*returned {
		s.lost()
	}
	if !s.direct {
		s.offStack()
	}
}

func (s *stream) offStack() {
	// Off the stack first, then a look for what OnFinish left; OnFinish leaves it first, then looks at the stack. So one of
	// the two sees the other.
	if s.busy.Add(-1) > 0 {
		return
	}
	f := s.finished.Load()
	switch {
	case f == nil:
	case s.core:
		s.over(f.err)
	case closed(s.cc):
		// It may have been an attempt that is not the last, but there will be no other.
		s.settle(grpc.ErrClientConnClosing, nil) //nolint:staticcheck // deprecated for comparing with, and this is what grpc returns
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
		s.over(err)
	}
}

// over settles what OnFinish said. Where an interceptor stands between, it may have been about another stream than the one
// that was handed on; asking that one for its trailer would commit it (S9).
func (s *stream) over(err error) {
	if s.direct {
		s.end(err)
	} else {
		s.settle(err, nil)
	}
}

// onContextEnd runs on a goroutine of the context's, and only if the context ended before the stream did. It does not use
// claim: stop may not have been written yet, and there is no watch to take back.
func (s *stream) onContextEnd() {
	if !s.settled.Swap(true) {
		s.report(s.ctx.Err(), nil)
	}
}

// end is settle for a stream that is over: it has a trailer, which may hold a pushback (G9). It comes by way of grpc.Trailer
// where that is sure, because the stream's Trailer must not be called before RecvMsg has returned.
func (s *stream) end(err error) {
	var trailer metadata.MD
	defer func() { s.settle(err, trailer) }() // also if what is below exits the goroutine
	switch {
	case err != nil && s.direct:
		if s.finished.Load() != nil {
			trailer = s.trailer
		}
	case err != nil:
		safely(func() { trailer = s.Trailer() })
	case !s.desc.ServerStreams:
		s.firstMessage() // the only one comes with the end
	}
}

// settle ends the guard's interest in the stream. Only the first call does anything.
func (s *stream) settle(err error, trailer metadata.MD) {
	if s.claim() {
		s.report(err, trailer)
	}
}

// claim says whether the caller is the one to settle the stream: once it says yes. It takes back the watch on the context.
func (s *stream) claim() bool {
	if s.settled.Swap(true) {
		return false
	}
	if s.stop != nil {
		s.stop()
	}
	return true
}

func (s *stream) report(err error, trailer metadata.MD) {
	if err == nil && s.pending.guard.plain && !s.pending.permit.IsProbe() {
		s.pending.permit.DoneWith(s.ctx, breaker.Report{Outcome: breaker.Success, Latency: s.firstAfter()})
		return
	}
	r := Result{Call: callOf(s.method, s.desc, nil, s.cc), Err: err, Trailer: trailer}
	// A trailer may be there although the error is this side's, of a message that could not be sent.
	if len(trailer) > 0 && s.sending.Load() == 0 {
		r.Peer = PeerAnswered
	}
	s.pending.settle(s.ctx, r, s.cc, s.firstAfter())
}

// firstAfter is what the slow rule looks at (S10): the time to the first message. A stream that got none has nothing to
// look at, so it gets the shortest time there is.
func (s *stream) firstAfter() time.Duration { return time.Duration(max(1, s.latency.Load())) }

// lost settles a stream whose call below panicked or exited the goroutine (G1).
func (s *stream) lost() {
	if s.claim() {
		s.pending.permit.DoneWith(s.ctx, breaker.Report{Outcome: breaker.Failure, Latency: s.firstAfter()})
	}
}

// RecvMsg receives a message and notes how the stream ends.
func (s *stream) RecvMsg(m any) error {
	if s.settled.Load() {
		return s.ClientStream.RecvMsg(m)
	}
	s.enter()
	returned := false
	defer s.leave(&returned)
	err := s.ClientStream.RecvMsg(m)
	returned = true
	switch {
	case err == io.EOF: //nolint:errorlint // RecvMsg returns it as it is; an error that wraps it is something else
		s.settle(nil, nil)
	case err != nil:
		s.end(err)
	case !s.desc.ServerStreams:
		s.end(nil) // S3
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
	s.sending.Add(1)
	defer s.sending.Add(-1)
	return s.through(func() error { return s.ClientStream.SendMsg(m) })
}

// CloseSend ends the sending and notes whether that ended the stream.
func (s *stream) CloseSend() error {
	return s.through(s.ClientStream.CloseSend)
}

func (s *stream) through(call func() error) error {
	s.enter()
	returned := false
	defer s.leave(&returned)
	err := call()
	returned = true
	if err != nil && err != io.EOF { //nolint:errorlint // as in RecvMsg
		s.settle(err, nil)
	}
	return err
}

// Header waits for the header. It decides nothing: over a stream of grpc's own OnFinish hears if that is all there will be,
// and over a retry interceptor RecvMsg may yet make another attempt.
func (s *stream) Header() (md metadata.MD, err error) {
	s.enter()
	returned := false
	defer s.leave(&returned)
	md, err = s.ClientStream.Header() //nolint:forbidigo // the caller's own call, passed on
	returned = true
	if f := s.finished.Load(); md == nil && f != nil && s.core {
		s.end(f.err) // there was nothing but a status: this stream is over, and not another
	}
	return md, err
}
