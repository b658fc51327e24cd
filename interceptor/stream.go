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
		if cause := asRejection(err); cause != nil {
			err := g.reject(ctx, cause, method, desc, nil, cc)
			callOnFinish(opts, err)
			return nil, err // G8: no stream comes with it
		}
		return streamer(ctx, desc, cc, method, opts...)
	}
	s := &stream{
		ctx: ctx, cc: cc, method: method, desc: desc, direct: grpcStreamer.is(streamer),
		pending: g.begin(ctx, b, permit),
	}
	s.pending.start = time.Now()
	// A copy: the caller's slice may be shared (G1). The guard's option goes first, so that the
	// guard's events are on the span before an interceptor outside ends it in its own OnFinish.
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

// stream is a guarded stream. stream_state.go says what settles its outcome.
//
// While the stream is running the guard calls neither its Context nor its Header: either one commits the call to its
// current attempt, which disables grpc's retries (S9). It calls Header once the stream has ended.
type stream struct {
	grpc.ClientStream // written before the origin is

	pending pending
	ctx     context.Context //nolint:containedctx // the call's; grpc's own stream has it too, for as long
	cc      *grpc.ClientConn
	method  string
	desc    *grpc.StreamDesc

	direct bool          // grpc itself makes the stream, with no interceptor between
	from   atomic.Uint32 // an origin; once it is not originOpening, ClientStream, created and stop do not change
	stop   func() bool   // removes the watch on the context; nil: there is none

	created time.Time // when the streamer returned the stream: it is old that long after

	ageTimer  atomic.Pointer[time.Timer] // of a probe: runs until it is old
	finishErr atomic.Pointer[finish]     // the error of OnFinish; nil: OnFinish has not come
	undoSign  atomic.Pointer[func()]     // takes back the sign of life that the first message gave (S13)

	ended     atomic.Bool   // the stream has ended
	settled   atomic.Bool   // its outcome is reported; that of a probe may be while the stream lives on
	inCall    atomic.Int32  // running calls whose result decides instead of OnFinish
	inRecv    atomic.Int32  // running calls of RecvMsg
	inHeader  atomic.Int32  // running calls of Header
	inSend    atomic.Int32  // running calls of SendMsg and CloseSend
	messages  atomic.Uint64 // that have come
	hasHeader atomic.Bool   // a header was seen; false if nothing has looked for one

	// For the slow rule, in nanoseconds, where it is on: from when to the first answer (S10).
	requested atomic.Int64 // 1 + the time since admission; 0: not yet
	latency   atomic.Int64 // 0: no answer yet

	// Of a direct stream: grpc fills them in before it calls OnFinish.
	trailer metadata.MD
	peer    peer.Peer

	mark    guardMark
	optsBuf [8]grpc.CallOption // so that the guard's options cost most calls no allocation
}

type finish struct{ err error }

var finishedOK = new(finish)

func (s *stream) origin() origin { return origin(s.from.Load()) }

// open makes the stream, and watches for its end.
func (s *stream) open(streamer func() (grpc.ClientStream, error)) (grpc.ClientStream, error) {
	done := false
	defer func() {
		if !done {
			s.on(panicked, nil)
		}
	}()
	cs, err := streamer() // no lock is held here, nor anywhere: OnFinish may be called before it returns (S4)
	done = true
	if err != nil {
		s.on(returned, err)
		return nil, err // S1
	}
	if cs == nil { // an interceptor's mistake, which is for its caller to find
		s.endAs(breaker.Ignored)
		return nil, nil
	}
	s.ClientStream, s.created = cs, time.Now()
	comesFrom := originDirect
	if !s.direct {
		comesFrom = originWrapped
		if fromGRPC(cs) {
			comesFrom = originHandedOn
		}
		// An interceptor may have made attempts before this one, dropped the guard's option, or returned a stream of
		// another connection. So earlier calls of OnFinish count for nothing, and the context is watched as well. With a
		// context that is not from package context, that costs a goroutine while the stream is open (S12).
		s.finishErr.Store(nil)
		if s.ctx.Done() != nil {
			s.stop = context.AfterFunc(s.ctx, s.onContextDone)
		}
	}
	s.from.Store(uint32(comesFrom))
	switch {
	case s.ended.Load(): // the context ended meanwhile
		s.stopWatching()
	case s.direct:
		// OnFinish writes kept first, and then reads the origin, which is written by now. So one of the two sees the other.
		if f := s.finishErr.Load(); f != nil {
			s.on(finished, f.err)
		}
	case closed(s.cc):
		s.on(returned, grpc.ErrClientConnClosing) //nolint:staticcheck // deprecated for comparing with, and this is what grpc returns
	}
	if s.pending.permit.IsProbe() && !s.ended.Load() {
		s.startAgeTimer()
	}
	return s, nil
}

