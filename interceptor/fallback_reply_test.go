package interceptor

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// The reply is a copy of the handler's response and has nothing else. A handler may return the same response each time.
func TestG15_ReplyIsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cached := &response{Text: "cached", Payload: []byte("abc")}
		s := openScene(t, WithFallback(forUnary, Fallback(
			func(context.Context, *request, error) (*response, error) { return cached, nil })))
		reply := &response{Text: "before", Count: 7}
		if err := s.cc.Invoke(t.Context(), testpb.Test_Unary_FullMethodName, &request{}, reply); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&response{Text: "cached", Payload: []byte("abc")}, reply, protocmp.Transform()); diff != "" {
			t.Errorf("the reply (-want +got):\n%s", diff)
		}
		reply.Payload[0] = 'x'
		if got := string(cached.GetPayload()); got != "abc" {
			t.Errorf("the caller changed the message of the fallback: %q", got)
		}
	})
}

func TestG15_OneAnswerForAllConcurrentSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cached := &response{Text: "cached"}
		s := openScene(t, WithFallback(forUnary, Fallback(
			func(context.Context, *request, error) (*response, error) { return cached, nil })))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					resp, err := s.client.Unary(t.Context(), &request{})
					if err != nil || resp.GetText() != "cached" {
						t.Errorf("got %q, %v", resp.GetText(), err)
						return
					}
					resp.Text = "the caller's"
				}
			})
		}
		wg.Wait()
		wantTally(t, "200 answers", s.guard, tally{Rejected: 200, Served: 200})
	})
}

// Messages need not be protobuf, because grpc accepts other codecs.
func TestG15_OtherMessages(t *testing.T) {
	type question struct{ text string }
	type answer struct {
		text  string
		count int
	}
	g := newGuard(t, breaker.Config{OpenFor: time.Hour}, WithFallback(ForMethods(fullMethod), Fallback(
		func(_ context.Context, q *question, _ error) (*answer, error) {
			return &answer{text: "to " + q.text}, nil
		})))
	g.Group().Get(methodKey).Trip(t.Context(), "test")
	reply := &answer{text: "before", count: 7}
	if err := g.Unary(t.Context(), fullMethod, &question{"question"}, reply, nil, returnsAtOnce); err != nil {
		t.Fatal(err)
	}
	if want := (answer{text: "to question"}); *reply != want {
		t.Errorf("got %+v, want %+v", *reply, want)
	}
}

// If the types of the handler do not fit the call, the program has a bug, and the caller gets an error for it. The
// error wraps the rejection or the failure of the call.
func TestG15_TypesThatDoNotFitTheCall(t *testing.T) {
	for _, tt := range []struct {
		name       string
		req, reply any
	}{
		{"request", new(string), new(int)},
		{"reply", new(int), new(string)},
		{"values", 1, 2},
		{"nil", nil, nil},
	} {
		for _, onFailure := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) { // the error names the time until the next probe
				ran := false
				rec := new(recorder)
				g := newGuard(t, breaker.Config{}, WithHooks(hooksOf(rec)), WithFallback(ForMethods(fullMethod), Fallback(
					func(context.Context, *int, error) (*int, error) {
						ran = true
						return new(int), nil
					}), OnFailure()))
				cause := down
				want := tally{Failure: 1, NotServed: 1}
				if !onFailure {
					g.Group().Get(methodKey).Trip(t.Context(), "test")
					want = tally{Rejected: 1, NotServed: 1}
				}
				var trailer metadata.MD
				err := g.Unary(t.Context(), fullMethod, tt.req, tt.reply, nil, takes(0, down), grpc.Trailer(&trailer))
				wantCode(t, tt.name, err, codes.Internal)
				if !onFailure {
					cause = rec.rejected[0]
				}
				if !errors.Is(err, cause) || IsRejected(err) == onFailure || !strings.Contains(err.Error(), cause.Error()) {
					t.Errorf("%s: %v does not wrap %v", tt.name, err, cause)
				}
				message := status.Convert(err).Message()
				if !strings.Contains(message, "*int") || !strings.Contains(message, fullMethod) {
					t.Errorf("%s: the message %q does not name the types and the method", tt.name, message)
				}
				if ran || trailer != nil {
					t.Errorf("%s: ran %v, trailer %v; want false and none", tt.name, ran, trailer)
				}
				wantTally(t, tt.name, g, want)
				if len(rec.fellBack) != 1 || rec.fellBack[0].Served ||
					rec.fellBack[0].Cause != cause { //nolint:errorlint // the same value
					t.Errorf("%s: FellBack got %+v", tt.name, rec.fellBack)
				}
			})
		}
	}
}

