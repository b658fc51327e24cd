package interceptor

import "google.golang.org/grpc"

// A guarded stream is a state machine. Signals tell it that something has happened below, or that time has passed. What
// follows from a signal depends on where the stream comes from, because grpc.OnFinish does not mean the same for each
// origin:
//
//	                      opening   direct    handed on  wrapped
//	RecvMsg returned      -         end       end        end
//	a call returned       end       end       end        end
//	OnFinish              later     end       end        if closed
//	OnFinish in a call    later     end       later      later
//	the last call left    -         -         end        if closed
//	context done          end       -         end        end
//	panic or Goexit       fail      fail      fail       fail
//	the probe is old      -         sustain   sustain    sustain
//
// "Later" does nothing until the streamer, or the last call, has returned.
//
// grpc calls OnFinish when a stream of its own is over. For a direct stream that settles the outcome. An interceptor
// in between may open several streams for one: a retry interceptor opens a new one for each attempt, always inside
// one of the guard's calls. So OnFinish decides nothing while a call is running, and what the call returns does (S5).
// A hedging interceptor opens several at once, and those that lost end at any time. So OnFinish never decides for a
// wrapped stream, unless the caller has closed the connection, when no attempt can live (S4, S6).

// origin is where a stream comes from.
type origin uint32

const (
	originOpening  origin = iota // the streamer has not returned
	originDirect                 // grpc made it, and no interceptor stands between the guard and grpc
	originHandedOn               // grpc made it, and an interceptor returned it as it is
	originWrapped                // anything else

	origins = 4
)

// signal is what the state machine reacts to.
type signal uint8

const (
	received    signal = iota // RecvMsg returned the end of the stream, or Header that there is nothing but the end
	returned                  // the streamer, SendMsg or CloseSend did
	finished                  // OnFinish, and no call of the guard's is running that knows better
	finishedIn                // OnFinish, while such a call is running
	callsOver                 // the last of these calls returned, and OnFinish had come before
	contextDone               // the caller's context is done
	left                      // a panic or Goexit below
	probeIsOld                // the stream is a probe, still open, and has become old

	signals = 8
)

// reaction is what follows from a signal.
type reaction uint8

const (
	nothing     reaction = iota // it cannot come, or decides nothing
	later                       // OnFinish is kept until the streamer or the last call has returned
	end                         // the stream is over
	endIfClosed                 // it is over if the caller has closed the connection
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
	left:        {fail, fail, fail, fail},
	probeIsOld:  {nothing, sustain, sustain, sustain},
}

// on is the one way into the state machine. err is how the stream ended, as far as the signal tells.
func (s *stream) on(sig signal, err error) {
	switch reactions[sig][s.origin()] {
	case nothing, later:
	case end:
		s.end(sig, err)
	case endIfClosed:
		if closed(s.cc) {
			s.end(sig, grpc.ErrClientConnClosing) //nolint:staticcheck // deprecated for comparing with, and this is what grpc returns
		}
	case fail:
		s.fail()
	case sustain:
		s.sustain()
	}
}
