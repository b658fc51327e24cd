package interceptor

import (
	"context"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Stream guards one stream. It is a grpc.StreamClientInterceptor. cc may be nil.
func (g *Guard) Stream(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	b := g.find(ctx, method, desc, nil, cc, opts)
	if b == nil || pastDeadline(ctx) { // as in Unary
		return streamer(ctx, desc, cc, method, opts...)
	}
	permit, err := b.Acquire(ctx)
	if err != nil {
		if cause := asRejection(err); cause != nil {
			err := g.reject(ctx, cause, method, desc, nil, cc)
			callOnFinish(opts, err)
			return nil, err // without a stream (G8)
		}
		return streamer(ctx, desc, cc, method, opts...)
	}
	s := &stream{
		ctx: ctx, cc: cc, method: method, desc: desc, direct: grpcStreamer.is(streamer),
		pending: g.begin(ctx, b, permit, true), // a stream always needs its start
	}
	// This is a copy, because the caller's slice may be shared (G1). The guard's OnFinish is first. So the guard adds its
	// events to a span before an interceptor outside ends that span in its own OnFinish.
	inner := append(s.optsBuf[:0], grpc.OnFinish(s.onFinish))
	if s.direct {
		inner = append(inner, grpc.Trailer(&s.trailer), grpc.Peer(&s.peer))
	}
	inner = append(inner, opts...)
	if permit.IsProbe() || g.hooks.guardedTwice != nil {
		s.mark = guardMark{breaker: b, probe: permit.IsProbe()}
		inner = append(inner, &s.mark)
	}
	if permit.IsProbe() {
		s.pending.reconnect(ctx, cc)
	}
	inner = slices.Clip(inner)
	return s.open(func() (grpc.ClientStream, error) { return streamer(ctx, desc, cc, method, inner...) })
}

// stream is a guarded stream. stream_state.go describes when its outcome is decided.
//
// While the stream is running, the guard calls neither its Context nor its Header. Both commit the call to its current
// attempt, which disables grpc's retries (S9). The guard calls Header after the stream has ended.
type stream struct {
	grpc.ClientStream // stored before from

	pending pending
	ctx     context.Context //nolint:containedctx // of the call; grpc's own stream keeps it for the same time
	cc      *grpc.ClientConn
	method  string
	desc    *grpc.StreamDesc

	direct bool          // no interceptor is between the guard and grpc
	from   atomic.Uint32 // an origin; publishes ClientStream, created and stop once it is not originOpening
	stop   func() bool   // ends the watch of the context; nil if there is none

	created time.Time // when the streamer returned the stream; its age counts from here

	ageTimer  atomic.Pointer[time.Timer] // of a probe, runs until the probe is old
	finishErr atomic.Pointer[finish]     // the error of OnFinish; nil if OnFinish was not called yet
	undoSign  atomic.Pointer[func()]     // takes back the sign of life that the first message gave (S13)

	ended     atomic.Bool   // the stream has ended
	settled   atomic.Bool   // the outcome is reported; for a probe this may be before the stream has ended
	inCall    atomic.Int32  // running calls whose result decides instead of OnFinish
	inRecv    atomic.Int32  // running calls of RecvMsg
	inHeader  atomic.Int32  // running calls of Header
	inSend    atomic.Int32  // running calls of SendMsg and CloseSend
	messages  atomic.Uint64 // received messages
	hasHeader atomic.Bool   // a header was seen; false if no call has looked for one

	// For the slow rule (S10), in nanoseconds.
	requested atomic.Int64 // 1 + the time from admission until the backend could answer; 0 until then
	latency   atomic.Int64 // the time to the first message; 0 until then

	// grpc sets them before it calls OnFinish. Only a direct stream has them.
	trailer metadata.MD
	peer    peer.Peer

	mark    guardMark
	optsBuf [8]grpc.CallOption // avoids an allocation for the guard's options in most calls
}

// finish holds the error that OnFinish got.
type finish struct{ err error }

var finishedOK = new(finish)

func (s *stream) origin() origin { return origin(s.from.Load()) }

// open calls the streamer and sets up what detects the end of the stream.
func (s *stream) open(streamer func() (grpc.ClientStream, error)) (grpc.ClientStream, error) {
	done := false
	defer func() {
		if !done {
			s.on(panicked, nil)
		}
	}()
	cs, err := streamer() // OnFinish may be called before it returns (S4)
	done = true
	if err != nil {
		s.on(returned, err)
		return nil, err // S1
	}
	if cs == nil { // a mistake of an interceptor; the caller gets what it returned
		s.endAs(breaker.Ignored)
		return nil, nil
	}
	s.ClientStream, s.created = cs, time.Now()
	comesFrom := originDirect
	if !s.direct {
		comesFrom = originWrapped
		if fromGRPC(cs) {
			comesFrom = originUnwrapped
		}
		// An interceptor may have made attempts before this one, removed the guard's option, or returned a stream of another
		// connection. So earlier calls of OnFinish are ignored, and the context is watched too. If the type of the context
		// is not from package context, that costs a goroutine while the stream is open (S12).
		s.finishErr.Store(nil)
		if s.ctx.Done() != nil {
			s.stop = context.AfterFunc(s.ctx, s.onContextDone)
		}
	}
	s.from.Store(uint32(comesFrom))
	switch {
	case s.ended.Load(): // the context ended before from was stored
		s.stopWatching()
	case s.direct:
		// onFinish stores finishErr before it loads from, and open stores from before it loads finishErr. So at least one of
		// them sees the other.
		if f := s.finishErr.Load(); f != nil {
			s.on(finished, f.err)
		}
	case closed(s.cc):
		s.on(returned, grpc.ErrClientConnClosing) //nolint:staticcheck // deprecated for comparisons; grpc returns it
	}
	if s.pending.permit.IsProbe() && !s.ended.Load() {
		s.startAgeTimer()
	}
	return s, nil
}

// enter marks the start of a call to the stream below, and leave its end. The outcome of a direct stream is decided by
// OnFinish, so its calls are not counted. For other streams, OnFinish during a call may come from an attempt that is
// retried.
func (s *stream) enter() {
	if s.origin() != originDirect {
		s.inCall.Add(1)
	}
}

// leave is deferred. *done is false if the call panicked or exited the goroutine.
func (s *stream) leave(done *bool) {
	if !*done {
		s.on(panicked, nil)
	}
	// leave decrements inCall before it loads finishErr, and onFinish stores finishErr before it loads inCall. So at least
	// one of them sees the other.
	if s.origin() == originDirect || s.inCall.Add(-1) > 0 {
		return
	}
	if f := s.finishErr.Load(); f != nil {
		s.on(callsOver, f.err)
	}
}

// onFinish is the guard's grpc.OnFinish option.
func (s *stream) onFinish(err error) {
	if s.ended.Load() {
		return
	}
	// If a stream has no header, grpc's Header calls OnFinish with nil, even if the connection was lost. Only RecvMsg
	// returns the error, so a RecvMsg within the grace period decides.
	if err == nil && s.inHeader.Load() > 0 && s.messages.Load() == 0 {
		time.AfterFunc(grace, func() { s.on(noHeader, nil) })
		return
	}
	f := finishedOK
	if err != nil {
		f = &finish{err}
	}
	s.finishErr.Store(f)
	if s.inCall.Load() > 0 {
		s.on(finishedIn, err)
	} else {
		s.on(finished, err)
	}
}

// grace is how long the result of a call is preferred after the context ended, or after Header found no header.
const grace = 50 * time.Millisecond

// onContextDone runs if the caller's context ends before the stream. A running RecvMsg usually returns at once. Its
// result is preferred, because then Header shows whether the stream was answered.
func (s *stream) onContextDone() {
	if s.inCall.Load() == 0 {
		s.on(contextDone, s.ctx.Err())
		return
	}
	time.AfterFunc(grace, func() { s.on(contextDone, s.ctx.Err()) })
}

// end marks the stream as ended, and reports its outcome if that has not been done.
func (s *stream) end(sig signal, err error) {
	s.markEnded()
	// While SendMsg runs, the error may be that of the message that it sends, although the peer has answered. inSend is
	// loaded before settled: if a SendMsg returned the error before that load, it has settled the stream.
	sending := s.inSend.Load() > 0
	if s.settled.Swap(true) {
		return
	}
	if err == nil {
		if !s.desc.ServerStreams {
			s.noteFirstMessage() // the only message comes with the end
		}
		s.report(Result{}, false)
		return
	}
	r := Result{Err: err}
	defer func() { s.report(r, sending) }() // also if collectEvidence exits the goroutine
	s.collectEvidence(sig, &r)
}

// endAs marks the stream as ended and reports o without the classifier. It is for a stream without an error.
func (s *stream) endAs(o breaker.Outcome) {
	s.markEnded()
	if !s.settled.Swap(true) {
		r := breaker.Report{Outcome: o, Latency: s.answerTime()}
		if o == breaker.Failure {
			r.Cause = causePanic
		}
		s.pending.report(s.ctx, r, s.undo())
	}
}

// undo returns the function that takes back the stream's sign of life, or nil if it has given none.
func (s *stream) undo() func() {
	if undo := s.undoSign.Load(); undo != nil {
		return *undo
	}
	return nil
}

// report completes r, classifies it and reports the outcome. The caller must have set s.settled. If SendMsg was running
// at the end, a message or header from the peer does not show whose error it is.
func (s *stream) report(r Result, sending bool) {
	if r.Err == nil && s.pending.guard.plain && !s.pending.permit.IsProbe() {
		s.pending.permit.Report(s.ctx, breaker.Report{Outcome: breaker.Success, Latency: s.answerTime()})
		return
	}
	r.Call, r.Direct = callOf(s.method, s.desc, nil, s.cc), s.direct
	r.Messages = s.messages.Load()
	// The outcome of a probe is its first message or its end. A header does not count (S8).
	r.Answered = !s.pending.permit.IsProbe() && (r.Messages > 0 || s.hasHeader.Load())
	if !sending && (r.Messages > 0 || s.hasHeader.Load() || peerAnswered(r.Trailer)) {
		r.Peer = PeerAnswered
	}
	r.Duration = time.Since(s.pending.start)
	// A stream that is opening is not old, because it was waiting for a connection or for attempts that failed.
	r.Old = s.origin() != originOpening && time.Since(s.created) >= s.pending.guard.longStream
	s.pending.settle(s.ctx, r, s.cc, s.answerTime(), s.undo())
}

// markEnded marks the stream as ended, and stops the watch of the context and the timer of a probe.
func (s *stream) markEnded() {
	if !s.ended.Swap(true) && s.origin() != originOpening {
		s.stopWatching()
	}
}

func (s *stream) stopWatching() {
	if s.stop != nil {
		s.stop()
	}
	if timer := s.ageTimer.Load(); timer != nil {
		timer.Stop()
	}
}

// collectEvidence adds to r what is known of the peer of a stream that has ended with an error. It does not block:
// Header and Trailer return at once in OnFinish, and after RecvMsg has returned the end.
func (s *stream) collectEvidence(sig signal, r *Result) {
	from := s.origin()
	switch {
	case from == originOpening:
		if s.direct {
			r.Peer = PeerUnreached
		}
	case from == originDirect:
		// grpc has set trailer and peer when it calls OnFinish, and when RecvMsg returns the end.
		if s.finishErr.Load() == nil && sig != received {
			break
		}
		recovered(s.noteHeader)
		r.Trailer = s.trailer
		r.Peer = PeerSilent
		if unreachedPeer(&s.peer) {
			r.Peer = PeerUnreached
		}
	case sig == received:
		// RecvMsg of a wrapped stream may return an error of an interceptor, while the stream below goes on. There Header
		// may block, and Trailer is a data race.
		finished := from == originUnwrapped || s.finishErr.Load() != nil
		if finished || s.ctx.Err() != nil || closed(s.cc) { // OnFinish may come a little later than the end of the context
			recovered(s.noteHeader)
		}
		if finished {
			recovered(func() { r.Trailer = s.ClientStream.Trailer() })
		}
	}
}

// noteHeader sets hasHeader if a header has come. The stream must have ended.
func (s *stream) noteHeader() {
	if md, err := s.ClientStream.Header(); err == nil && len(md) > 0 { //nolint:forbidigo // the stream has ended
		s.hasHeader.Store(true)
	}
}

// RecvMsg receives a message, and detects the first message and the end of the stream.
func (s *stream) RecvMsg(m any) error {
	if s.ended.Load() {
		return s.ClientStream.RecvMsg(m)
	}
	s.enter()
	s.inRecv.Add(1)
	defer s.inRecv.Add(-1)
	done := false
	defer s.leave(&done)
	err := s.ClientStream.RecvMsg(m)
	done = true
	switch {
	case err == io.EOF: //nolint:errorlint // RecvMsg does not wrap it, and an error that wraps it is not the end
		s.on(received, nil)
	case err != nil:
		s.on(received, err)
	default:
		first := s.messages.Add(1) == 1
		if !s.desc.ServerStreams {
			s.on(received, nil) // the only response is success (S3)
		} else if first {
			s.firstMessage()
		}
	}
	return err
}

// firstMessage handles the first message. It is the success of a probe (S8). For other streams it is a sign of life
// (S13).
func (s *stream) firstMessage() {
	s.noteFirstMessage()
	switch {
	case s.pending.permit.IsProbe():
		if !s.settled.Swap(true) {
			s.report(Result{}, false)
		}
	case !s.settled.Load():
		if undo, _ := s.pending.permit.SignOfLife(s.ctx); undo != nil {
			kept := undo // a copy, because taking the address of undo would allocate it even when it is nil
			s.undoSign.Store(&kept)
		}
	}
}

// SendMsg sends a message. An error other than io.EOF ends the stream.
func (s *stream) SendMsg(m any) error {
	if s.desc.ServerStreams && s.desc.ClientStreams {
		s.noteRequestSent()
	}
	return s.callBelow(func() error { return s.ClientStream.SendMsg(m) })
}

// CloseSend closes the sending side. An error other than io.EOF ends the stream.
func (s *stream) CloseSend() error {
	if !s.desc.ServerStreams {
		s.noteRequestSent()
	}
	return s.callBelow(s.ClientStream.CloseSend)
}

func (s *stream) callBelow(call func() error) error {
	s.inSend.Add(1)
	defer s.inSend.Add(-1)
	s.enter()
	done := false
	defer s.leave(&done)
	err := call()
	done = true
	if err != nil && err != io.EOF { //nolint:errorlint // as in RecvMsg
		s.on(returned, err)
	}
	return err
}

// Header waits for the header. It decides the outcome only if the stream has ended without a header, and only for a
// stream of grpc that an interceptor returned unchanged. For a stream that an interceptor wrapped, RecvMsg may make
// another attempt.
func (s *stream) Header() (metadata.MD, error) {
	s.enter()
	done := false
	defer s.leave(&done)
	s.inHeader.Add(1)
	defer s.inHeader.Add(-1)
	md, err := s.ClientStream.Header() //nolint:forbidigo // the caller calls it
	done = true
	if len(md) > 0 {
		s.hasHeader.Store(true)
	} else if f := s.finishErr.Load(); f != nil && s.origin() == originUnwrapped {
		s.on(received, f.err)
	}
	return md, err
}

// noteRequestSent stores the time from which the backend can answer: at CloseSend of a client stream, and at the first
// SendMsg of a bidirectional stream. A server stream counts from its admission.
func (s *stream) noteRequestSent() {
	if s.requested.Load() == 0 {
		s.requested.CompareAndSwap(0, int64(s.pending.elapsed())+1)
	}
}

// noteFirstMessage stores how long the first message has taken.
func (s *stream) noteFirstMessage() {
	now := int64(s.pending.elapsed())
	if requested := s.requested.Load(); requested > 0 {
		now -= requested - 1
	} else if s.desc.ClientStreams {
		return // no request was sent yet
	}
	s.latency.CompareAndSwap(0, now)
}

// answerTime returns the time to the first message, for the slow rule (S10). Without a message it is 1 ns, because 0
// would make the breaker measure the time of the whole stream.
func (s *stream) answerTime() time.Duration { return time.Duration(max(1, s.latency.Load())) }