// The mark is that of the current call. A caller may use one variable for the trailers of all calls, and must not find
// the mark of an earlier call.
func TestG15_MarkIsOfTheCurrentCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openScene(t, WithFallback(forUnary, answering("instead"), OnFailure()))
		want := metadata.Pairs(FallbackTrailer, FallbackRejected)
		trailer := metadata.Pairs("from", "an earlier call")
		for range 2 {
			if err := s.plain(grpc.Trailer(&trailer)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, trailer); diff != "" {
				t.Errorf("trailer (-want +got):\n%s", diff)
			}
		}
		onlyBreaker(t, s.guard).Reset(t.Context())
		s.srv.Set(testpb.Script{})
		if err := s.plain(grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if got := trailer.Get(FallbackTrailer); got != nil {
			t.Errorf("a call that the backend answered has the mark %q", got)
		}
	})
}

// A caller may have several grpc.Trailer options, also with nil.
func TestG15_MarksAllTrailers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openScene(t, WithFallback(forUnary, answering("instead")))
		var one, two metadata.MD
		if err := s.plain(grpc.Trailer(&one), grpc.Trailer(nil), grpc.Trailer(&two)); err != nil {
			t.Fatal(err)
		}
		for _, got := range []metadata.MD{one, two} {
			if diff := cmp.Diff(metadata.Pairs(FallbackTrailer, FallbackRejected), got); diff != "" {
				t.Errorf("trailer (-want +got):\n%s", diff)
			}
		}
	})
}

