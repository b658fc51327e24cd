package interceptor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// What the google.rpc.ErrorInfo of a rejection says, whatever its Reason: the circuit is closed to this call. A
// breaker that is Closed rejects too, while Ramp or MaxConcurrent tell it to; WithRejectionDetails adds state and
// reason.
const (
	ErrorReason = "CIRCUIT_OPEN"
	ErrorDomain = "github.com/grpcircuit/grpcircuit"
)

// RejectedError is what a rejected call returns. It is a *breaker.RejectedError, whose Key, State, Reason, Until and
// RetryAfter it has, with a gRPC status. All calls that a breaker rejects for one reason during one stay in a state
// share one: treat it as read-only.
type RejectedError struct {
	*breaker.RejectedError
	code    codes.Code
	details bool
}

// Error says why, and names no key: grpc puts it into the message that a server sends on if the error was wrapped. With
// WithRejectionDetails it names key, state and reason; Key and State are there in any case.
func (e *RejectedError) Error() string {
	if e.details {
		return e.RejectedError.Error()
	}
	return "interceptor: circuit breaker rejected the call: " + e.Reason.String()
}

// Unwrap returns the *breaker.RejectedError, so that errors.Is and errors.As find it and breaker.ErrRejected.
func (e *RejectedError) Unwrap() error { return e.RejectedError }

// GRPCStatus makes the status: code Unavailable, or that of WithRejectionCode; google.rpc.ErrorInfo with ErrorReason
// and ErrorDomain; and google.rpc.RetryInfo with what RetryAfter says now, if it says anything. A server that returns
// the error to a client of its own sends exactly this: it names no key, unless WithRejectionDetails asks for it.
func (e *RejectedError) GRPCStatus() *status.Status {
	info := &errdetails.ErrorInfo{Reason: ErrorReason, Domain: ErrorDomain}
	message := valid(e.Error())
	if e.details {
		info.Metadata = map[string]string{
			"target": valid(e.Key.Target), "service": valid(e.Key.Service), "method": valid(e.Key.Method), "tag": valid(e.Key.Tag),
			"state": e.State.String(), "reason": e.Reason.String(),
		}
	}
	details := []protoadapt.MessageV1{info}
	if d := e.RetryAfter(); d > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	s := status.New(e.code, message)
	if with, err := s.WithDetails(details...); err == nil { // it fails for what does not marshal, and all of this does
		return with
	}
	return s
}

// valid is text as a proto string may be; a key may hold anything.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// IsRejected reports whether err is or wraps a circuit breaker's rejection: one of this process, or one that a remote
// hop of this library returned, which its ErrorInfo tells.
func IsRejected(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, breaker.ErrRejected) {
		return true
	}
	s := statusOf(err)
	if s == nil {
		return false
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() == ErrorReason && info.GetDomain() == ErrorDomain {
			return true
		}
	}
	return false
}

// Retriable is for retry.WithRetriable of go-grpc-middleware: its default codes (retry.DefaultRetriableCodes:
// ResourceExhausted and Unavailable), and never a rejection. Without it, a retry interceptor outside the guard asks an
// open breaker again and again, with a pause before each time.
func Retriable(err error) bool {
	return err != nil && slices.Contains(retry.DefaultRetriableCodes, codeOf(err)) && !IsRejected(err)
}

func errorf(format string, args ...any) error { return fmt.Errorf("interceptor: "+format, args...) }
