package interceptor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// ofType matches calls of one type.
func ofType(typ interceptors.GRPCType) selector.Matcher {
	return selector.MatchFunc(func(_ context.Context, c interceptors.CallMeta) bool { return c.Typ == typ })
}

var (
	unaryCalls = ofType(interceptors.Unary)
	allCalls   = selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { return true })
	noCalls    = selector.MatchFunc(func(context.Context, interceptors.CallMeta) bool { return false })
)

// openStream makes a stream that is rejected and returns its error.
func openStream(t *testing.T, g *Guard, desc *grpc.StreamDesc) error {
	t.Helper()
	_, err := g.Stream(t.Context(), desc, nil, fullMethod,
		func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			t.Error("the stream is not rejected")
			return new(fakeStream), nil
		})
	return err
}

// G8: a rejected call gets the code of the first WithRejectionCode with a matcher that matches it. If there is none, it
// gets the code of the option without matchers. The position of that option does not matter.
func TestG08_RejectionCodeByMatcher(t *testing.T) {
	const un = codes.Unavailable
	const a, b, c = codes.Aborted, codes.ResourceExhausted, codes.FailedPrecondition
	for _, tt := range []struct {
		name                  string
		opts                  []Option
		unary, stream, upload codes.Code
	}{
		{"no option", nil, un, un, un},
		{
			"streams differ",
			[]Option{WithRejectionCode(a, ofType(interceptors.ServerStream))},
			un, a, un,
		},
		{
			"two matchers",
			[]Option{WithRejectionCode(a, ofType(interceptors.ServerStream), ofType(interceptors.ClientStream))},
			un, a, a,
		},
		{"the first matches", []Option{WithRejectionCode(a, unaryCalls), WithRejectionCode(b, allCalls)}, a, b, b},
		{"the first matches all", []Option{WithRejectionCode(b, allCalls), WithRejectionCode(a, unaryCalls)}, b, b, b},
		{"the default first", []Option{WithRejectionCode(c), WithRejectionCode(a, unaryCalls)}, a, c, c},
		{"the default last", []Option{WithRejectionCode(a, unaryCalls), WithRejectionCode(c)}, a, c, c},
		{"the default between", []Option{
			WithRejectionCode(a, unaryCalls), WithRejectionCode(c), WithRejectionCode(b, ofType(interceptors.ServerStream)),
		}, a, b, c},
		{"nothing matches", []Option{WithRejectionCode(a, noCalls), WithRejectionCode(b, noCalls)}, un, un, un},
		{"by name", []Option{WithRejectionCode(a, ForMethods(fullMethod))}, a, a, a},
		{"by another name", []Option{WithRejectionCode(a, ForMethods("/pkg.Service/Other"))}, un, un, un},
	} {
		g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, tt.opts...)
		g.Group().Get(methodKey).Trip(t.Context(), "test")
		for range 2 { // made, and from the cache
			wantCode(t, tt.name+": unary", (&calls{guard: g}).call(t.Context(), nil), tt.unary)
			wantCode(t, tt.name+": stream", openStream(t, g, serverStreams), tt.stream)
			wantCode(t, tt.name+": upload", openStream(t, g, clientStreams), tt.upload)
		}
	}
}

// The guard copies the slice of matchers.
func TestG08_RejectionCodeKeepsItsMatchers(t *testing.T) {
	where := []selector.Matcher{allCalls}
	opt := WithRejectionCode(codes.Aborted, where...)
	g := newGuard(t, breaker.Config{OpenFor: time.Hour}, opt)
	where[0] = nil
	wantCode(t, "after the slice has changed", rejectionOf(t, g), codes.Aborted)
}

func TestG08_RejectionCodeOption(t *testing.T) {
	const unary = testpb.Test_Unary_FullMethodName
	for want, opt := range map[string]Option{
		"WithRejectionCode: matcher 0 is nil":                WithRejectionCode(codes.Aborted, nil),
		"WithRejectionCode: matcher 1 is nil":                WithRejectionCode(codes.Aborted, allCalls, nil),
		"WithRejectionCode: ForMethods has no names":         WithRejectionCode(codes.Aborted, ForMethods()),
		`WithRejectionCode: "a/b" is not a full method name`: WithRejectionCode(codes.Aborted, ForMethods("a/b")),
		`WithRejectionCode: service grpcircuit.testpb.Test has no method "Unry"`: WithRejectionCode(codes.Aborted, allCalls,
			ForMethods(unary, strings.Replace(unary, "Unary", "Unry", 1))),
		"WithRejectionCode: the code is 0 (OK), want from 1 to 16":        WithRejectionCode(codes.OK, allCalls),
		"WithRejectionCode: the code is 17 (Code(17)), want from 1 to 16": WithRejectionCode(17, allCalls),
	} {
		if _, err := New(nil, opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	streams := ForMethods(unary, testpb.Test_Bidi_FullMethodName)
	if _, err := New(nil, WithRejectionCode(codes.Aborted, streams)); err != nil {
		t.Errorf("streams may have a code: %v", err)
	}
}

// G8: a rejection allocates nothing, also if calls of one breaker have two codes.
func TestG08_RejectionWithTwoCodesAllocatesNothing(t *testing.T) {
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour},
		WithRejectionCode(codes.Aborted, ofType(interceptors.ServerStream)),
		WithRejectionCode(codes.ResourceExhausted, unaryCalls))
	g.Group().Get(methodKey).Trip(t.Context(), "test")
	ctx := t.Context()
	got := testing.AllocsPerRun(100, func() {
		unary := g.Unary(ctx, fullMethod, nil, nil, nil, returnsAtOnce)
		_, stream := g.Stream(ctx, serverStreams, nil, fullMethod, nil)
		u, _ := unary.(*RejectedError)  //nolint:errorlint // as it is
		s, _ := stream.(*RejectedError) //nolint:errorlint // as it is
		if u.code != codes.ResourceExhausted || s.code != codes.Aborted {
			t.Fatal(unary, stream)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations for two rejections, want 0", got)
	}
}

// G8: the rejections of one generation with the same code share one error. The next generation has another.
func TestG08_OneErrorForAGeneration(t *testing.T) {
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour},
		WithRejectionCode(codes.Aborted, ofType(interceptors.ServerStream))) // far from Unavailable: no place is shared
	b := g.Group().Get(methodKey)
	seen := map[error]bool{}
	for range 50 {
		b.Trip(t.Context(), "test")
		unary, stream := (&calls{guard: g}).call(t.Context(), nil), openStream(t, g, serverStreams)
		for range 3 {
			if got := (&calls{guard: g}).call(t.Context(), nil); got != unary { //nolint:errorlint // the very same
				t.Error("two rejections of one generation are two errors")
			}
			if got := openStream(t, g, serverStreams); got != stream { //nolint:errorlint // the very same
				t.Error("two rejected streams of one generation have two errors")
			}
		}
		if seen[unary] || seen[stream] {
			t.Error("an error comes again in another generation")
		}
		seen[unary], seen[stream] = true, true
	}
}

