package interceptor

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Call describes a call to key functions, classifiers and hooks.
type Call = keyfunc.Call

// Result describes how a call ended, for a Classifier. The guard collects more information while a backend is in doubt,
// so Peer and Trailer may be set for one call and not for the next.
type Result struct {
	// Call describes the call. ReqOrNil is nil for a stream.
	Call Call
	// Err is the error that ended the call, before any fallback. It is nil for a success, for a stream that ended with
	// io.EOF, and for a probe stream that is still open.
	Err error
	// Code is the code of the status that Err is or wraps. Without a status it is the code of a context error, or
	// Unknown. It is OK if Err is nil.
	Code codes.Code

	// Peer is how far the call got.
	//
	// The guard looks at the header, the trailer and the peer of a unary call with WithPeerEvidence, or if the call is in
	// doubt and Direct is set. For other calls with Direct, it looks only at the peer, and only within a Config.Window
	// after an outcome that was not a success.
	//
	// For a stream, PeerAnswered means that a message or a header was received. But if SendMsg was running when the stream
	// ended, Peer is not PeerAnswered, because the error may be about the message that was being sent. PeerSilent and
	// PeerUnreached occur with Direct.
	Peer PeerEvidence
	// Trailer is the trailer that the peer sent. It is nil if there was none or the guard did not look.
	Trailer metadata.MD
	// Answered is true if a header or a message was received on this stream. It is false for unary calls, and for probes,
	// whose outcome is the first message or the end. It may be false for a stream that ended with OK and without a
	// message, because the guard does not check the header then.
	Answered bool
	// Messages is the number of messages that were received on this stream. It is 0 for unary calls.
	Messages uint64
	// Duration is the time since the call was admitted. For a unary call it does not include the wait of
	// WithConnectionReset. It is always set for a custom classifier.
	Duration time.Duration
	// Old is true if the stream was created at least the time of WithLongStream ago. It is false for unary calls.
	Old bool
	// Direct is true if no interceptor is between the guard and grpc.
	Direct bool
	// Ready is true if the call failed and its channel is READY now.
	Ready bool
	// Closed is true if the call failed and the caller has closed the connection.
	Closed bool
	// ShortBudget is true if the time to the caller's deadline was less than that of WithMinBudget when the call was
	// admitted, or, after a wait of WithConnectionReset, when it had a connection. It is false without WithMinBudget.
	ShortBudget bool
}

// LongLived reports whether the call is a stream that is Old and Answered. A lost connection or the caller's deadline
// may end such a stream without a fault of the backend. It returns false for unary calls and for probes.
func (r Result) LongLived() bool { return r.Old && r.Answered }

// PeerEvidence is how far a call got.
type PeerEvidence uint8

const (
	// PeerUnknown means that the guard did not look, or that what it found may belong to another attempt.
	PeerUnknown PeerEvidence = iota
	// PeerAnswered means that a gRPC server sent a header, a message, or a trailer with a content-type.
	PeerAnswered
	// PeerSilent means that the call reached a connection, as far as is known, and no gRPC server answered it.
	PeerSilent
	// PeerUnreached means that the call reached no connection, because there was none or because credentials failed.
	PeerUnreached
)

// peerAnswered reports whether trailer shows that a gRPC server answered. A response that consists only of a trailer
// has its content-type there. The answer of an HTTP proxy has no such trailer.
func peerAnswered(trailer metadata.MD) bool { return len(trailer["content-type"]) > 0 }

// unreachedPeer reports whether grpc has set nothing in p. The address alone may be nil, because the connection of a
// custom dialer may have none.
func unreachedPeer(p *peer.Peer) bool {
	return p.Addr == nil && p.LocalAddr == nil && p.AuthInfo == nil
}
