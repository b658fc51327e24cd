package interceptor

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Result is how a call ended, for a Classifier to judge. It holds what the guard knows. The guard looks more closely
// while a backend is in doubt, so a field that says that nothing is known may say more for the next call.
type Result struct {
	Call keyfunc.Call
	Err  error      // as the caller sees it; nil for a success, a stream's io.EOF included
	Code codes.Code // of Err: its status, also if wrapped; else that of a context error; else Unknown

	// Peer says how far the call came. Of a unary call it is known for calls in doubt with no interceptor between the
	// guard and grpc, and with WithPeerEvidence.
	Peer PeerEvidence
	// Trailer is what the peer sent at the end; nil where the guard did not look.
	Trailer metadata.MD
	// Answered: a header or a message has come on this stream. False for unary calls. For probes, false: the outcome of
	// a probe is its first message or its end.
	Answered bool
	// Messages is how many messages have come on this stream. 0 for unary calls.
	Messages uint64
	// Duration is the time since the call was let through, or since the stream was created. 0: not measured, as for most
	// unary calls.
	Duration time.Duration
	// Old: the stream has lived for the time of WithLongStream or longer. False for unary calls.
	Old bool
	// Direct: no interceptor stands between the guard and grpc.
	Direct bool
	// Ready: the connection is READY by now.
	Ready bool
	// Closed: the caller has closed the connection by now.
	Closed bool
	// ShortBudget: the caller's deadline left less than WithMinBudget when the call began. False without that option.
	ShortBudget bool
}

// LongLived reports whether the call is a stream that is old and was answered. The end of such a stream by a lost
// connection or by its deadline says nothing against the backend.
func (r Result) LongLived() bool { return r.Old && r.Answered }

// PeerEvidence says how far a call came.
type PeerEvidence uint8

const (
	PeerUnknown   PeerEvidence = iota // nobody looked, or what came may not belong to this error
	PeerAnswered                      // a gRPC server answered: with a header, a message, or a trailer of its own
	PeerSilent                        // it reached a connection as far as is known, and no answer came
	PeerUnreached                     // it reached no connection: credentials failed, or there was none
)

// peerAnswered reports whether trailer is the whole of a gRPC server's response: one without a header has its
// content-type in the trailer. What an HTTP proxy answers has neither.
func peerAnswered(trailer metadata.MD) bool { return len(trailer["content-type"]) > 0 }
