package interceptor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// secretKey, and secrets that appear in Error.
var (
	secretKey = breaker.Key{Target: "TARGET", Service: "SERVICE", Method: "METHOD", Tag: "TAG"}
	keyWords  = []string{"TARGET", "SERVICE", "METHOD", "TAG"}
)

func secretive(context.Context, keyfunc.Call) breaker.Key { return secretKey }

// secrets are rejections for each reason, and the words that only a person of this process may read.
var secrets = []struct {
	name  string
	cfg   breaker.Config
	reach func(t *testing.T, g *Guard, b *breaker.Breaker)
	words []string
}{
	{
		"opened by a failure",
		breaker.Config{ConsecutiveFailures: 1},
		func(t *testing.T, g *Guard, _ *breaker.Breaker) {
			t.Helper()
			_ = (&calls{guard: g}).call(t.Context(), status.Error(codes.DataLoss, "ERROR TEXT"))
		},
		[]string{"1 failure", "DATA_LOSS"},
	},
	{
		"opened by Trip",
		breaker.Config{},
		func(t *testing.T, _ *Guard, b *breaker.Breaker) { t.Helper(); b.Trip(t.Context(), "WORDS OF TRIP") },
		[]string{"WORDS OF TRIP"},
	},
	{
		"opened again by a probe",
		breaker.Config{},
		func(t *testing.T, g *Guard, b *breaker.Breaker) {
			t.Helper()
			b.Trip(t.Context(), "WORDS OF TRIP")
			time.Sleep(b.Snapshot().RetryAfter)
			_ = (&calls{guard: g}).call(t.Context(), status.Error(codes.DataLoss, "ERROR TEXT"))
		},
		[]string{"a probe failed", "DATA_LOSS", "WORDS OF TRIP"},
	},
	{
		"half-open",
		breaker.Config{MaxProbes: 1},
		func(t *testing.T, _ *Guard, b *breaker.Breaker) {
			t.Helper()
			b.Trip(t.Context(), "WORDS OF TRIP")
			time.Sleep(b.Snapshot().RetryAfter)
			if _, err := b.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		[]string{"WORDS OF TRIP"},
	},
	{
		"forced open",
		breaker.Config{},
		func(t *testing.T, _ *Guard, b *breaker.Breaker) {
			t.Helper()
			o := breaker.Override{Mode: breaker.ForceOpen, By: "AUTHOR", Why: "TICKET", TTL: time.Minute}
			if err := b.SetOverride(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		},
		[]string{"AUTHOR", "TICKET"},
	},
	{
		"at the concurrency limit",
		breaker.Config{MaxConcurrent: 1},
		func(t *testing.T, _ *Guard, b *breaker.Breaker) {
			t.Helper()
			if _, err := b.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		[]string{"MaxConcurrent"},
	},
}

// wire returns all that a status shows to a client.
func wire(t *testing.T, s *status.Status) string {
	t.Helper()
	b, err := proto.Marshal(s.Proto())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// G8: the status of a rejection names no key, cause, author or reason, and no words of Trip. A server that returns the
// error as it is sends only that. Error names them, and a server that wraps the error with %w sends the text.
func TestG08_WhatLeavesTheProcess(t *testing.T) {
	for _, tt := range secrets {
		for _, code := range []codes.Code{codes.Unavailable, codes.Internal} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, tt.cfg, WithRejectionCode(code), WithKey(secretive))
				tt.reach(t, g, g.Group().Get(secretKey))
				err := error(rejected(t, (&calls{guard: g}).call(t.Context(), nil)))
				words := append(append([]string{}, keyWords...), tt.words...)
				check := func(what, text string, want bool) {
					t.Helper()
					for _, word := range words {
						if strings.Contains(text, word) != want {
							t.Errorf("%s, %s: names %q: %v, want %v: %q", tt.name, what, word, !want, want, text)
						}
					}
				}
				check("Error", err.Error(), true)
				check("GRPCStatus", wire(t, status.Convert(err)), false)

				srv := new(testpb.Server)
				client := testpb.NewTestClient(testpb.Bufconn(t, srv))
				for what, hand := range map[string]error{"as it is": err, "wrapped": fmt.Errorf("get: %w", err)} {
					srv.Set(failing(hand))
					_, unary := client.Unary(t.Context(), &testpb.Request{})
					wantCode(t, what, unary, code)
					check("a unary call, "+what, wire(t, status.Convert(unary)), what == "wrapped")
					s, streamErr := client.ServerStream(t.Context(), &testpb.Request{})
					if streamErr != nil {
						t.Fatal(streamErr)
					}
					_, streamErr = drain(s)
					wantCode(t, what, streamErr, code)
					check("a stream, "+what, wire(t, status.Convert(streamErr)), what == "wrapped")
					if !IsRejected(unary) || !IsRejected(streamErr) {
						t.Errorf("%s, %s: the client does not see a rejection", tt.name, what)
					}
				}
			})
		}
	}
}

// WithRejectionDetails sends the text and the key to the server's clients.
func TestG08_WhatLeavesTheProcessWithDetails(t *testing.T) {
	for _, tt := range secrets {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(t, tt.cfg, WithRejectionDetails(), WithKey(secretive))
			tt.reach(t, g, g.Group().Get(secretKey))
			text := wire(t, status.Convert((&calls{guard: g}).call(t.Context(), nil)))
			for _, word := range append(append([]string{}, keyWords...), tt.words...) {
				if !strings.Contains(text, word) {
					t.Errorf("%s: the status does not name %q: %q", tt.name, word, text)
				}
			}
		})
	}
}