// enter marks the start of a call to the stream below, and leave its end. For a direct stream OnFinish decides, so
// calls are not counted. In other streams OnFinish during a call may come from an attempt that is retried.
func (s *stream) enter() {
	if s.origin() != originDirect {
		s.inCall.Add(1)
	}
}

// leave gets a pointer because it is deferred: *done is false if the call panicked or exited the goroutine.
func (s *stream) leave(done *bool) {
	if !*done {
		s.on(panicked, nil)
	}
	// The call is subtracted first, and then kept is read. OnFinish writes kept first, and then reads busy. So one of the
	// two sees the other.
	if s.origin() == originDirect || s.inCall.Add(-1) > 0 {
		return
	}
	if f := s.finishErr.Load(); f != nil {
		s.on(callsOver, f.err)
	}
}

func (s *stream) onFinish(err error) {
	if s.ended.Load() {
		return
	}
	// grpc's Header ends a stream that has no header with nil, also one whose connection was lost, and only RecvMsg returns
	// the error.
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

// grace is how long a call that knows more may still decide after the end of the context, or after a Header that found
// nothing.
const grace = 50 * time.Millisecond

// onContextDone runs if the caller's context ends before the stream. A running RecvMsg mostly returns at once, and
// then Header shows whether the stream was answered, so its result is preferred.
func (s *stream) onContextDone() {
	if s.inCall.Load() == 0 {
		s.on(contextDone, s.ctx.Err())
		return
	}
	time.AfterFunc(grace, func() { s.on(contextDone, s.ctx.Err()) })
}

// end notes that the stream is over, and reports its outcome unless that has been done.
func (s *stream) end(sig signal, err error) {
	s.markOver()
	// While a message is being sent the error may be of that, although the peer has answered. This is read first: a SendMsg
	// that has returned by now, with an error that ended the stream, has settled it.
	sending := s.inSend.Load() > 0
	if s.settled.Swap(true) {
		return
	}
	if err == nil {
		if !s.desc.ServerStreams {
			s.noteFirstAnswer() // the only message comes with the end
		}
		s.report(Result{}, false)
		return
	}
	r := Result{Err: err}
	defer func() { s.report(r, sending) }() // also if what is below exits the goroutine
	s.collectEvidence(sig, &r)
}

// endAs is end for a stream that has no error to judge.
func (s *stream) endAs(o breaker.Outcome) {
	s.markOver()
	if !s.settled.Swap(true) {
		r := breaker.Report{Outcome: o, Latency: s.answerTime()}
		if o == breaker.Failure {
			r.Cause = causePanic
		}
		s.pending.report(s.ctx, r, s.undo())
	}
}

// undo returns what takes back the stream's sign of life, or nil if it has given none.
func (s *stream) undo() func() {
	if undo := s.undoSign.Load(); undo != nil {
		return *undo
	}
	return nil
}

// report reports the outcome. The caller has set s.settled. r holds what is known, except for the call and the times. If
// a message was being sent, what came from the peer proves nothing about the error.
func (s *stream) report(r Result, sending bool) {
	if r.Err == nil && s.pending.guard.plain && !s.pending.permit.IsProbe() {
		s.pending.permit.Report(s.ctx, breaker.Report{Outcome: breaker.Success, Latency: s.answerTime()})
		return
	}
	r.Call, r.Direct = callOf(s.method, s.desc, nil, s.cc), s.direct
	r.Messages = s.messages.Load()
	// The outcome of a probe is its first message or its end. A header proves nothing (S8).
	r.Answered = !s.pending.permit.IsProbe() && (r.Messages > 0 || s.hasHeader.Load())
	if !sending && (r.Messages > 0 || s.hasHeader.Load() || peerAnswered(r.Trailer)) {
		r.Peer = PeerAnswered
	}
	r.Duration = time.Since(s.pending.start)
	// Not while it opens: it waited for a connection, or for attempts that failed.
	r.Old = s.origin() != originOpening && time.Since(s.created) >= s.pending.guard.longStream
	s.pending.settle(s.ctx, r, s.cc, s.answerTime(), s.undo())
}

// markOver notes that the stream is over. The watch on the context and the timer of a probe are of no use any more.
func (s *stream) markOver() {
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

// collectEvidence fills in what is known of the peer of a stream that has ended with an error. Nothing here waits: Header
// and Trailer return at once after RecvMsg has returned the end, and in OnFinish.
func (s *stream) collectEvidence(sig signal, r *Result) {
	from := s.origin()
	switch {
	case from == originOpening:
		if s.direct {
			r.Peer = PeerUnreached
		}
	case from == originDirect:
		// Where OnFinish has not come, RecvMsg must have returned the end: then too grpc has filled in trailer and peer.
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
		recovered(s.noteHeader)
		recovered(func() { r.Trailer = s.ClientStream.Trailer() })
	}
}

// noteHeader notes whether a header has come. The stream must have ended.
func (s *stream) noteHeader() {
	if md, err := s.ClientStream.Header(); err == nil && len(md) > 0 { //nolint:forbidigo // it has ended
		s.hasHeader.Store(true)
	}
}

// RecvMsg receives a message and notes how the stream ends.
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
	case err == io.EOF: //nolint:errorlint // RecvMsg returns it as it is; an error that wraps it is something else
		s.on(received, nil)
	case err != nil:
		s.on(received, err)
	default:
		first := s.messages.Add(1) == 1
		if !s.desc.ServerStreams {
			s.on(received, nil) // S3
		} else if first {
			s.firstMessage()
		}
	}
	return err
}

