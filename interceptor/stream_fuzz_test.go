package interceptor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// errorOf returns the error with number n, and its outcome at the end of a stream by rules G2, G3, G6 and G7.
func errorOf(n byte) (breaker.Outcome, error) {
	switch n %= 24; n {
	case 0:
		return breaker.Success, nil
	case 17:
		return breaker.Failure, status.Error(77, "a code of its own")
	case 18:
		return breaker.Failure, errors.New("no status")
	case 19:
		return breaker.Ignored, context.Canceled
	case 20:
		return breaker.Failure, fmt.Errorf("wrapped: %w", context.DeadlineExceeded)
	case 21:
		return breaker.Success, fmt.Errorf("wrapped: %w", errNotFound)
	case 22:
		return breaker.Ignored, fmt.Errorf("wrapped: %w", breaker.ErrRejected)
	case 23:
		return breaker.Ignored, status.Error(codes.Internal, "grpc: error while marshaling: for the test")
	default:
		return outcomeOf(codes.Code(n)), statusError(codes.Code(n))
	}
}

// fuzzedStream is the state of one fuzzed stream, and its expected outcome. The first event that decides sets the
// outcome.
type fuzzedStream struct {
	server, probe, deadline bool
	opening                 byte

	message bool // a message has come
	decided bool
	outcome breaker.Outcome
	trace   []string
}

func (e *fuzzedStream) decide(o breaker.Outcome) {
	if !e.decided {
		e.decided, e.outcome = true, o
	}
}

// left returns the outcome if the context ends the stream (S2). With a deadline the stream is old by then. A probe has
// then closed the breaker (S14). Another stream is long-lived if a message has come. The guard does not know of a
// header (S9).
func (e *fuzzedStream) left() breaker.Outcome {
	switch {
	case e.deadline && !e.message && !e.probe:
		return breaker.Failure
	case e.deadline || e.message:
		return breaker.Success
	}
	return breaker.Ignored
}

func (e *fuzzedStream) note(format string, args ...any) {
	e.trace = append(e.trace, fmt.Sprintf(format, args...))
}

// How a stream opens, and what its Header and Trailer do when the guard calls them.
const (
	openPlain   = iota // neither
	openTrailer        // the trailer of a gRPC server
	openTrailerPanics
	openTrailerExits
	openTrailerFinishes // OnFinish is called in Trailer
	openTrailerOther    // a trailer that is not from a gRPC server
	openHeader
	openHeaderPanics
	openNothing // neither a stream nor an error
	openFails
	openPanics
	openExits
	openings
)

// answered returns the outcome of an error at the end. After a message or a header, or with the trailer of a gRPC
// server, the error is the peer's even if its text is one of grpc's (G5).
func (e *fuzzedStream) answered(class breaker.Outcome, how byte) breaker.Outcome {
	if how&0x1f%24 != 23 {
		return class
	}
	switch e.opening {
	case openTrailer, openTrailerFinishes, openHeader:
		return breaker.Failure
	}
	if e.message {
		return breaker.Failure
	}
	return class
}

