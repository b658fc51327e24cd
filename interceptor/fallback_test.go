package interceptor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

type (
	request  = testpb.Request
	response = testpb.Response
)

var forUnary = ForMethods(testpb.Test_Unary_FullMethodName)

// saying returns a fallback that answers text.
func answering(text string) FallbackHandler {
	return Fallback(func(context.Context, *request, error) (*response, error) {
		return &response{Text: text}, nil
	})
}

// openScene returns a scene whose breaker is open for an hour.
func openScene(t *testing.T, opts ...Option) *scene {
	t.Helper()
	cfg := breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}
	s := newScene(t, newGuard(t, cfg, append(opts, WithKey(oneKey))...), "")
	s.guard.Group().Get(breaker.Key{}).Trip(t.Context(), "test")
	return s
}

func TestG15_AnswersARejectedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(recorder)
		req := &request{Text: "question"}
		ctx := context.WithValue(t.Context(), ctxKey{}, "mine")
		runs := 0
		var cause error
		s := openScene(t, WithHooks(hooksOf(rec)), WithFallback(forUnary, Fallback(
			func(gotCtx context.Context, gotReq *request, err error) (*response, error) {
				runs++
				// The fallback's context is that of the caller with a mark.
				if gotCtx.Value(ctxKey{}) != "mine" || gotCtx.Done() != ctx.Done() || gotReq != req {
					t.Errorf("the fallback got %v and %v, want those of the caller", gotCtx, gotReq)
				}
				if len(rec.rejected) != 1 || len(rec.fellBack) != 0 {
					t.Errorf("hooks got %d rejections and %d fallbacks before the fallback, want 1 and 0", len(rec.rejected),
						len(rec.fellBack))
				}
				cause = err
				return &response{Text: "answer to " + gotReq.GetText()}, nil
			})))
		var header, trailer metadata.MD
		resp, err := s.client.Unary(ctx, req, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&response{Text: "answer to question"}, resp, protocmp.Transform()); diff != "" {
			t.Errorf("the answer (-want +got):\n%s", diff)
		}
		if runs != 1 || s.srv.Total() != 0 {
			t.Errorf("the fallback ran %d times, the server %d times; want 1 and 0", runs, s.srv.Total())
		}
		if e := rejected(t, cause); len(rec.rejected) != 1 || e != rec.rejected[0] {
			t.Errorf("the fallback got %v, the hook %v; want the same", cause, rec.rejected)
		}
		if diff := cmp.Diff(metadata.Pairs("grpcircuit-fallback", "rejected"), trailer); diff != "" || header != nil {
			t.Errorf("header %v, trailer (-want +got):\n%s", header, diff)
		}
		wantTally(t, "answered", s.guard, tally{Rejected: 1, Served: 1})
		wantFellBack(t, rec, cause, true)
	})
}

// wantFellBack checks that FellBack was called once, and its argument.
func wantFellBack(t *testing.T, rec *recorder, cause error, served bool) {
	t.Helper()
	if len(rec.fellBack) != 1 {
		t.Fatalf("FellBack was called %d times, want 1", len(rec.fellBack))
	}
	got := rec.fellBack[0]
	if got.Key != (breaker.Key{}) || got.Cause != cause || got.Served != served || //nolint:errorlint // the same value
		got.Call.Service != "grpcircuit.testpb.Test" || got.Call.Method != "Unary" {
		t.Errorf("FellBack got %+v, want Unary, cause %v, served %v", got, cause, served)
	}
}

// If a fallback fails, the caller gets the error of the call, and the reply does not change.
func TestG15_FallbackThatFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func() (*response, error)
		ends bool
	}{
		{"error", func() (*response, error) { return nil, errors.New("no cache") }, false},
		{"error and response", func() (*response, error) { return &response{Text: "half"}, errors.New("stale") }, false},
		{"status", func() (*response, error) { return nil, status.Error(codes.NotFound, "no cache") }, false},
		{"nothing", func() (*response, error) { return nil, nil }, false},
		{"panic", func() (*response, error) { panic("fallback") }, false},
		{"Goexit", func() (*response, error) { runtime.Goexit(); return nil, nil }, true},
	} {
		for _, onFailure := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				rec := new(recorder)
				h := Fallback(func(context.Context, *request, error) (*response, error) { return tt.f() })
				s := openScene(t, WithHooks(hooksOf(rec)), WithFallback(forUnary, h, OnFailure()))
				want := tally{Rejected: 1, NotServed: 1}
				if onFailure {
					onlyBreaker(t, s.guard).Reset(t.Context())
					s.srv.Set(failing(down))
					want = tally{Failure: 1, NotServed: 1}
				}
				var trailer metadata.MD
				reply := &response{Text: "untouched"}
				var err error
				returned := apart(func() {
					err = s.cc.Invoke(t.Context(), testpb.Test_Unary_FullMethodName, &request{}, reply, grpc.Trailer(&trailer))
				})
				cause := s.spy.err
				if !onFailure {
					cause = rec.rejected[0]
				}
				if returned == tt.ends || (returned && err != cause) { //nolint:errorlint // the same value
					t.Errorf("%s: returned %v with %v, want %v with %v", tt.name, returned, err, !tt.ends, cause)
				}
				if diff := cmp.Diff(&response{Text: "untouched"}, reply, protocmp.Transform()); diff != "" {
					t.Errorf("%s: the reply (-want +got):\n%s", tt.name, diff)
				}
				if got := trailer.Get(FallbackTrailer); got != nil {
					t.Errorf("%s: the trailer has the mark of a fallback: %v", tt.name, got)
				}
				wantTally(t, tt.name, s.guard, want)
				wantFellBack(t, rec, cause, false)
			})
		}
	}
}

