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

// ErrorReason and ErrorDomain are in the google.rpc.ErrorInfo of each rejection. They mean that the breaker rejected
// the call, for any Reason. A closed breaker may also reject a call, because of Config.Ramp or Config.MaxConcurrent.
// WithRejectionDetails adds the state and the reason.
const (
	ErrorReason = "CIRCUIT_OPEN"
	ErrorDomain = "github.com/grpcircuit/grpcircuit"
)

// RejectedError is the error of a rejected call. It is a *breaker.RejectedError with a gRPC status, and has its fields
// Key, State, Reason, Until, Opened, Outage and Override, and its methods Error, RetryAfter and LogValue. Calls that a
// breaker rejects for the same reason in one generation may share one error, so do not change it.
//
// The text of Error is for the logs of this process. It names the method, the target, what opened the breaker and who
// forced it. A server that returns the error as it is sends only GRPCStatus to its clients. That status names none of
// these, unless WithRejectionDetails is set. A server that wraps the error with %w, or formats it, sends the text.
//
// A test may make one for a fake client: &RejectedError{RejectedError: &breaker.RejectedError{…}}.
type RejectedError struct {
	*breaker.RejectedError
	code    codes.Code
	details bool
}

// Unwrap returns the *breaker.RejectedError, so that errors.Is and errors.As find it and breaker.ErrRejected.
func (e *RejectedError) Unwrap() error { return e.RejectedError }

// GRPCStatus returns the status of the rejection. Its code is Unavailable or that of WithRejectionCode. It has a
// google.rpc.ErrorInfo with ErrorReason and ErrorDomain, and a google.rpc.RetryInfo with RetryAfter if that is not 0.
//
// The message names only the Reason, and no key, no cause and no person. With WithRejectionDetails the message is the
// text of Error, and the ErrorInfo has the key, the state and the reason.
func (e *RejectedError) GRPCStatus() *status.Status {
	info := &errdetails.ErrorInfo{Reason: ErrorReason, Domain: ErrorDomain}
	message := "circuit breaker rejected the call: " + e.Reason.String()
	if e.details {
		message = valid(e.Error())
		info.Metadata = map[string]string{
			"target": valid(e.Key.Target), "service": valid(e.Key.Service), "method": valid(e.Key.Method),
			"tag": valid(e.Key.Tag), "state": e.State.String(), "reason": e.Reason.String(),
		}
	}
	details := []protoadapt.MessageV1{info}
	if d := e.RetryAfter(); d > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	code := e.code
	if code == codes.OK { // a test of a user made this error, and OK would be no error
		code = codes.Unavailable
	}
	s := status.New(code, message)
	if with, err := s.WithDetails(details...); err == nil { // these messages can always be marshalled
		return with
	}
	return s
}

// valid returns text as valid UTF-8, which a protobuf string must be. A key may hold any bytes.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// IsRejected reports whether err is or wraps the rejection of a circuit breaker. The breaker may be in this process, or
// at a remote hop that uses this library; such a rejection is recognised by its ErrorInfo.
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
		info, ok := detail.(*errdetails.ErrorInfo)
		if ok && info.GetReason() == ErrorReason && info.GetDomain() == ErrorDomain {
			return true
		}
	}
	return false
}

// Retriable reports whether a call that ended with err may be retried. It is for retry.WithRetriable of
// go-grpc-middleware. It returns true for the codes of retry.DefaultRetriableCodes (ResourceExhausted and Unavailable),
// and false for a rejection. Without it, a retry interceptor outside the guard also retries rejected calls, with a
// pause before each attempt.
func Retriable(err error) bool {
	return err != nil && slices.Contains(retry.DefaultRetriableCodes, codeOf(err)) && !IsRejected(err)
}

func errorf(format string, args ...any) error { return fmt.Errorf("interceptor: "+format, args...) }
