// Package interceptor guards the calls of a gRPC client with circuit breakers. A [Guard] is a unary client interceptor
// and a stream client interceptor.
//
//	guard, err := interceptor.New(group)                        // breaker.NewGroup made the group
//	conn, err := grpc.NewClient(target, append(guard.DialOptions(), …)...)
//
// A call passes these layers, from the outside in:
//
//	┌ your code ─────────────────────────────────────────────────────────────┐
//	│ ┌ telemetry interceptors, if any: they see rejections too ───────────┐ │
//	│ │ ┌ retry: stops at a rejection, see Retriable ────────────────────┐ │ │
//	│ │ │ ┌ Guard ─────────────────────────────────────────────────────┐ │ │ │
//	│ │ │ │ key → breaker → admit ── or reject, fall back, return      │ │ │ │
//	│ │ │ │ ┌ auth, logging, a timeout for each attempt ─────────────┐ │ │ │ │
//	│ │ │ │ │ ┌ grpc: service-config retries, balancing, spans ────┐ │ │ │ │ │
//	│ │ │ │ │ └────────────────────────────────────────────────────┘ │ │ │ │ │
//	│ │ │ │ └────────────────────────────────────────────────────────┘ │ │ │ │
//	│ │ │ │ classify the status → settle the permit → call the hooks   │ │ │ │
//	│ │ │ └────────────────────────────────────────────────────────────┘ │ │ │
//	│ │ └────────────────────────────────────────────────────────────────┘ │ │
//	│ └────────────────────────────────────────────────────────────────────┘ │
//	└────────────────────────────────────────────────────────────────────────┘
//
// Other orders are possible, with other results. For example, with retry inside the guard, all attempts of a call are
// one outcome.
//
// # What a caller sees
//
// The guard does not change a call that it admits: the context, options, reply and error are what they would be without
// it. The exception are fallbacks: with [OnFailure] they may answer a call that failed, and always one that a guard
// inside this one rejected.
//
// A rejected call fails at once with a [*RejectedError], unless a fallback answers it. For a stream, the call that
// opens it returns the error. The status code of the error is Unavailable or that of [WithRejectionCode]. The error
// matches errors.Is(err, breaker.ErrRejected), and its status has a google.rpc.ErrorInfo and a google.rpc.RetryInfo.
// The guard sends nothing and makes no connection, even for a wait-for-ready call. It calls grpc.OnFinish options. It
// does not set the values of grpc.Header, grpc.Trailer and grpc.Peer options, except that a fallback sets the trailer,
// see [FallbackTrailer].
//
// # Probes and grpc's connection back-off
//
// After a failed attempt to connect, a channel waits before it dials again, up to two minutes by default. Until then a
// fail-fast call fails at once with the last connection error. A probe fails in the same way, although the server may
// be back by then. It then opens the breaker again, for longer. [WithConnectionReset] makes probes reset the back-off
// and wait for the connection.
//
// Without that option, keep the MaxDelay of grpc.WithConnectParams at or below Config.MaxOpenFor. Start from the
// defaults of grpc, which are backoff.DefaultConfig and a MinConnectTimeout of 20 s. A field of ConnectParams that is
// zero does not get a default. If BaseDelay and MinConnectTimeout are both zero, a dial gets no time at all.
//
// A wait-for-ready probe waits for the connection. It holds its slot for at most Config.ProbeTimeout, however long its
// call runs.
//
// # Whose error it is
//
// The status of an error does not show whether the backend sent it or grpc made it in this process. The guard
// recognises the texts of the errors that grpc makes. But a server may send such a text too, and credentials may fail
// with any text. So while a backend is in doubt, the guard also gets the header, the trailer and the peer of a call
// from grpc. A header or a trailer shows that the server sent the error. If credentials have failed, there is no peer.
// A backend is in doubt if the call is a probe, if the last outcome was not a success, or if Config.ConsecutiveFailures
// is 1.
//
// The guard does this only if no interceptor is between it and grpc. With [WithPeerEvidence] it also does so through
// interceptors, but then does not detect failed credentials. Interceptors that fail calls themselves belong outside the
// guard. A unary call while the backend is in doubt costs six more allocations. Other unary calls cost two more, during
// the Config.Window after an outcome that was not a success (BenchmarkUnaryDoubt).
//
// # Streams
//
// The outcome of a stream is decided when it ends. The end is an error from RecvMsg (io.EOF is success), the only
// response of a client stream, an error from SendMsg or CloseSend other than io.EOF, grpc's OnFinish, or the end of the
// context. [DefaultClassifier] lists the outcome of each end. Messages are not outcomes. The slow rule measures the
// time to the first message.
//
// A stream that is neither read to its end nor canceled holds its permit until its context ends or its connection is
// closed. A probe holds its slot for at most Config.ProbeTimeout. A probe succeeds at the first message received. A
// probe that is still open after the time of [WithLongStream] closes its breaker. So a watch that lives for hours does
// not hold a half-open breaker.
//
// A guarded stream starts no goroutine. A probe has one timer, which stops when the stream ends. If an interceptor is
// between the guard and grpc, the guard watches the call's context. If the type of that context is not from package
// context, package context starts a goroutine that runs until the stream ends.
package interceptor