func TestG15_BadFallbacksAreErrors(t *testing.T) {
	good := answering("x")
	other := Fallback(func(context.Context, *response, error) (*response, error) { return nil, nil })
	third := Fallback(func(context.Context, *request, error) (*request, error) { return nil, nil })
	const service = "grpcircuit.testpb.Test"
	for _, tt := range []struct {
		name string
		opt  Option
		want string // in the error; empty: no error
	}{
		{"good", WithFallback(forUnary, good), ""},
		{"several methods", WithFallback(ForMethods(testpb.Test_Unary_FullMethodName, testpb.Other_Ping_FullMethodName),
			good), ""},
		{"nil matcher", WithFallback(nil, good), "interceptor: WithFallback: the matcher is nil"},
		{
			"nil function", WithFallback(forUnary, Fallback[request, response](nil)),
			"interceptor: WithFallback: the handler has no function",
		},
		{"zero handler", WithFallback(forUnary, FallbackHandler{}), "interceptor: WithFallback: the handler has no function"},
		{"nil option", WithFallback(forUnary, good, OnFailure(), nil), "interceptor: WithFallback: option 1 is nil"},
		{
			"empty name", WithFallback(ForMethods(""), good),
			`interceptor: WithFallback: "" is not a full method name, want "/service/method"`,
		},
		{"no slash before", WithFallback(ForMethods("a/b"), good), `"a/b" is not a full method name`},
		{"no method", WithFallback(ForMethods("/a"), good), `"/a" is not a full method name`},
		{"empty method", WithFallback(ForMethods("/a/"), good), `"/a/" is not a full method name`},
		{"empty service", WithFallback(ForMethods("//b"), good), `"//b" is not a full method name`},
		{"the second name", WithFallback(ForMethods("/a/b", "b"), good), `"b" is not a full method name`},
		{
			"request", WithFallback(forUnary, other),
			"interceptor: WithFallback: the request of /grpcircuit.testpb.Test/Unary is grpcircuit.testpb.Request, " +
				"and the handler has grpcircuit.testpb.Response",
		},
		{
			"response", WithFallback(forUnary, third),
			"interceptor: WithFallback: the response of /grpcircuit.testpb.Test/Unary is grpcircuit.testpb.Response, " +
				"and the handler has grpcircuit.testpb.Request",
		},
		{
			"client stream", WithFallback(ForMethods("/"+service+"/ClientStream"), good),
			"/grpcircuit.testpb.Test/ClientStream is a stream, and streams have no fallback",
		},
		{"server stream", WithFallback(ForMethods("/"+service+"/ServerStream"), good), "is a stream"},
		{"bidi", WithFallback(ForMethods("/"+service+"/Bidi"), good), "is a stream"},
		{"a service that is not linked in", WithFallback(ForMethods("/example.Unknown/Get"), other), ""},
		{
			"a method that there is not", WithFallback(ForMethods("/"+service+"/Nothing"), other),
			`service grpcircuit.testpb.Test has no method "Nothing"`,
		},
		{"the name of something else", WithFallback(ForMethods("/grpcircuit.testpb/Request"), other), ""},
		{
			"no protobuf", WithFallback(forUnary, Fallback(answerNothing)),
			"the request of /grpcircuit.testpb.Test/Unary is grpcircuit.testpb.Request, and the handler has *int",
		},
		{"pointers to pointers", WithFallback(forUnary,
			Fallback(func(context.Context, **testpb.Request, error) (**testpb.Response, error) {
				return nil, nil
			})), "and the handler has **testpb.Request"},
		{
			"a message for a service", WithFallback(ForMethods("/grpcircuit.testpb.Request/Get"), good),
			"grpcircuit.testpb.Request is not a service",
		},
		{"no names", WithFallback(ForMethods(), good), "WithFallback: ForMethods has no names"},
		{"no names for a matcher", WithMatcher(ForMethods()), "WithMatcher: ForMethods has no names"},
		{
			"a matcher with half a name", WithMatcher(ForMethods("grpcircuit.testpb.Test/Unary")),
			`WithMatcher: "grpcircuit.testpb.Test/Unary" is not a full method name`,
		},
		{"a matcher with a stream", WithMatcher(ForMethods("/" + service + "/Bidi")), ""},
		{"no protobuf, and not linked in", WithFallback(ForMethods("/example.Unknown/Get"), Fallback(answerNothing)), ""},
		{"another matcher", WithFallback(selector.MatchFunc(forUnary.Match), other), ""},
	} {
		g, err := New(nil, tt.opt)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || g != nil {
			t.Errorf("%s: got %v and %v, want an error with %q", tt.name, g, err, tt.want)
		}
	}
}

// A proxy has messages whose type is known only at run time.
func TestG15_DynamicMessages(t *testing.T) {
	desc := new(response).ProtoReflect().Descriptor()
	answer := Fallback(func(context.Context, *dynamicpb.Message, error) (*dynamicpb.Message, error) {
		m := dynamicpb.NewMessage(desc)
		m.Set(desc.Fields().ByName("text"), protoreflect.ValueOfString("instead"))
		return m, nil
	})
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if v := recover(); v != nil {
				t.Errorf("New panicked: %v", v)
			}
		}()
		s := openScene(t, WithFallback(forUnary, answer))
		reply := dynamicpb.NewMessage(desc)
		req := dynamicpb.NewMessage(new(request).ProtoReflect().Descriptor())
		if err := s.cc.Invoke(t.Context(), testpb.Test_Unary_FullMethodName, req, reply); err != nil {
			t.Fatal(err)
		}
		if got := reply.Get(desc.Fields().ByName("text")).String(); got != "instead" {
			t.Errorf("got %q, want the fallback's answer", got)
		}
	})
}
