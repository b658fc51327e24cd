package interceptor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

func TestBypass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(settlements)
		s := openScene(t, WithHooks(hooksOf(rec)), WithFallback(forUnary, answering("instead"), OnFailure()))
		before, events := snapshots(s.guard), len(rec.transitions)
		wantCode(t, "past an open breaker", s.plain(Bypass()), codes.OK)
		s.srv.Set(failing(down))
		wantCode(t, "past an open breaker, and failing", s.plain(grpc.WaitForReady(true), Bypass(), Tag("gold")),
			codes.Unavailable)
		if got := s.srv.Total(); got != 2 {
			t.Errorf("%d calls reached the server, want 2", got)
		}
		if diff := cmp.Diff(tallyOf(before), tallyOf(snapshots(s.guard))); diff != "" {
			t.Errorf("calls that bypass the guard were counted (-before +after):\n%s", diff)
		}
		if len(rec.settled) != 0 || len(rec.fellBack) != 0 || len(rec.transitions) != events ||
			s.guard.Group().Stats().Unguarded != 0 {
			t.Errorf("hooks were called for calls that bypass the guard: %+v", rec)
		}
		// The options apply only to their own call.
		wantCode(t, "the next call", s.plain(), codes.OK)
		wantTally(t, "the next call", s.guard, tally{Rejected: 1, Served: 1})
	})
}

func TestTag(t *testing.T) {
	key := WithKey(keyfunc.Tagged(keyfunc.Method, noTag)) // tag "other"
	g := newGuard(t, breaker.Config{OpenFor: time.Hour, MaxOpenFor: time.Hour}, key)
	c := &calls{guard: g}
	for _, opts := range [][]grpc.CallOption{
		nil,
		{Tag("gold")},
		{Tag("silver"), grpc.WaitForReady(true), Tag("gold")}, // the last one counts
		{Tag("")},
		{Tag("\xff")},
	} {
		if err := c.call(t.Context(), nil, opts...); err != nil {
			t.Errorf("%v: %v", opts, err)
		}
	}
	got := map[string]uint64{}
	for k, b := range g.Group().All() {
		if want := (breaker.Key{Service: "pkg.Service", Method: "Method", Tag: k.Tag}); k != want {
			t.Errorf("a breaker for %+v, want %+v", k, want)
		}
		got[k.Tag] = b.Snapshot().Successes
	}
	if diff := cmp.Diff(map[string]uint64{"other": 1, "gold": 2, "": 1, "\xff": 1}, got); diff != "" {
		t.Errorf("calls by tag (-want +got):\n%s", diff)
	}

	b, _ := g.Group().Lookup(breaker.Key{Service: "pkg.Service", Method: "Method", Tag: "gold"})
	b.Trip(t.Context(), "test")
	if err := c.call(t.Context(), nil, Tag("gold")); !IsRejected(err) {
		t.Errorf("got %v, want a rejection of the tag's breaker", err)
	}
	if err := c.call(t.Context(), nil, Tag("")); err != nil {
		t.Errorf("got %v from another tag", err)
	}
}

// Without a guard, grpc accepts both options, and they have no effect.
func TestCallOptionsWithoutAGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cc := testpb.Bufconn(t, new(testpb.Server), grpc.WithDefaultCallOptions(Tag("gold"), Bypass()))
		resp, err := testpb.NewTestClient(cc).Unary(t.Context(), &testpb.Request{Text: "x"}, Bypass(), Tag("silver"))
		if err != nil || resp.GetText() != "x" {
			t.Errorf("got %q, %v; want the server's echo", resp.GetText(), err)
		}
		s, err := testpb.NewTestClient(cc).Bidi(t.Context(), Tag("silver"), Bypass())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	})
}

// As default call options of a connection they apply to all its calls. The tag of a call replaces the default.
func TestCallOptionsAsDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{}, WithKey(oneKey))
		s := newScene(t, g, "", grpc.WithDefaultCallOptions(Tag("gold")))
		wantCode(t, "default", s.plain(), codes.OK)
		wantCode(t, "a tag of its own", s.plain(Tag("silver")), codes.OK)
		for _, tag := range []string{"gold", "silver"} {
			if b, ok := g.Group().Lookup(breaker.Key{Tag: tag}); !ok || b.Snapshot().Successes != 1 {
				t.Errorf("tag %q does not have one call", tag)
			}
		}
		if got := g.Group().Len(); got != 2 {
			t.Errorf("%d breakers, want 2", got)
		}
	})
}