func TestG15_OnFailure(t *testing.T) {
	for _, c := range everyCode {
		if c == 1<<32-1 {
			continue // a server cannot send it
		}
		for _, opts := range [][]FallbackOption{nil, {OnFailure()}} {
			for _, more := range [][]Option{nil, {WithPeerEvidence()}, {WithClassifier(DefaultClassifier)}} {
				synctest.Test(t, func(t *testing.T) {
					g := newGuard(t, breaker.Config{}, append(more, WithKey(oneKey),
						WithFallback(forUnary, answering("instead"), opts...))...)
					s := newScene(t, g, "")
					s.srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *request) (*response, error) {
						_ = grpc.SetTrailer(ctx, metadata.Pairs("from", "server"))
						return &response{Text: "itself"}, status.Error(c, "from the server")
					}})
					var trailer metadata.MD
					resp, err := s.client.Unary(t.Context(), &request{}, grpc.Trailer(&trailer))
					answers := opts != nil && (classOf(c) == breaker.Failure || classOf(c) == breaker.Overload)
					want := one(classOf(c))
					var marks []string
					switch {
					case answers:
						want.Served = 1
						marks = []string{"failed"}
						if err != nil || resp.GetText() != "instead" {
							t.Errorf("%v: got %q, %v; want an answer of the fallback", c, resp.GetText(), err)
						}
					case c == codes.OK:
						if err != nil || resp.GetText() != "itself" {
							t.Errorf("%v: got %q, %v; want the server's answer", c, resp.GetText(), err)
						}
					default:
						wantCode(t, "not answered", err, c)
						if err != s.spy.err { //nolint:errorlint // the same value
							t.Errorf("%v: got %v, want %v", c, err, s.spy.err)
						}
					}
					if got := trailer.Get(FallbackTrailer); !cmp.Equal(got, marks) {
						t.Errorf("%v: the mark is %q, want %q", c, got, marks)
					}
					if got := trailer.Get("from"); !cmp.Equal(got, []string{"server"}) {
						t.Errorf("%v: the trailer does not have what the server sent: %v", c, trailer)
					}
					// The breaker still counts the outcome of the backend.
					wantTally(t, c.String(), g, want)
				})
			}
		}
	}
}

// A fallback may answer each failure. The breaker still counts them, and opens.
func TestG15_AnsweredFailuresStillOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{OpenFor: time.Second},
			WithKey(oneKey), WithFallback(forUnary, answering("instead"), OnFailure()))
		s := newScene(t, g, "")
		s.srv.Set(failing(down))
		for range 10 {
			wantCode(t, "answered", s.plain(), codes.OK)
		}
		wantTally(t, "ten calls to a dead server", g, tally{Failure: 5, Rejected: 5, Served: 10})
		time.Sleep(time.Second)
		wantCode(t, "a failed probe, answered", s.plain(), codes.OK)
		wantState(t, "after a failed probe", g, breaker.Open)
	})
}

// A rejection at a remote hop is not a failure and not a rejection of this process, so a fallback does not answer.
// TestG15_FallbackOfTheOuterGuard is about a rejection by an inner guard.
func TestG15_RejectedAtARemoteHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{}, WithKey(oneKey), WithFallback(forUnary, answering("instead"), OnFailure()))
		s := newScene(t, g, "")
		s.srv.Set(failing(&RejectedError{RejectedError: &breaker.RejectedError{Reason: breaker.ReasonOpen}}))
		if err := s.plain(); !IsRejected(err) {
			t.Errorf("got %v, want the rejection of the remote hop", err)
		}
		wantTally(t, "the guard", g, tally{Ignored: 1})
	})
}