// FuzzStreamEndings ends a stream that is not grpc's own by any sequence of events: results of its methods, OnFinish
// early, late, inside its methods and several times, panics, exits, and the end of the context. Each sequence has one
// outcome. It is that of the first event that decides, and no call is in flight in the end (S1 to S6, G1). OnFinish
// decides nothing, because the stream is wrapped and its connection is not closed.
func FuzzStreamEndings(f *testing.F) {
	const ( // flags
		server, probe, deadline = 1, 2, 4
		early1, early3          = 1 << 3, 3 << 3 // how often OnFinish is called in the streamer
		unavailable             = byte(codes.Unavailable)
		inside                  = 0x80 // OnFinish is called twice in the call
	)
	for _, seed := range [][]byte{
		{server, 0, opMessage, 0, opMessage, 0, opEOF, 0},
		{server, 0, opMessage, 0, opError, unavailable, opFinish, 0}, // OnFinish late
		{0, 0, opSend, 0, opSend, 0, opCloseSend, 0, opMessage, 0},
		{server | probe, 0, opMessage, 0, opError, unavailable},
		{server | early1 | 4<<5, 0, opMessage, unavailable | inside, opEOF, inside}, // a retry inside
		{server, openFails}, // no stream
		{server | early1, openNothing, opFinish, 3},
		{server | early3, openPanics},
		{server, openExits},
		{server, 0, opLeave, 0}, // canceled
		{server, openTrailer, opMessage, 0, opError, 23, opFinish, 0},
		{server, openTrailerPanics, opError, 8},
		{0, openTrailerExits, opSend, 0, opErrorThrice, unavailable},
		{server, openTrailerFinishes, opHeader, 6, opError, 23 | inside},
		{server, openTrailerOther, opError, 23}, // no gRPC server has answered
		{server, openHeader, opFinish, 14, opError, 23},
		{server, openHeader, opLeave, 0},
		{server, openHeaderPanics, opMessage, 0, opError, 23},
		{server, 0, opMessage, 0, opLeave, 0},
		{server | deadline, 0, opMessage, 0}, // long-lived
		{server | probe | deadline, 0},       // closes the breaker (S14)
		{server, 0, opMessage, 0, opSendError, 23},
		{server, 0, opFinish, unavailable, opEOF, 0},
		{server | deadline, 0}, // abandoned until its deadline
		{server, 0, opSendEOF, 0, opEOF, 0, opFinish, unavailable, opFinish, 0},
		{server, 0, opSendError, 23, opError, unavailable}, // grpc made the error in the client
		{server, 0, opRecvPanics, 0},
		{server, 0, opSendExits, inside, opEOF, 0},
		{server, 0, opHeader, 5 | inside, opCloseError, 3},
		{server, 0, opErrorThrice, 18, opLeave, 0, opRecvPanics, 0, opFinish, 0},
		{probe, 0, opError, 22}, // a rejection by another breaker
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 2 || len(script) > 64 {
			t.Skip()
		}
		synctest.Test(t, func(t *testing.T) { playStream(t, script) })
	})
}

func playStream(t *testing.T, script []byte) {
	t.Helper()
	flags := script[0]
	e := &fuzzedStream{server: flags&1 != 0, probe: flags&2 != 0, deadline: flags&4 != 0, opening: script[1] % openings}
	g := newGuard(t, breaker.Config{ConsecutiveFailures: -1, FailureRatio: -1, ProbeTimeout: time.Hour})
	if e.probe {
		halfOpen(t, g, methodKey)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if e.deadline {
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	}
	defer cancel()
	leave := func() {
		if e.deadline {
			time.Sleep(time.Minute)
		} else {
			cancel()
		}
		synctest.Wait()
		e.decide(e.left())
	}

	var finish func(error)
	fake := new(fakeStream)
	switch e.opening {
	case openTrailer:
		fake.trailer = fakeTrailer("content-type", "application/grpc")
	case openTrailerOther:
		fake.trailer = fakeTrailer("k", "v")
	case openHeader:
		fake.header = func() (metadata.MD, error) { return metadata.Pairs("k", "v"), nil }
	case openHeaderPanics:
		fake.header = func() (metadata.MD, error) { panic("Header") }
	case openTrailerPanics:
		fake.trailer = func() metadata.MD { panic("Trailer") }
	case openTrailerExits:
		fake.trailer = func() metadata.MD { runtime.Goexit(); return nil }
	case openTrailerFinishes:
		fake.trailer = func() metadata.MD { finish(down); return metadata.Pairs("content-type", "application/grpc") }
	}
	var cs grpc.ClientStream
	what := leaves(func() {
		var err error
		cs, err = g.Stream(ctx, &grpc.StreamDesc{ServerStreams: e.server, ClientStreams: true}, nil, fullMethod,
			func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string,
				opts ...grpc.CallOption,
			) (grpc.ClientStream, error) {
				finish = finisher(opts)
				_, early := errorOf(flags >> 5)
				for range flags >> 3 & 3 {
					finish(early)
				}
				switch e.opening {
				case openNothing:
					return nil, nil
				case openFails:
					return nil, down
				case openPanics:
					panic("streamer")
				case openExits:
					runtime.Goexit()
				}
				return fake, nil
			})
		if (cs != nil) != (e.opening < openNothing) || (err != nil) != (e.opening == openFails) {
			t.Errorf("opening %d: got a stream %v and error %v", e.opening, cs, err)
		}
	})
	if (what != nil) != (e.opening == openPanics || e.opening == openExits) {
		t.Errorf("opening %d: Stream ended with %v", e.opening, what)
	}
	switch e.opening {
	case openNothing:
		e.decide(breaker.Ignored)
	case openFails, openPanics, openExits:
		e.decide(breaker.Failure)
	}
	for i := 2; i+1 < len(script); i += 2 {
		if cs == nil {
			finish(nil) // after the end (S4)
			continue
		}
		e.step(cs, fake, finish, leave, script[i], script[i+1])
	}
	leave()
	wantTally(t, fmt.Sprintf("%+v, ends with %v after %q", *e, e.outcome, e.trace), g, one(e.outcome))
}

