package interceptor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// withDetails returns a status error as a server might send it.
func withDetails(t *testing.T, code codes.Code, text string, details ...protoadapt.MessageV1) error {
	t.Helper()
	s, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

func TestG07_IsRejected(t *testing.T) {
	local := rejectionOf(t, newGuard(t, breaker.Config{OpenFor: time.Hour}))
	remote := withDetails(t, codes.Unavailable, "no", retryIn(1),
		&errdetails.ErrorInfo{Reason: ErrorReason, Domain: ErrorDomain})
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"a rejection", local, true},
		{"of package breaker", local.RejectedError, true},
		{"the sentinel", breaker.ErrRejected, true},
		{"wrapped", fmt.Errorf("get: %w", local), true},
		{"joined", errors.Join(errors.New("first"), local), true},
		{"over the wire", overTheWire(t, local), true},
		{"remote", remote, true},
		{"remote, wrapped", fmt.Errorf("get: %w", remote), true},
		{"remote, wrapped at the hop", overTheWire(t, fmt.Errorf("get: %w", local)), true},
		{"another reason", withDetails(t, codes.Unavailable, "no",
			&errdetails.ErrorInfo{Reason: "QUOTA", Domain: ErrorDomain}), false},
		{"another domain", withDetails(t, codes.Unavailable, "no",
			&errdetails.ErrorInfo{Reason: ErrorReason, Domain: "example.com"}), false},
		{"no details", status.Error(codes.Unavailable, ErrorReason), false},
		{"no status", errors.New("circuit breaker rejected the call: open"), false},
		{"a status that is nil", nilStatusError{}, false},
	} {
		if got := IsRejected(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestG10_Retriable(t *testing.T) {
	local := rejectionOf(t, newGuard(t, breaker.Config{OpenFor: time.Hour}))
	for c := range codes.Code(21) {
		want := c == codes.Unavailable || c == codes.ResourceExhausted
		if got := Retriable(status.Error(c, "x")); got != want {
			t.Errorf("%v: %v, want %v", c, got, want)
		}
		g := newGuard(t, breaker.Config{OpenFor: time.Hour}, WithRejectionCode(min(max(c, 1), 16)))
		if got := Retriable(rejectionOf(t, g)); got {
			t.Errorf("a rejection with code %v is retriable", c)
		}
	}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"wrapped", fmt.Errorf("get: %w", down), true},
		{"no status", errors.New("x"), false},
		{"deadline", context.DeadlineExceeded, false},
		{"a rejection", local, false},
		{"a rejection, wrapped", fmt.Errorf("get: %w", local), false},
		{"a rejection at a remote hop", overTheWire(t, local), false},
	} {
		if got := Retriable(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
