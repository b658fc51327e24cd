package interceptor

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // registers the compressor
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// localError is an error that grpc makes in the client, and how to provoke it.
type localError struct {
	name string
	code codes.Code
	text string // one of localTexts, or of receiptTexts
	// answered: the client cannot receive the peer's response. The text is one of receiptTexts, and the call is a success.
	answered bool
	server   []grpc.ServerOption
	dial     []grpc.DialOption
	call     func(ctx context.Context, cc *grpc.ClientConn) error
}

// withOptions returns a function that makes a unary call with opts.
func withOptions(opts ...grpc.CallOption) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := testpb.NewTestClient(cc).Unary(ctx, &testpb.Request{Payload: make([]byte, 10_000)}, opts...)
		return err
	}
}

// withMetadata returns a function that makes a unary call with one pair of metadata.
func withMetadata(key, value string) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, cc *grpc.ClientConn) error {
		ctx = metadata.NewOutgoingContext(ctx, metadata.MD{key: {value}})
		_, err := testpb.NewTestClient(cc).Unary(ctx, &testpb.Request{})
		return err
	}
}

// localErrors has each text of localTexts and receiptTexts at least once. TestG05_EveryTextHasATest checks that.
func localErrors() []localError {
	tokenless := errors.New("no token")
	return []localError{
		{
			name: "request too large", code: codes.ResourceExhausted, text: "trying to send message larger than max ",
			call: withOptions(grpc.MaxCallSendMsgSize(1)),
		},
		{
			name: "request beyond 4 GiB", code: codes.ResourceExhausted, text: "grpc: message too large ",
			call: withOptions(grpc.ForceCodecV2(hugeCodec{})),
		},
		{
			name: "response too large", code: codes.ResourceExhausted, text: "grpc: received message larger than max ",
			answered: true,
			call:     withOptions(grpc.MaxCallRecvMsgSize(1)),
		},
		{
			name: "response too large once decompressed", code: codes.ResourceExhausted,
			text: "grpc: received message after decompression larger than max ", answered: true,
			call: withOptions(grpc.UseCompressor("gzip"), grpc.MaxCallRecvMsgSize(1000)),
		},
		{
			name: "response too large once decompressed, the old way", code: codes.ResourceExhausted,
			text: "grpc: message after decompression larger than max ", answered: true,
			//nolint:staticcheck // deprecated but still in use
			dial: []grpc.DialOption{grpc.WithDecompressor(grpc.NewGZIPDecompressor())},
			call: withOptions(grpc.UseCompressor("gzip"), grpc.MaxCallRecvMsgSize(1000)),
		},

		{
			name: "marshal error", code: codes.Internal, text: "grpc: error while marshaling: ",
			call: func(ctx context.Context, cc *grpc.ClientConn) error {
				return cc.Invoke(ctx, testpb.Test_Unary_FullMethodName, "no message", &testpb.Response{})
			},
		},
		{
			name: "compressor fails", code: codes.Internal, text: "grpc: error while compressing: ",
			//nolint:staticcheck // deprecated, but needs no global registration
			dial: []grpc.DialOption{grpc.WithCompressor(brokenCompressor{})},
			call: withOptions(),
		},
		{
			name: "unknown compressor", code: codes.Internal,
			text: "grpc: Compressor is not installed for requested grpc-encoding ",
			call: withOptions(grpc.UseCompressor("none such")),
		},
		{
			name: "unknown codec", code: codes.Internal, text: "no codec registered for content-subtype ",
			call: withOptions(grpc.CallContentSubtype("none such")),
		},
		{
			name: "send after close", code: codes.Internal, text: "SendMsg called after CloseSend",
			call: func(ctx context.Context, cc *grpc.ClientConn) error {
				s, err := testpb.NewTestClient(cc).Bidi(ctx)
				if err != nil {
					return err
				}
				if err := s.CloseSend(); err != nil {
					return err
				}
				return s.Send(&testpb.Request{})
			},
		},
		{
			name: "illegal key", code: codes.Internal, text: "header key ",
			call: withMetadata("a b", ""),
		},
		{
			name: "illegal value", code: codes.Internal, text: "header key ",
			call: withMetadata("key", "\x01"),
		},
		{
			name: "illegal key from credentials", code: codes.Internal, text: "header key ",
			call: withOptions(grpc.PerRPCCredentials(credentialsOf{md: map[string]string{"a b": ""}})),
		},
		{
			name: "empty key", code: codes.Internal, text: "there is an empty key in the header",
			call: withMetadata("", "value"),
		},
		{
			name: "header list too large", code: codes.Internal, text: "header list size to send violates the maximum size ",
			server: []grpc.ServerOption{grpc.MaxHeaderListSize(1000)},
			call:   withMetadata("key", strings.Repeat("x", 1000)),
		},
		{
			name: "credentials of the call fail", code: codes.Internal, text: "transport: per-RPC creds failed due to error: ",
			call: withOptions(grpc.PerRPCCredentials(credentialsOf{err: tokenless})),
		},
		{
			name: "credentials of the call fail with a status", code: codes.Internal,
			text: "transport: received per-RPC creds error with illegal status: ",
			call: withOptions(grpc.PerRPCCredentials(credentialsOf{err: status.Error(codes.NotFound, "no token")})),
		},
		{
			name: "credentials of the connection fail with a status", code: codes.Internal,
			text: "transport: received per-RPC creds error with illegal status: ",
			dial: []grpc.DialOption{grpc.WithPerRPCCredentials(credentialsOf{err: status.Error(codes.NotFound, "no token")})},
			call: withOptions(),
		},

		{
			name: "credentials of the connection fail", code: codes.Unauthenticated,
			text: "transport: per-RPC creds failed due to error: ",
			dial: []grpc.DialOption{grpc.WithPerRPCCredentials(credentialsOf{err: tokenless})},
			call: withOptions(),
		},
		{
			name: "secure credentials, insecure connection", code: codes.Unauthenticated,
			text: "transport: cannot send secure credentials on an insecure connection",
			call: withOptions(grpc.PerRPCCredentials(credentialsOf{secure: true})),
		},
	}
}

