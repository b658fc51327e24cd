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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// Result is how a call ended, for a Classifier to judge.
type Result struct {
	Call keyfunc.Call
	Err  error      // as the caller sees it; nil for a success, a stream's io.EOF included
	Code codes.Code // of Err: its status, also if wrapped; else that of a context error; else Unknown

	// Peer says whether the peer is known to have answered: PeerUnknown for a unary call without WithPeerEvidence. Of
	// a stream only a trailer is evidence.
	Peer PeerEvidence
	// Trailer is what the peer sent at the end; nil where the guard did not look.
	Trailer metadata.MD
	// Closed: the caller has closed the connection by now.
	Closed bool
	// ShortBudget: the caller's deadline left less than WithMinBudget when the call began. False without that option.
	ShortBudget bool
}

// PeerEvidence says whether the peer of a call is known to have answered.
type PeerEvidence uint8

const (
	PeerUnknown  PeerEvidence = iota // nobody looked
	PeerAnswered                     // a header, a message or a trailer came
	PeerSilent                       // none came
)

// Classifier judges how a call ended. It runs once for each call that was let through, after it, and must be safe for
// concurrent use. Its time is not part of the call's. If it panics, DefaultClassifier judges.
//
// A unary call that its caller canceled after more than breaker.Config.SlowCall counts as slow, also if it is judged
// Ignored.
type Classifier func(ctx context.Context, r Result) breaker.Outcome

// DefaultClassifier is the Classifier of a Guard that is given no other. A custom one should fall back on it.
//
//	Success   OK, InvalidArgument, NotFound, AlreadyExists, PermissionDenied, Unauthenticated, FailedPrecondition,
//	          Aborted, OutOfRange, Unimplemented: the peer is there and answered
//	Failure   Unavailable, DeadlineExceeded, Internal, Unknown, DataLoss, and every code above 16
//	Overload  ResourceExhausted
//	Ignored   Canceled, and Unavailable once the caller has closed the connection; a rejection by any circuit breaker, here or at a remote hop; an error that this side made before
//	          anything was asked of the peer, or of what it could not take (message too large, marshalling, unknown
//	          compressor, bad metadata, credentials); DeadlineExceeded where ShortBudget is set and the budget is spent
//
// Codes as in https://github.com/grpc/grpc/blob/master/doc/statuscodes.md.
func DefaultClassifier(ctx context.Context, r Result) breaker.Outcome {
	if r.Err == nil {
		return breaker.Success
	}
	switch r.Code {
	case codes.OK, // an error whose status is OK: the peer answered, and somebody between was careless
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.FailedPrecondition,
		codes.Aborted, codes.OutOfRange, codes.Unimplemented:
		if IsRejected(r.Err) { // under WithRejectionCode
			return breaker.Ignored
		}
		return breaker.Success
	case codes.Canceled:
		return breaker.Ignored // G3: also a connection that the caller closed. Whether the call was slow is for givenUp
	case codes.DeadlineExceeded:
		if (r.ShortBudget && BudgetSpent(ctx)) || IsRejected(r.Err) {
			return breaker.Ignored
		}
		return breaker.Failure
	}
	if IsRejected(r.Err) { // G7
		return breaker.Ignored
	}
	switch r.Code {
	case codes.Unavailable:
		if r.Closed { // G3: grpc says Canceled as a rule, and this where the transport went first
			return breaker.Ignored
		}
	case codes.ResourceExhausted:
		if isLocal(r) {
			return breaker.Ignored
		}
		return breaker.Overload
	case codes.Unauthenticated:
		if isLocal(r) {
			return breaker.Ignored
		}
		return breaker.Success
	case codes.Internal:
		if isLocal(r) {
			return breaker.Ignored
		}
	}
	return breaker.Failure
}

// BudgetSpent says whether the caller's time is up: ctx is done, or its deadline has passed although nobody has said so
// yet. The second happens in one of ten calls that run into their deadline side by side, because the peer's reset
// overtakes the local timer.
func BudgetSpent(ctx context.Context) bool {
	return ctx.Err() != nil || pastDeadline(ctx)
}

// givenUp reports whether an ignored call ended because its caller canceled it. If it was slow by then, the slow rule
// counts it (B6). Other calls end with the same code and tell nothing about the backend's speed: one whose connection
// the caller closed, one that a breaker rejected, and one that was canceled further down while the caller still waited.
// A stream may be canceled at any age, because only the time to its first message is judged (S10).
func givenUp(ctx context.Context, r Result) bool {
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

// localTexts are how the messages of errors begin that grpc makes on this side. grpc marks them in no other way. They
// are looked at only for the codes that these errors have, so a call that succeeds pays nothing; a test makes each of
// these errors for real, and fails when grpc changes a text (G5).
var localTexts = map[codes.Code][]string{
	codes.ResourceExhausted: {
		"trying to send message larger than max ",
		"grpc: message too large ",
		"grpc: received message larger than max ",
		"grpc: message after decompression larger than max ",
		"grpc: received message after decompression larger than max ",
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

// receivedTexts are those of localTexts that grpc makes after the peer has answered.
const receivedText = "after decompression larger than max "

// isLocal says whether this side made the error. The texts decide; where there is evidence that the peer answered, an
// error that can only be made before that is the peer's own, whatever it says.
func isLocal(r Result) bool {
	s := statusOf(r.Err)
	if s == nil {
		return false
	}
	text := s.Message()
	for _, prefix := range localTexts[r.Code] {
		if strings.HasPrefix(text, prefix) {
			return r.Peer != PeerAnswered || madeOnReceipt(prefix)
		}
	}
	return false
}

func madeOnReceipt(prefix string) bool {
	return strings.Contains(prefix, "received message") || strings.Contains(prefix, receivedText)
}

// retryAfter is the time that the peer asked for, in the trailer that service-config retries heed or in the status,
// and 0 if it did not; the longer of the two (G9). Negative and unparsable is none.
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
