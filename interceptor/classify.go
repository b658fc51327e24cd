package interceptor

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Classifier returns the outcome of a call from how it ended. It runs when the call has ended. For a probe that is a
// stream, it runs at the first message, or when the stream is Old, if that is earlier. ctx is the context of the call.
//
// It runs at most once for each admitted call. It does not run if the call panicked, or if nothing shows how a stream
// has ended. It must be safe for concurrent use. The time that it takes is not part of the duration of the call. If it
// panics, the outcome is that of DefaultClassifier. A value that is not an Outcome counts as Failure.
//
// If Config.SlowCall is set, a unary call that its caller canceled after more than that time counts as slow, even if it
// is Ignored.
type Classifier func(ctx context.Context, r Result) breaker.Outcome

// DefaultClassifier is the Classifier of a Guard without WithClassifier. A custom classifier should call it for results
// that it does not handle. It uses only the Result and the context:
//
//	Success   OK, InvalidArgument, NotFound, AlreadyExists, PermissionDenied, Unauthenticated, FailedPrecondition,
//	          Aborted, OutOfRange and Unimplemented, because the backend has answered. Also a message that was too large
//	          for its receiver
//	Failure   Unavailable, DeadlineExceeded, Internal, Unknown, DataLoss, and each code above 16. Also Canceled, if the
//	          peer ended the call, and any code that grpc made from the answer of an HTTP proxy, unless
//	          PeerAnswered shows that a gRPC server has only passed it on
//	Overload  ResourceExhausted
//	Ignored   a call that its caller canceled, or whose connection the caller closed;
//	          a rejection by a circuit breaker, of this process or of a remote hop;
//	          an error that was made in this process before the backend got the request (message too large to send,
//	          marshalling, unknown compressor, bad metadata, credentials, resolver or balancer);
//	          Canceled, if an interceptor between the guard and grpc may have canceled the call;
//	          DeadlineExceeded, if ShortBudget is set and the caller's deadline has passed
//
// Canceled is the peer's if Direct is set or the text of the error contains RST_STREAM, and neither the context is done
// nor its deadline has passed.
//
// Streams differ. A stream that was Answered is also a success if its caller cancels it or closes its connection. A
// LongLived stream is also a success if it ends with Unavailable, with Canceled, or at the caller's deadline, because
// connections rotate and servers restart. An Old stream that was not Answered is ignored if it ends with Unavailable or
// Canceled. It may be a quiet watch, because some servers send their header with the first message. At its deadline it
// is a failure.
//
// The codes are those of https://github.com/grpc/grpc/blob/master/doc/statuscodes.md.
func DefaultClassifier(ctx context.Context, r Result) breaker.Outcome {
	if r.Err == nil {
		return breaker.Success
	}
	if IsRejected(r.Err) { // with any code, because WithRejectionCode may change it (G7)
		return breaker.Ignored
	}
	if endedByCaller(ctx, r) {
		if r.Answered {
			return breaker.Success
		}
		return breaker.Ignored
	}
	text := textOf(r.Err)
	switch {
	case r.Peer != PeerAnswered && strings.HasPrefix(text, proxyText):
		return breaker.Failure
	case hasPrefix(text, receiptTexts[r.Code]):
		return breaker.Success
	case r.Peer != PeerAnswered && hasPrefix(text, localTexts[r.Code]):
		return breaker.Ignored
	case r.Peer == PeerUnreached && !ranOutOfTime(ctx, r, text):
		return classifyUnreached(r)
	}
	return byCode(ctx, r, text)
}

// endedByCaller reports whether the call ended because its caller canceled it or closed the connection (G3). grpc
// returns Canceled, or Unavailable if the call found the closed connection first.
func endedByCaller(ctx context.Context, r Result) bool {
	switch r.Code {
	case codes.Canceled:
		return r.Closed || BudgetSpent(ctx)
	case codes.Unavailable:
		return r.Closed
	}
	return false
}

// ranOutOfTime reports whether the deadline of the caller, or the timeout of a service config, ended the call while
// grpc waited for a connection or for a free stream.
func ranOutOfTime(ctx context.Context, r Result, text string) bool {
	return r.Code == codes.DeadlineExceeded && (BudgetSpent(ctx) || strings.HasPrefix(text, deadlineText))
}

// classifyUnreached returns the outcome of a call that reached no connection. If the channel is READY, credentials, a
// resolver or a balancer made the error. Otherwise the backend could not be reached (G5).
func classifyUnreached(r Result) breaker.Outcome {
	if r.Ready || meansAnswered(r.Code) {
		return breaker.Ignored
	}
	return breaker.Failure
}

// meansAnswered reports whether code means that the server is up and has answered.
func meansAnswered(code codes.Code) bool {
	switch code {
	case codes.OK, // an error with status OK: the server answered, and an interceptor returned the wrong error
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented:
		return true
	}
	return false
}

// byCode returns the outcome of an error that came from the peer or from the connection to it (G2, S2).
func byCode(ctx context.Context, r Result, text string) breaker.Outcome {
	if meansAnswered(r.Code) {
		return breaker.Success
	}
	switch r.Code {
	case codes.ResourceExhausted:
		return breaker.Overload
	case codes.DeadlineExceeded:
		switch {
		case !BudgetSpent(ctx): // a timeout of the service config, or a status from the peer
			return breaker.Failure
		case r.ShortBudget:
			return breaker.Ignored
		case r.LongLived():
			return breaker.Success
		}
		return breaker.Failure
	case codes.Canceled:
		if !r.Direct && !strings.Contains(text, resetText) {
			return breaker.Ignored // an interceptor may have canceled a context that it made
		}
		return endedByNetwork(r)
	case codes.Unavailable:
		return endedByNetwork(r)
	}
	return breaker.Failure
}

