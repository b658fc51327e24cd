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

// Classifier judges how a call ended. It runs when the call has ended; for a probe stream, at the first message or when
// the stream is old, if that is earlier. It runs at most once for a call that was let through, and not if the call
// panicked. It must be safe for concurrent use. Its time is not part of the call's. If it panics, DefaultClassifier
// judges.
//
// A unary call that its caller canceled after more than breaker.Config.SlowCall is slow even if it is Ignored.
type Classifier func(ctx context.Context, r Result) breaker.Outcome

// DefaultClassifier is the Classifier of a Guard that is given no other. A custom one should fall back on it. It
// looks at nothing but the Result and the context:
//
//	Success   OK, InvalidArgument, NotFound, AlreadyExists, PermissionDenied, Unauthenticated, FailedPrecondition,
//	          Aborted, OutOfRange, Unimplemented: the peer is there and answered. A message too large for its receiver
//	Failure   Unavailable, DeadlineExceeded, Internal, Unknown, DataLoss, and every code above 16. Canceled by the peer.
//	          Any code that grpc made of what an HTTP proxy answered
//	Overload  ResourceExhausted
//	Ignored   a call that its caller canceled, or whose connection the caller has closed; a rejection by any circuit
//	          breaker, here or at a remote hop; an error that this side made before anything was asked of the peer
//	          (message too large to send, marshalling, unknown compressor, bad metadata, credentials);
//	          DeadlineExceeded where ShortBudget is set and the budget is spent
//
// Streams differ. A stream that was Answered is a success also if its caller cancels it. A LongLived one is a success
// also if it ends by Unavailable, by Canceled, or by the caller's deadline: connections rotate and servers restart.
// One that is Old and was not answered is ignored if it ends by Unavailable or Canceled: it may be a quiet watch,
// because some servers send their header with the first message. At its deadline it is a failure.
//
// Codes as in https://github.com/grpc/grpc/blob/master/doc/statuscodes.md.
func DefaultClassifier(ctx context.Context, r Result) breaker.Outcome {
	if r.Err == nil {
		return breaker.Success
	}
	if IsRejected(r.Err) { // G7, whatever WithRejectionCode makes of it
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
	case strings.HasPrefix(text, proxyText):
		return breaker.Failure
	case hasPrefix(text, receiptTexts[r.Code]):
		return breaker.Success
	case r.Peer != PeerAnswered && hasPrefix(text, localTexts[r.Code]):
		return breaker.Ignored
	case r.Peer == PeerUnreached && !ranOutOfTime(ctx, r, text):
		return judgeUnreached(r)
	}
	return byCode(ctx, r, text)
}

// endedByCaller reports whether the call ended because its caller canceled it or closed the connection (G3). grpc
// returns Canceled, or Unavailable if the call noticed the closed connection first.
func endedByCaller(ctx context.Context, r Result) bool {
	switch r.Code {
	case codes.Canceled:
		return r.Closed || BudgetSpent(ctx)
	case codes.Unavailable:
		return r.Closed
	}
	return false
}

// ranOutOfTime reports whether the call ran into the caller's deadline, or into the timeout of a service config, while grpc
// waited for a connection or for a free stream.
func ranOutOfTime(ctx context.Context, r Result, text string) bool {
	return r.Code == codes.DeadlineExceeded && (BudgetSpent(ctx) || strings.HasPrefix(text, deadlineText))
}

// judgeUnreached judges a call that reached no connection. If the channel is READY, then credentials, a resolver or a
// balancer made the error. If it is not, the backend could not be reached (G5).
func judgeUnreached(r Result) breaker.Outcome {
	if r.Ready || meansAnswered(r.Code) {
		return breaker.Ignored
	}
	return breaker.Failure
}

// meansAnswered reports whether a server that sends code is there and has answered.
func meansAnswered(code codes.Code) bool {
	switch code {
	case codes.OK, // an error whose status is OK: the peer answered, and an interceptor returned the wrong error
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented:
		return true
	}
	return false
}

// byCode judges an error that the peer or the connection to it made (G2, S2).
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
			return breaker.Ignored // an interceptor with a context of its own may have canceled it
		}
		return endedByNetwork(r)
	case codes.Unavailable:
		return endedByNetwork(r)
	}
	return breaker.Failure
}

// endedByNetwork judges a call that the peer or the network ended.
func endedByNetwork(r Result) breaker.Outcome {
	switch {
	case r.LongLived():
		return breaker.Success
	case r.Old:
		return breaker.Ignored
	}
	return breaker.Failure
}

// BudgetSpent reports whether ctx is done, canceled included, or its deadline has passed before ctx is done. The latter
// happens in one of ten concurrent calls that reach their deadline: the peer's reset comes before the timer.
func BudgetSpent(ctx context.Context) bool {
	return ctx.Err() != nil || pastDeadline(ctx)
}

// canceledByCaller reports whether an ignored call ended because its caller canceled it. If it was slow by then, the slow rule
// counts it (B6). Other calls end with the same code and tell nothing about the backend's speed: one whose connection
// the caller closed, one that a breaker rejected, and one that was canceled further down while the caller still waited.
// A stream may be canceled at any age, because only the time to its first message is judged (S10).
func canceledByCaller(ctx context.Context, r Result) bool {
	return r.Code == codes.Canceled && r.Call.Typ == interceptors.Unary && !r.Closed &&
		errors.Is(ctx.Err(), context.Canceled) && !IsRejected(r.Err)
}

// pastDeadline reads the clock for calls that have a deadline, and only for those.
func pastDeadline(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

type grpcStatus interface{ GRPCStatus() *status.Status }

// statusOf finds the status that err is or wraps, and nil where there is none. It does what status.FromError does
// without copying a wrapped status and rendering its message, which takes 250 times as long (G6).
func statusOf(err error) *status.Status {
	if s, ok := err.(grpcStatus); ok { // the quick way first
		return s.GRPCStatus()
	}
	var s grpcStatus
	if errors.As(err, &s) {
		return s.GRPCStatus()
	}
	return nil
}

// codeOf is status.Code where err is or wraps a status, the code of a context error, and Unknown for anything else.
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

// grpc does not mark the errors that it makes on this side, so they are recognised by the beginning of their texts.
// The texts are looked at only for calls that have failed, and for the codes that these errors have. A test makes
// each of the errors for real, and fails when grpc changes a text (G5).

// localTexts begin errors that are made before the peer gets a request. grpc servers use some of them too, so they
// count only if the peer is not known to have answered.
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

// receiptTexts are those of a message that was too large to receive, for this side or for the peer: the peer answered.
var receiptTexts = map[codes.Code][]string{
	codes.ResourceExhausted: {
		"grpc: received message larger than max ",
		"grpc: message after decompression larger than max ",
		"grpc: received message after decompression larger than max ",
	},
}

const (
	deadlineText = "context deadline exceeded"                        // what grpc says when a context of its own, or the caller's, has ended
	proxyText    = "unexpected HTTP status code received from server" // what grpc makes of an answer that is not gRPC's
	resetText    = "RST_STREAM"                                       // in the text of a stream that the peer has reset
)

// textOf returns the message of err's status, and "" if it has none.
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

// retryAfter is the time that the peer asked for, in the trailer that service-config retries heed or in the status,
// and 0 if it did not; the longer of the two (G9). Negative and unparsable values count as 0.
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