// firstMessage is the success of a probe (S8). For the streams of a closed breaker it is a sign of life (S13).
func (s *stream) firstMessage() {
	s.noteFirstAnswer()
	switch {
	case s.pending.permit.IsProbe():
		if !s.settled.Swap(true) {
			s.report(Result{}, false)
		}
	case !s.settled.Load():
		if undo, _ := s.pending.permit.SignOfLife(s.ctx); undo != nil {
			s.undoSign.Store(&undo)
		}
	}
}

// SendMsg sends a message and notes whether that ended the stream.
func (s *stream) SendMsg(m any) error {
	if s.desc.ServerStreams && s.desc.ClientStreams {
		s.noteRequestSent()
	}
	return s.callBelow(func() error { return s.ClientStream.SendMsg(m) })
}

// CloseSend ends the sending and notes whether that ended the stream.
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

// Header waits for the header. It decides only for a stream that grpc made and that ends without a header. With a
// retry interceptor inside, RecvMsg may make another attempt.
func (s *stream) Header() (metadata.MD, error) {
	s.enter()
	done := false
	defer s.leave(&done)
	s.inHeader.Add(1)
	defer s.inHeader.Add(-1)
	md, err := s.ClientStream.Header() //nolint:forbidigo // the caller's own call, passed on
	done = true
	if len(md) > 0 {
		s.hasHeader.Store(true)
	} else if f := s.finishErr.Load(); f != nil && s.origin() == originHandedOn {
		s.on(received, f.err)
	}
	return md, err
}

// noteRequestSent notes the time from which the backend could answer: CloseSend of a client stream, the first SendMsg of a
// bidirectional stream. A server stream counts from its creation.
func (s *stream) noteRequestSent() {
	if s.requested.Load() == 0 {
		s.requested.CompareAndSwap(0, int64(s.pending.elapsed())+1)
	}
}

// noteFirstAnswer notes how long the first answer has taken.
func (s *stream) noteFirstAnswer() {
	now := int64(s.pending.elapsed())
	if requested := s.requested.Load(); requested > 0 {
		now -= requested - 1
	} else if s.desc.ClientStreams {
		return // nothing was asked yet
	}
	s.latency.CompareAndSwap(0, now)
}

// answerTime is what the slow rule compares (S10): the time to the first message. Without a message it is 1 ns.
func (s *stream) answerTime() time.Duration { return time.Duration(max(1, s.latency.Load())) }