// endedByNetwork returns the outcome of a call that the peer or the network ended.
func endedByNetwork(r Result) breaker.Outcome {
	switch {
	case r.LongLived():
		return breaker.Success
	case r.Old:
		return breaker.Ignored
	}
	return breaker.Failure
}

// BudgetSpent reports whether ctx is done, for any reason, or whether its deadline has passed. It is for classifiers.
// ctx.Err is not enough for them, because the timer that ends a context runs a little after its deadline. Of many
// concurrent calls that reach their deadline, one in ten gets the peer's reset before that timer has run.
func BudgetSpent(ctx context.Context) bool {
	return ctx.Err() != nil || pastDeadline(ctx)
}

// canceledByCaller reports whether an ignored call ended because its caller canceled it. If it was slow by then, the
// slow rule counts it (B6). Calls can end with the same code for reasons that show nothing about the speed of the
// backend: the caller closed the connection, a breaker rejected the call, or an interceptor canceled it. Streams do not
// count, because the slow rule measures only the time to their first message (S10).
func canceledByCaller(ctx context.Context, r Result) bool {
	return r.Code == codes.Canceled && r.Call.Typ == interceptors.Unary && !r.Closed &&
		errors.Is(ctx.Err(), context.Canceled) && !IsRejected(r.Err)
}

// pastDeadline reports whether the deadline of ctx has passed. It reads the clock only if there is a deadline.
func pastDeadline(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

type grpcStatus interface{ GRPCStatus() *status.Status }

// statusOf returns the status that err is or wraps, or nil if there is none. It finds the same status as
// status.FromError, but does not copy a wrapped status and format its message, which takes 250 times as long (G6).
func statusOf(err error) *status.Status {
	if s, ok := err.(grpcStatus); ok { // faster than errors.As
		return s.GRPCStatus()
	}
	var s grpcStatus
	if errors.As(err, &s) {
		return s.GRPCStatus()
	}
	return nil
}

// codeOf returns the code of the status that err is or wraps. Without a status it returns the code of a context error,
// and Unknown for other errors.
func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if s := statusOf(err); s != nil {
		return s.Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Unknown
}

// grpc does not mark the errors that it makes in the client. They are recognised by the beginning of their texts. The
// texts are compared only for calls that failed with the codes of these errors. A test provokes each of the errors, and
// fails if grpc changes a text (G5).

// localTexts are the beginnings of errors that are made before the peer gets a request. grpc servers use some of them
// too, so they count only if the peer is not known to have answered.
var localTexts = map[codes.Code][]string{
	codes.ResourceExhausted: {
		"trying to send message larger than max ",
		"grpc: message too large ",
	},
	codes.Internal: {
		"grpc: error while marshaling: ",
		"grpc: error while compressing: ",
		"grpc: Compressor is not installed for requested grpc-encoding ",
		"no codec registered for content-subtype ",
		"SendMsg called after CloseSend",
		"header key ",
		"there is an empty key in the header",
		"header list size to send violates the maximum size ",
		"transport: per-RPC creds failed due to error: ",
		"transport: received per-RPC creds error with illegal status: ",
	},
	codes.Unauthenticated: {
		"transport: per-RPC creds failed due to error: ",
		"transport: cannot send secure credentials on an insecure connection",
	},
}

// receiptTexts are the beginnings of errors for a message that was too large to receive, in this process or at the
// peer. In both cases the peer has answered.
var receiptTexts = map[codes.Code][]string{
	codes.ResourceExhausted: {
		"grpc: received message larger than max ",
		"grpc: message after decompression larger than max ",
		"grpc: received message after decompression larger than max ",
	},
}

const (
	deadlineText = "context deadline exceeded"                        // grpc's context or the caller's has ended
	proxyText    = "unexpected HTTP status code received from server" // an answer was HTTP but not gRPC
	resetText    = "RST_STREAM"                                       // part of the text if the peer reset the stream
)

// textOf returns the message of the status of err, or "" if there is no status.
func textOf(err error) string {
	if s := statusOf(err); s != nil {
		return s.Message()
	}
	return ""
}

func hasPrefix(text string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}

// retryAfter returns the pushback of the peer: the longer of the trailer that gRFC A6 defines for retries and the
// RetryInfo in the status (G9). Missing, negative and unparsable values count as 0.
func retryAfter(r Result) time.Duration {
	var d time.Duration
	if v := r.Trailer.Get("grpc-retry-pushback-ms"); len(v) == 1 { // gRFC A6
		if ms, err := strconv.ParseInt(v[0], 10, 32); err == nil && ms > 0 {
			d = time.Duration(ms) * time.Millisecond
		}
	}
	if s := statusOf(r.Err); s != nil {
		for _, detail := range s.Details() {
			if info, ok := detail.(*errdetails.RetryInfo); ok && info.GetRetryDelay().IsValid() {
				d = max(d, info.GetRetryDelay().AsDuration())
			}
		}
	}
	return d
}