// hugeCodec marshals any message to 4 GiB and one byte, with 64 KiB of memory.
type hugeCodec struct{}

func (hugeCodec) Name() string                         { return "proto" }
func (hugeCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func (hugeCodec) Marshal(any) (mem.BufferSlice, error) {
	piece := mem.SliceBuffer(make([]byte, 64<<10))
	pieces := slices.Repeat(mem.BufferSlice{piece}, 64<<10)
	return append(pieces, mem.SliceBuffer{0}), nil
}

type brokenCompressor struct{}

func (brokenCompressor) Do(io.Writer, []byte) error { return errors.New("no dictionary") }
func (brokenCompressor) Type() string               { return "gzip" }

// grpc itself makes each text, so this test fails if grpc changes one. A response that the client cannot receive is a
// success. All other errors are ignored.
func TestG05_ErrorsOfTheClientAreIgnored(t *testing.T) {
	for _, tt := range localErrors() {
		for name, opts := range map[string][]Option{"default": nil, "evidence": {WithPeerEvidence()}} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := newGuard(t, breaker.Config{}, append(opts, WithKey(oneKey))...)
					b := testpb.StartBufconn(t, new(testpb.Server), tt.server...)
					err := tt.call(t.Context(), b.Dial(t, append(g.DialOptions(), tt.dial...)...))
					s := status.Convert(err)
					if s.Code() != tt.code || !strings.HasPrefix(s.Message(), tt.text) {
						t.Errorf("grpc returned %v %q, want %v %q…: localTexts is out of date", s.Code(), s.Message(), tt.code, tt.text)
					}
					want := breaker.Ignored
					if tt.answered {
						want = breaker.Success
					}
					wantTally(t, tt.name, g, one(want))
				})
			})
		}
	}
}

func TestG05_EveryTextHasATest(t *testing.T) {
	type entry struct {
		code codes.Code
		text string
	}
	for name, list := range map[string]struct {
		texts    map[codes.Code][]string
		answered bool
	}{"localTexts": {localTexts, false}, "receiptTexts": {receiptTexts, true}} {
		made := map[entry]bool{}
		for _, e := range localErrors() {
			if e.answered == list.answered {
				made[entry{e.code, e.text}] = true
			}
		}
		listed := 0
		for code, texts := range list.texts {
			for _, text := range texts {
				listed++
				if !made[entry{code, text}] {
					t.Errorf("no test makes %v %q of %s with grpc", code, text, name)
				}
			}
		}
		if listed != len(made) {
			t.Errorf("%s has %d texts, the tests make %d", name, listed, len(made))
		}
	}
}

// An error of the peer with one of these texts counts as the peer's if the guard knows that the peer answered. A
// message that was too large to receive is always a success, because the peer answered.
func TestG05_SameTextsFromThePeer(t *testing.T) {
	sendHeader := func(ctx context.Context) { _ = grpc.SendHeader(ctx, metadata.Pairs("key", "value")) }
	for _, tt := range localErrors() {
		for _, way := range []struct {
			name   string
			opts   []Option
			first  func(context.Context) // what the server does before it fails
			listen bool
		}{
			{"default", nil, nil, false},
			{"default, after a header", nil, sendHeader, false},
			{"evidence", []Option{WithPeerEvidence()}, nil, true},
			{"evidence, after a header", []Option{WithPeerEvidence()}, sendHeader, true},
		} {
			synctest.Test(t, func(t *testing.T) {
				g := newGuard(t, breaker.Config{}, append(way.opts, WithKey(oneKey))...)
				s := newScene(t, g, "")
				s.srv.Set(testpb.Script{OnUnary: func(ctx context.Context, _ *testpb.Request) (*testpb.Response, error) {
					if way.first != nil {
						way.first(ctx)
					}
					return nil, status.Error(tt.code, tt.text+"as the server says")
				}})
				wantCode(t, tt.name, s.plain(), tt.code)
				want := breaker.Ignored
				switch {
				case tt.answered:
					want = breaker.Success
				case way.listen:
					want = classOf(tt.code)
				}
				wantTally(t, way.name+": "+tt.name, g, one(want))
			})
		}
	}
}

