package interceptor

import (
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A guarded stream is a state machine. Its signals are a call that returned, grpc.OnFinish, the end of the context, a
// panic, and time that passed. The reaction depends on the origin of the stream, because OnFinish has a different
// meaning for each:
//
//	                       | opening | direct  | unwrapped | wrapped
//	RecvMsg returned       | -       | end     | end       | end
//	a call returned        | end     | end     | end       | end
//	OnFinish               | later   | end     | end       | if closed
//	OnFinish in a call     | later   | end     | later     | later
//	the last call returned | -       | -       | end       | if closed
//	context done           | end     | -       | end       | end
//	Header found none      | -       | give up | give up   | -
//	panic or Goexit        | fail    | fail    | fail      | fail
//	the probe is old       | -       | sustain | sustain   | sustain
//
// "later" keeps the error of OnFinish until the streamer, or the last running call, has returned. An error that came
// before the streamer returned is dropped if the stream turns out not to be direct.
//
// grpc calls OnFinish when a stream that it made has ended. For a direct stream that is the outcome. An interceptor may
// open several streams for one call. A retry interceptor opens a stream for each attempt, always inside one of the
// guard's calls. So OnFinish decides nothing while a call runs, and the result of that call decides (S5). A hedging
// interceptor opens several streams at once, and those whose result it drops end at any time. So OnFinish does not
// decide for a wrapped stream, unless the caller has closed the connection, which ends all attempts (S4, S6).

// origin is where a stream comes from.
type origin uint32

const (
	originOpening   origin = iota // the streamer has not returned
	originDirect                  // grpc made it, and no interceptor is between the guard and grpc
	originUnwrapped               // grpc made it, and an interceptor returned it unchanged
	originWrapped                 // an interceptor made it
)

const origins = 4

// signal is what the state machine reacts to.
type signal uint8

const (
	received    signal = iota // RecvMsg returned the end of the stream, or Header returned no header after OnFinish
	returned                  // the streamer, SendMsg or CloseSend returned an error
	finished                  // OnFinish, while no call runs whose result decides
	finishedIn                // OnFinish, while such a call runs
	callsOver                 // the last such call returned, and OnFinish had been called before
	contextDone               // the caller's context is done
	noHeader                  // OnFinish(nil) in Header, and the stream has not ended in the grace period after it
	panicked                  // a call below the guard panicked or exited its goroutine
	probeIsOld                // the timer of a probe fired
)

const signals = 9

// reaction is what the stream does on a signal.
type reaction uint8

const (
	nothing     reaction = iota // the signal cannot occur here, or decides nothing
	later                       // keep the error of OnFinish until the streamer or the last call has returned
	end                         // the stream has ended; classify it
	endIfClosed                 // the same, if the caller has closed the connection
	giveUp                      // the stream has ended, and its error is not known; ignore it
	fail                        // the stream has failed (G1)
	sustain                     // close the breaker (S14)
)

var reactions = [signals][origins]reaction{
	//           opening  direct   unwrapped wrapped
	received:    {nothing, end, end, end},
	returned:    {end, end, end, end},
	finished:    {later, end, end, endIfClosed},
	finishedIn:  {later, end, later, later},
	callsOver:   {nothing, nothing, end, endIfClosed},
	contextDone: {end, nothing, end, end},
	noHeader:    {nothing, giveUp, giveUp, nothing},
	panicked:    {fail, fail, fail, fail},
	probeIsOld:  {nothing, sustain, sustain, sustain},
}

// on applies the reaction to a signal. All signals go through it. err is the error that came with the signal, or nil.
func (s *stream) on(sig signal, err error) {
	switch reactions[sig][s.origin()] {
	case nothing, later:
	case end:
		s.end(sig, err)
	case endIfClosed:
		if closed(s.cc) {
			s.end(sig, grpc.ErrClientConnClosing) //nolint:staticcheck // deprecated for comparisons; grpc returns it
		}
	case giveUp:
		s.endAs(breaker.Ignored)
	case fail:
		s.endAs(breaker.Failure)
	case sustain:
		s.sustain()
	}
}
