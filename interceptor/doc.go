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
// A call that is let through comes back untouched: its context, options, reply and error are what they would be without
// the guard. One that is rejected fails at once with a [*RejectedError], whose status code is Unavailable unless
// WithRejectionCode says otherwise. It matches errors.Is(err, breaker.ErrRejected), and its status carries
// google.rpc.ErrorInfo and RetryInfo. Nothing is sent, no connection is made, and grpc.Header, grpc.Trailer and grpc.Peer
// options of the caller are left alone; grpc.OnFinish is called. Wait-for-ready does not change that.
//
// # Probes and grpc's connection back-off
//
// After an outage a channel waits before it dials again, up to two minutes by default, and until then a fail-fast call
// fails at once with the last connection error. So does a probe, although the server may be back by then: it opens the
// breaker again, for longer. Keep the MaxDelay of grpc.WithConnectParams at or below Config.MaxOpenFor, and start from
// backoff.DefaultConfig and a MinConnectTimeout of 20 s, which are grpc's: fields of ConnectParams that are left at zero are
// no defaults, and with BaseDelay and MinConnectTimeout at zero a dial gets no time at all. A wait-for-ready probe waits for
// the connection, and holds its slot for Config.ProbeTimeout at most, whatever becomes of its call.
//
// # Streams
//
// The outcome of a stream is its final status, taken once from whichever knows it first: an error from RecvMsg (io.EOF is
// success), the only response of a client stream, an error from SendMsg other than io.EOF, grpc's OnFinish, or the end of
// the context. A stream that nobody finishes holds its permit until its context ends or its connection is closed; as a
// probe, no longer than Config.ProbeTimeout. A probe succeeds at the first message received, so a watch that lives for
// hours does not hold a half-open breaker. Messages are not outcomes. What counts as the duration of a stream, for the
// slow rule, is the time to its first message; one that ends without a message is never slow.
package interceptor