const (
	opMessage = iota
	opEOF
	opError
	opErrorThrice // OnFinish is called three times in it
	opSend
	opSendEOF
	opSendError
	opCloseSend
	opCloseError
	opHeader
	opFinish
	opLeave
	opRecvPanics
	opSendExits
	ops
)

// step makes one event happen. The low bits of how are a number for errorOf. Its top bit means that OnFinish is called
// with that error during the call.
func (e *fuzzedStream) step(cs grpc.ClientStream, fake *fakeStream, finish func(error), leave func(), op, how byte) {
	class, err := errorOf(how & 0x1f)
	inside := func() {
		if how&0x80 != 0 {
			finish(err)
			finish(err)
		}
	}
	receive := func(result error) {
		fake.recv = func(any) error { inside(); return result }
		leaves(func() { _ = cs.RecvMsg(nil) }) // Trailer may exit the goroutine
	}
	send := func(result error) {
		fake.send = func(any) error { inside(); return result }
		_ = cs.SendMsg(nil)
	}
	op %= ops
	e.note("%d(%v)", op, err)
	switch op {
	case opMessage:
		receive(nil)
		e.message = true
		if !e.server || e.probe {
			e.decide(breaker.Success)
		}
	case opEOF:
		receive(io.EOF)
		e.decide(breaker.Success)
	case opError:
		receive(eofOr(err))
		e.decide(e.answered(class, how))
	case opErrorThrice:
		inside = func() { finish(nil); finish(down); finish(err) }
		receive(eofOr(err))
		e.decide(e.answered(class, how))
	case opSend:
		send(nil)
	case opSendEOF:
		send(io.EOF)
	case opSendError:
		send(err)
		if err != nil {
			e.decide(class)
		}
	case opCloseSend, opCloseError:
		if op == opCloseSend {
			err = nil
		}
		fake.closeSend = func() error { inside(); return err }
		_ = cs.CloseSend()
		if err != nil {
			e.decide(class)
		}
	case opHeader:
		before := fake.header
		fake.header = func() (metadata.MD, error) { inside(); return nil, err }
		_, _ = cs.Header()
		fake.header = before
	case opFinish:
		finish(err)
	case opLeave:
		leave()
	case opRecvPanics:
		fake.recv = func(any) error { inside(); panic("RecvMsg") }
		leaves(func() { _ = cs.RecvMsg(nil) })
		e.decide(breaker.Failure)
	case opSendExits:
		fake.send = func(any) error { inside(); runtime.Goexit(); return nil }
		leaves(func() { _ = cs.SendMsg(nil) })
		e.decide(breaker.Failure)
	}
}