// A fallback does not hold the permit. While a fallback is slow, all slots of the breaker are free, also that of a
// probe.
func TestG15_SlowFallbackHoldsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := Fallback(func(context.Context, *request, error) (*response, error) {
			time.Sleep(time.Hour)
			return &response{Text: "late"}, nil
		})
		g := newGuard(t, breaker.Config{
			MaxConcurrent: 1, ConsecutiveFailures: 2, OpenFor: time.Second, Backoff: 1, ProbeTimeout: 24 * time.Hour,
		}, WithKey(oneKey), WithFallback(forUnary, slow, OnFailure()))
		s := newScene(t, g, "")
		s.srv.Set(failing(down))
		ended := make(chan error, 3)
		begin := func() {
			go func() {
				_, err := testpb.NewTestClient(s.cc).Unary(t.Context(), &request{})
				ended <- err
			}()
			synctest.Wait()
		}
		begin() // fails, and the fallback sleeps
		begin() // MaxConcurrent admits it, it fails, and the breaker opens
		time.Sleep(time.Second)
		begin() // fails as a probe
		time.Sleep(time.Second)
		s.srv.Set(testpb.Script{})
		wantCode(t, "a probe while the fallback of the last one sleeps", s.plain(), codes.OK)
		wantTally(t, "while three fallbacks sleep", g, tally{Failure: 3, Success: 1})
		for range 3 {
			wantCode(t, "answered late", <-ended, codes.OK)
		}
		wantTally(t, "in the end", g, tally{Failure: 3, Success: 1, Served: 3})
	})
}

func TestG15_TheFirstThatMatches(t *testing.T) {
	never := selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { return false })
	panics := selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { panic("matcher") })
	all := selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { return true })
	for _, tt := range []struct {
		name    string
		opts    []Option
		rejects string // what answers a rejected call; empty: nothing
		fails   string // what answers a failed one
	}{
		{"one", []Option{WithFallback(all, answering("a"), OnFailure())}, "a", "a"},
		{
			"two",
			[]Option{WithFallback(all, answering("a"), OnFailure()), WithFallback(all, answering("b"), OnFailure())},
			"a",
			"a",
		},
		{"the first for rejections only", []Option{
			WithFallback(all, answering("a")),
			WithFallback(all, answering("b"), OnFailure()),
		}, "a", "b"},
		{"the first does not match", []Option{
			WithFallback(never, answering("a"), OnFailure()),
			WithFallback(all, answering("b"), OnFailure()),
		}, "b", "b"},
		{"none matches", []Option{WithFallback(never, answering("a"), OnFailure())}, "", ""},
		{"a matcher panics", []Option{WithFallback(panics, answering("a"), OnFailure())}, "", ""},
		{"by name", []Option{WithFallback(ForMethods("/a/b", testpb.Test_Unary_FullMethodName), answering("a"))}, "a", ""},
		{"another name", []Option{WithFallback(ForMethods(testpb.Other_Ping_FullMethodName), answering("a"))}, "", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := openScene(t, tt.opts...)
			wantAnswer := func(want string, code codes.Code) {
				t.Helper()
				resp, err := s.client.Unary(t.Context(), &request{})
				if want == "" {
					wantCode(t, tt.name, err, code)
				} else if err != nil || resp.GetText() != want {
					t.Errorf("%s: got %q, %v; want %q", tt.name, resp.GetText(), err, want)
				}
			}
			wantAnswer(tt.rejects, codes.Unavailable)
			onlyBreaker(t, s.guard).Reset(t.Context())
			s.srv.Set(failing(status.Error(codes.DataLoss, "")))
			wantAnswer(tt.fails, codes.DataLoss)
		})
	}
}

// B24: grpc ends a call whose context is done, and the fallback does not answer it.
func TestG15_ContextThatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openScene(t, WithFallback(forUnary, answering("instead"), OnFailure()))
		wantCode(t, "deadline before the call", s.within(-1), codes.DeadlineExceeded)
		wantTally(t, "deadline before the call", s.guard, tally{})
	})
}

// A fallback may call another backend through the same guard, or even the same method. Calls with the fallback's
// context, or one derived from it, get no fallback, so this does not recurse. Calls with another context do.
func TestG15_FallbackThatCalls(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other bool
		want  tally
	}{
		{"its own context", false, tally{Rejected: 2, Served: 1}},
		{"another context", true, tally{Rejected: 2, Served: 1, NotServed: 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var s *scene
			runs := 0
			handler := func(ctx context.Context, req *request, cause error) (*response, error) {
				runs++
				if req.GetText() == "again" {
					return nil, fmt.Errorf("enough: %w", cause)
				}
				derived, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				if tt.other {
					derived = t.Context()
				}
				if _, err := s.client.Unary(derived, &request{Text: "again"}); !IsRejected(err) {
					t.Errorf("%s: the call of the fallback got %v, want a rejection", tt.name, err)
				}
				return s.client.Unary(ctx, req, Bypass())
			}
			s = openScene(t, WithFallback(forUnary, Fallback(handler)))
			resp, err := s.client.Unary(t.Context(), &request{Text: "first"})
			if err != nil || resp.GetText() != "first" {
				t.Errorf("%s: got %q, %v; want the server's echo", tt.name, resp.GetText(), err)
			}
			wantTally(t, tt.name, s.guard, tt.want)
			if want := 1 + int(tt.want.NotServed); runs != want {
				t.Errorf("%s: the fallback ran %d times, want %d", tt.name, runs, want)
			}
		})
	}
}
