// Package interceptor guards the calls of a gRPC client with circuit breakers: a [Guard] is a unary and a stream client
// interceptor.
//
//	guard, err := interceptor.New(group)                        // breaker.NewGroup made the group
//	conn, err := grpc.NewClient(target, append(guard.DialOptions(), …)...)
//
// The way of a call, from the outside in:
//
//	┌ your code ─────────────────────────────────────────────────────────────┐
//	│ ┌ telemetry interceptors, if any: they see rejections too ───────────┐ │
//	│ │ ┌ retry: asks an open breaker once, see Retriable ───────────────┐ │ │
//	│ │ │ ┌ Guard ─────────────────────────────────────────────────────┐ │ │ │
//	│ │ │ │ key → breaker → admit ── or reject, fall back, return      │ │ │ │
//	│ │ │ │ ┌ auth, logging, a timeout for each attempt ─────────────┐ │ │ │ │
//	│ │ │ │ │ ┌ grpc: service-config retries, balancing, spans ────┐ │ │ │ │ │
//	│ │ │ │ │ └────────────────────────────────────────────────────┘ │ │ │ │ │
//	│ │ │ │ └────────────────────────────────────────────────────────┘ │ │ │ │
//	│ │ │ │ classify the status → settle the permit → tell observers   │ │ │ │
//	│ │ │ └────────────────────────────────────────────────────────────┘ │ │ │
//	│ │ └────────────────────────────────────────────────────────────────┘ │ │
//	│ └────────────────────────────────────────────────────────────────────┘ │
//	└────────────────────────────────────────────────────────────────────────┘
//
// Any other order is correct too, and means something else: with retry inside the guard, all attempts of a call are one
// outcome.
//
// # What a caller sees
//
// A call that is let through comes back untouched: its context, options, reply and error are what they would be
// without the guard. One that is rejected fails at once with a [*RejectedError], whose status code is Unavailable
// unless WithRejectionCode says otherwise. It matches errors.Is(err, breaker.ErrRejected), and its status carries
// google.rpc.ErrorInfo and RetryInfo. Nothing is sent, no connection is made, and grpc.Header, grpc.Trailer and
// grpc.Peer options of the caller are left alone; grpc.OnFinish is called. Wait-for-ready does not change that.
//
// # Probes and grpc's connection back-off
//
// After an outage a channel waits before it dials again, up to two minutes by default, and until then a fail-fast
// call fails at once with the last connection error. So does a probe, although the server may be back by then: it
// opens the breaker again, for longer. [WithConnectionReset] makes probes reset the back-off and wait for the
// connection. Without it keep the MaxDelay of grpc.WithConnectParams at or below Config.MaxOpenFor, and start from
// backoff.DefaultConfig and a MinConnectTimeout of 20 s, which are grpc's: fields of ConnectParams that are left at
// zero are no defaults, and with BaseDelay and MinConnectTimeout at zero a dial gets no time at all. A wait-for-ready
// probe waits for the connection, and holds its slot for Config.ProbeTimeout at most, whatever becomes of its call.
//
// # Whose error it is
//
// grpc does not say whether an error is the peer's or was made on this side. The guard recognises the texts of errors
// that grpc makes. While a backend is in doubt it also asks grpc for the peer, the header and the trailer of a call:
// with failed credentials there is no peer, and a server that uses one of grpc's own texts has sent a header or a
// trailer. It asks only if no interceptor stands between the guard and grpc. [WithPeerEvidence] asks through
// interceptors too, but does not find failed credentials there. Interceptors that fail calls themselves belong
// outside the guard. A call in doubt costs six allocations more than others, and one within a Window after a failure two
// (BenchmarkUnaryDoubt).
//
// # Streams
//
// The outcome of a stream is decided when it ends: by an error from RecvMsg (io.EOF is success), the only response of
// a client stream, an error from SendMsg other than io.EOF, grpc's OnFinish, or the end of the context.
// [DefaultClassifier] maps each end to an outcome. A stream that is neither read to its end nor canceled holds its
// permit until its context ends or its connection is closed; as a probe, no longer than Config.ProbeTimeout. A probe
// succeeds at the first message received, and one that is still open after the time of [WithLongStream] closes its
// breaker. So a watch that lives for hours does not hold a half-open breaker. Messages are not outcomes. What the
// slow rule looks at is the time to the first message.
//
// A guarded stream starts no goroutine. With an interceptor between the guard and grpc the guard watches the call's
// context; if that is of a type that is not from package context, package context starts a goroutine until the stream
// ends.
package interceptor