// byTag has a breaker for each Tag.
var byTag = WithKey(func(context.Context, keyfunc.Call) breaker.Key { return breaker.Key{} })

// openTags opens a breaker for each of n tags and returns the options of calls to them.
func openTags(t *testing.T, g *Guard, n int) []grpc.CallOption {
	t.Helper()
	var tags []grpc.CallOption
	for i := range n {
		tag := fmt.Sprint(i)
		g.Group().Get(breaker.Key{Tag: tag}).Trip(t.Context(), "test")
		tags = append(tags, Tag(tag))
	}
	return tags
}

// wantErrorOf checks that err is the rejection of the breaker with tag i.
func wantErrorOf(t *testing.T, err error, i int, code codes.Code) {
	t.Helper()
	e, ok := err.(*RejectedError) //nolint:errorlint // as it is
	if !ok || e.Key != (breaker.Key{Tag: fmt.Sprint(i)}) || e.code != code {
		t.Errorf("breaker %d: got %v, want its rejection with %v", i, err, code)
	}
}

// twoCodes gives streams another code. It is adjacent to the code of other calls, so that their places in the cache
// overlap.
var twoCodes = WithRejectionCode(codes.Unavailable+1, ofType(interceptors.ServerStream))

// The cache of rejections has fewer places than there may be breakers. With 300 open breakers, each call still gets the
// error of its own breaker.
func TestG08_MoreBreakersThanPlaces(t *testing.T) {
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, byTag, twoCodes)
	tags := openTags(t, g, 300)
	for range 3 {
		for i, tag := range tags {
			wantErrorOf(t, (&calls{guard: g}).call(t.Context(), nil, tag), i, codes.Unavailable)
			_, err := g.Stream(t.Context(), serverStreams, nil, fullMethod, nil, tag)
			wantErrorOf(t, err, i, codes.Unavailable+1)
		}
	}
}

func TestG08_MoreBreakersThanPlacesConcurrentSafe(t *testing.T) {
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, byTag, twoCodes)
	tags := openTags(t, g, 300)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := range 600 {
				i := (n*7 + worker*75) % len(tags)
				wantErrorOf(t, g.Unary(t.Context(), fullMethod, nil, nil, nil, returnsAtOnce, tags[i]), i, codes.Unavailable)
				_, err := g.Stream(t.Context(), serverStreams, nil, fullMethod, nil, tags[i])
				wantErrorOf(t, err, i, codes.Unavailable+1)
			}
		})
	}
	wg.Wait()
}

// The cache spreads the errors over all its places, so most errors of 150 breakers fit and are not made again.
func TestG08_RejectionCacheUsesItsPlaces(t *testing.T) {
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, byTag)
	tags := openTags(t, g, 150)
	first := map[int]error{}
	for i, tag := range tags {
		first[i] = (&calls{guard: g}).call(t.Context(), nil, tag)
	}
	again := 0
	for i, tag := range tags {
		if (&calls{guard: g}).call(t.Context(), nil, tag) == first[i] { //nolint:errorlint // the very same
			again++
		}
	}
	if again < 100 { // it is 70 if the addresses are not mixed
		t.Errorf("%d of 150 breakers have the same error again, want most", again)
	}
}

// G8: calls that are rejected at the same time, as the first of a generation, share one error too.
func TestG08_OneErrorForAGenerationConcurrentSafe(t *testing.T) {
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour})
	b := g.Group().Get(methodKey)
	const workers = 8
	for range 300 {
		b.Trip(t.Context(), "test")
		var got [workers]error
		var ready, wg sync.WaitGroup
		ready.Add(workers)
		for i := range got {
			wg.Go(func() {
				ready.Done()
				ready.Wait()
				got[i] = g.Unary(t.Context(), fullMethod, nil, nil, nil, returnsAtOnce)
			})
		}
		wg.Wait()
		for _, err := range got {
			if err != got[0] { //nolint:errorlint // the very same
				t.Fatal("two rejections of one generation are two errors")
			}
		}
	}
}