// Only the beginning of a text counts, and only with the code that grpc uses.
func TestG05_SimilarTexts(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want breaker.Outcome
	}{
		{
			"in the middle", status.Error(codes.ResourceExhausted, "quota: trying to send message larger than max (2 vs. 1)"),
			breaker.Overload,
		},
		{"cut short", status.Error(codes.ResourceExhausted, "trying to send message"), breaker.Overload},
		{"another case", status.Error(codes.Internal, "Grpc: error while marshaling: x"), breaker.Failure},
		{"empty", status.Error(codes.Internal, ""), breaker.Failure},
		{
			"a receipt's in the middle", status.Error(codes.ResourceExhausted, "x grpc: received message larger than max "),
			breaker.Overload,
		},
		{
			"a receipt's under Internal", status.Error(codes.Internal, "grpc: received message larger than max "),
			breaker.Failure,
		},
		{
			"Internal's under ResourceExhausted", status.Error(codes.ResourceExhausted, "grpc: error while marshaling: x"),
			breaker.Overload,
		},
		{"under Unavailable", status.Error(codes.Unavailable, "grpc: error while marshaling: x"), breaker.Failure},
		{"under Unknown", status.Error(codes.Unknown, "trying to send message larger than max (2 vs. 1)"), breaker.Failure},
		{"no status", errors.New("trying to send message larger than max (2 vs. 1)"), breaker.Failure},
		{"wrapped", wrapped(status.Error(codes.Internal, "grpc: error while marshaling: x")), breaker.Ignored},
	} {
		g := newGuard(t, breaker.Config{})
		_ = (&calls{guard: g}).call(t.Context(), tt.err)
		wantTally(t, tt.name, g, one(tt.want))
	}
}

// A bug of one caller must not open the breaker for others.
func TestG05_OneCallerWithABug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, breaker.Config{}, WithKey(oneKey))
		s := newScene(t, g, "")
		for range 100 {
			wantCode(t, "the caller with the bug", s.plain(grpc.MaxCallSendMsgSize(1)), codes.ResourceExhausted)
		}
		wantCode(t, "another caller", s.plain(), codes.OK)
		wantTally(t, "both", g, tally{Ignored: 100, Success: 1})
	})
}

// The Peer field of the Result.
func TestG05_EvidenceInTheResult(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []Option
		call func(*scene) error
		want PeerEvidence
	}{
		{"the guard does not look", nil, func(s *scene) error { return s.plain() }, PeerUnknown},
		{"success", []Option{WithPeerEvidence()}, func(s *scene) error { return s.plain() }, PeerAnswered},
		{"status", []Option{WithPeerEvidence()}, func(s *scene) error {
			s.srv.Set(failing(down))
			return s.plain()
		}, PeerAnswered},
		{
			"too large to send",
			[]Option{WithPeerEvidence()},
			func(s *scene) error { return s.plain(grpc.MaxCallSendMsgSize(1)) }, PeerSilent,
		},
		{
			"too large to receive",
			[]Option{WithPeerEvidence()},
			func(s *scene) error { return s.plain(grpc.MaxCallRecvMsgSize(1)) }, PeerAnswered,
		},
		{"canceled", []Option{WithPeerEvidence()}, func(s *scene) error {
			return s.inFlight(func(cancel context.CancelFunc) { cancel() })
		}, PeerSilent},
		{"stopped", []Option{WithPeerEvidence()}, func(s *scene) error {
			return s.inFlight(func(context.CancelFunc) { s.backend.Stop() })
		}, PeerSilent},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []Result
			g := newGuard(t, breaker.Config{}, append(tt.opts,
				WithClassifier(func(ctx context.Context, r Result) breaker.Outcome {
					got = append(got, r)
					return DefaultClassifier(ctx, r)
				}))...)
			_ = tt.call(newScene(t, g, ""))
			if len(got) != 1 {
				t.Fatalf("%s: the classifier ran %d times, want once", tt.name, len(got))
			}
			if got[0].Peer != tt.want {
				t.Errorf("%s: Peer is %d, want %d", tt.name, got[0].Peer, tt.want)
			}
			if got, want := got[0].Call.Service+"/"+got[0].Call.Method, "grpcircuit.testpb.Test/Unary"; got != want {
				t.Errorf("%s: Call is of %s, want %s", tt.name, got, want)
			}
		})
	}
}
