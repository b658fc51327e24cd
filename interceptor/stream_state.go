package interceptor

import (
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A guarded stream is a state machine. A signal is a call that returned, grpc.OnFinish, a context that ended, a panic,
// or time that passed. The reaction depends on the origin of the stream, because OnFinish has another meaning for
// each:
//
//	                   | opening | direct  | handed on | wrapped
//	RecvMsg returned   | -       | end     | end       | end
//	a call returned    | end     | end     | end       | end
//	OnFinish           | later   | end     | end       | if closed
//	OnFinish in a call | later   | end     | later     | later
//	the last call left | -       | -       | end       | if closed
//	context done       | end     | -       | end       | end
//	Header found none  | -       | give up | give up   | -
//	panic or Goexit    | fail    | fail    | fail      | fail
//	the probe is old   | -       | sustain | sustain   | sustain
//
// "later" keeps the error of OnFinish until the streamer, or the last running call, has returned. A stream that turns
// out not to be direct forgets what came before the streamer returned.
//
// grpc calls OnFinish when a stream that it made is over. For a direct stream that is the outcome. An interceptor may
// open several streams for one. A retry interceptor opens a new one for each attempt, always inside one of the
// guard's calls: so OnFinish decides nothing while a call runs, and the result of the call does (S5). A hedging
// interceptor opens several at once, and the losing ones end at any time: so OnFinish never decides for a wrapped
// stream, unless the caller has closed the connection, which ends all attempts (S4, S6).

// origin is where a stream comes from.
type origin uint32

const (
	originOpening  origin = iota // the streamer has not returned
	originDirect                 // grpc made it, and no interceptor stands between the guard and grpc
	originHandedOn               // grpc made it, and an interceptor returned it as it is
	originWrapped                // anything else
)

const origins = 4

// signal is what the state machine reacts to.
type signal uint8

const (
	received    signal = iota // RecvMsg returned the end of the stream, or Header returned nothing after OnFinish
	returned                  // the streamer, SendMsg or CloseSend returned an error
	finished                  // OnFinish, while no call is running whose result would decide
	finishedIn                // OnFinish, while such a call is running
	callsOver                 // the last of these calls returned, and OnFinish had come before
	contextDone               // the caller's context is done
	noHeader                  // OnFinish(nil) in Header, and nobody has received since then
	panicked                  // a call below the guard panicked or exited its goroutine
	probeIsOld                // the stream is a probe, still open, and has become old
)

const signals = 9

// reaction is what follows from a signal.
type reaction uint8

const (
	nothing     reaction = iota // the signal cannot occur here, or decides nothing
	later                       // OnFinish is kept until the streamer or the last call has returned
	end                         // the stream is over
	endIfClosed                 // it is over if the caller has closed the connection
	giveUp                      // it is over, and how it ended is not known
	fail                        // it is over, and has failed (G1)
	sustain                     // close the breaker (S14)
)

var reactions = [signals][origins]reaction{
	//           opening  direct   handedOn wrapped
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
			s.end(sig, grpc.ErrClientConnClosing) //nolint:staticcheck // deprecated for comparing with, and this is what grpc returns
		}
	case giveUp:
		s.endAs(breaker.Ignored)
	case fail:
		s.endAs(breaker.Failure)
	case sustain:
		s.sustain()
	}
}
