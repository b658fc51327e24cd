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

// Result is how a call ended, for a Classifier to judge. It holds what the guard knows. The guard collects more while
// a backend is in doubt, so Peer and Trailer may be set for one call and not for the next.
type Result struct {
	Call Call
	Err  error      // what ended the call, before any fallback; nil for a success, io.EOF, and a probe stream that is still open
	Code codes.Code // of Err: its status, also if wrapped; else that of a context error; else Unknown

	// Peer is how far the call came. For a unary call it is known if the call is in doubt and no interceptor stands
	// between the guard and grpc, and with WithPeerEvidence. For a stream that succeeds it is known if a message came.
	Peer PeerEvidence
	// Trailer is what the peer sent at the end; nil where the guard did not look.
	Trailer metadata.MD
	// Answered: a header or a message has come on this stream. False for unary calls, for probes (whose outcome is the
	// first message or the end), and for a stream that ended with OK and without a message.
	Answered bool
	// Messages is how many messages have come on this stream. 0 for unary calls.
	Messages uint64
	// Duration is the time since the call was let through, or since the stream was created. For a unary call it is 0,
	// unless it is a probe, Config.SlowCall is set, or WithMinBudget or a SettledObserver is used.
	Duration time.Duration
	// Old: the stream has lived for the time of WithLongStream or longer. False for unary calls.
	Old bool
	// Direct: no interceptor stands between the guard and grpc.
	Direct bool
	// Ready: the call failed, and the connection is READY now.
	Ready bool
	// Closed: the call failed, and the caller has closed the connection.
	Closed bool
	// ShortBudget: the caller's deadline left less than WithMinBudget when the call began. False without that option.
	ShortBudget bool
}

// LongLived reports whether the call is a stream that is old and was answered. Such a stream may end by a lost
// connection or its deadline without a fault of the backend. False for probes.
func (r Result) LongLived() bool { return r.Old && r.Answered }

// PeerEvidence is how far a call came.
type PeerEvidence uint8

const (
	PeerUnknown   PeerEvidence = iota // the guard did not look, or what came may belong to another attempt
	PeerAnswered                      // a gRPC server answered: with a header, a message, or a trailer of its own
	PeerSilent                        // it reached a connection, as far as is known; no gRPC server answered
	PeerUnreached                     // it reached no connection: credentials failed, or there was none
)

// peerAnswered reports whether trailer is a complete response of a gRPC server. A response without a header has its
// content-type in the trailer; the answer of an HTTP proxy has no such trailer.
func peerAnswered(trailer metadata.MD) bool { return len(trailer["content-type"]) > 0 }

// unreachedPeer reports whether grpc has not filled in p. The address alone may be nil, where the dialer's connection has
// none.
func unreachedPeer(p *peer.Peer) bool {
	return p.Addr == nil && p.LocalAddr == nil && p.AuthInfo == nil
}
