// Chained shows a guard together with other interceptors of go-grpc-middleware (auth, logging, retry, timeout) over
// real TCP. It compares retry outside the guard with retry inside it: how many calls the server receives, and how many
// outcomes and rejections the breaker counts.
//
//	go run ./examples/chained
//
// It exits with status 0 only if every count is as expected.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/timeout"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chained:", err)
		os.Exit(1)
	}
}

// counts holds the results of a stage.
type counts struct {
	received            int    // calls that reached the server, each attempt of a retry counted
	successes, failures uint64 // outcomes that the breaker counted
	rejections          uint64
	answered, rejected  int // what the caller got
	logged              int // lines of the logging interceptor, which is inside the guard
}

// stages are the same for both orders; their results differ.
var stages = []struct {
	name            string
	calls           int
	script          func() testpb.Script
	outside, inside counts // retry outside the guard, retry inside the guard
}{
	{
		name: "every call needs three attempts", calls: 2, script: flaky,
		outside: counts{received: 6, successes: 2, failures: 4, answered: 2, logged: 6},
		inside:  counts{received: 6, successes: 2, answered: 2, logged: 2},
	},
	{
		name: "the server is down", calls: 5, script: down,
		// Five failures in a row open the breaker. With retry outside, the second attempt of the second call is the fifth
		// failure. Its third attempt and the other three calls are rejected. With retry inside, each call has three attempts
		// and one outcome.
		outside: counts{received: 5, failures: 5, rejections: 4, rejected: 4, logged: 5},
		inside:  counts{received: 15, failures: 5, logged: 5},
	},
	{
		name: "the breaker is open", calls: 5, script: down,
		outside: counts{rejections: 5, rejected: 5},
		inside:  counts{rejections: 5, rejected: 5},
	},
}

// flaky fails two of three calls.
func flaky() testpb.Script {
	var n atomic.Int64
	return testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
		if n.Add(1)%3 != 0 {
			return nil, status.Error(codes.Unavailable, "not now")
		}
		return &testpb.Response{}, nil
	}}
}

func down() testpb.Script {
	return testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
		return nil, status.Error(codes.Unavailable, "down")
	}}
}

func run(ctx context.Context, out io.Writer) error {
	var backend testpb.Server
	addr, stop, err := serve(&backend)
	if err != nil {
		return err
	}
	defer stop()

	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table,
		"retry\tstage\tcalls\tserver received\tsuccesses\tfailures\trejections\tcaller: answered\trejected\tlog lines")
	for _, outside := range []bool{true, false} {
		if err := playAll(ctx, table, addr, &backend, outside); err != nil {
			return err
		}
	}
	return table.Flush()
}

// playAll runs every stage with one order of the interceptors.
func playAll(ctx context.Context, table io.Writer, addr string, backend *testpb.Server, outside bool) error {
	c, err := newClient(addr, outside)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	for _, stage := range stages {
		backend.Set(stage.script())
		got, err := c.play(ctx, backend, stage.calls)
		if err != nil {
			return err
		}
		order, want := "outside", stage.outside
		if !outside {
			order, want = "inside", stage.inside
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", order, stage.name, stage.calls,
			got.received, got.successes, got.failures, got.rejections, got.answered, got.rejected, got.logged)
		if got != want {
			return fmt.Errorf("retry %s, %s: %+v, want %+v", order, stage.name, got, want)
		}
	}
	return nil
}

const token = "open sesame"

// serve starts a server that requires a token.
func serve(backend *testpb.Server) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	checkToken := func(ctx context.Context) (context.Context, error) {
		if got, err := auth.AuthFromMD(ctx, "bearer"); err != nil || got != token {
			return nil, status.Error(codes.Unauthenticated, "no token, or a wrong one")
		}
		return ctx, nil
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(auth.UnaryServerInterceptor(checkToken)))
	backend.Register(server)
	go func() { _ = server.Serve(l) }()
	return l.Addr().String(), server.Stop, nil
}

type client struct {
	conn  *grpc.ClientConn
	group *breaker.Group
	lines atomic.Int64
}

// newClient chains the interceptors. The first one is outermost.
func newClient(addr string, retryOutside bool) (*client, error) {
	c := new(client)
	var err error
	// Five failures in a row open the breaker at once, so that the counts are the same each time. By default the failures
	// must last for a second.
	cfg := breaker.Config{ConsecutiveFailures: 5, FailingFor: -1, FailureRatio: -1, OpenFor: time.Minute}
	if c.group, err = breaker.NewGroup(cfg); err != nil {
		return nil, err
	}
	guard, err := interceptor.New(c.group)
	if err != nil {
		return nil, err
	}
	again := retry.UnaryClientInterceptor(
		retry.WithMax(3),
		retry.WithBackoff(retry.BackoffLinear(time.Millisecond)),
		retry.WithRetriable(interceptor.Retriable),
	)
	logger := logging.LoggerFunc(func(context.Context, logging.Level, string, ...any) { c.lines.Add(1) })
	logs := logging.UnaryClientInterceptor(logger, logging.WithLogOnEvents(logging.FinishCall))
	perAttempt := timeout.UnaryClientInterceptor(5 * time.Second)

	chain := []grpc.UnaryClientInterceptor{again, guard.Unary, logs, bearer, perAttempt}
	if !retryOutside {
		chain = []grpc.UnaryClientInterceptor{guard.Unary, logs, again, bearer, perAttempt}
	}
	c.conn, err = grpc.NewClient(addr,
		grpc.WithChainUnaryInterceptor(chain...),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	return c, err
}

// bearer sends the token. An application over TLS would use grpc.WithPerRPCCredentials.
func bearer(
	ctx context.Context, method string, req, reply any,
	cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "bearer "+token)
	return invoker(ctx, method, req, reply, cc, opts...)
}

// play makes n calls and counts the results.
func (c *client) play(ctx context.Context, backend *testpb.Server, n int) (counts, error) {
	received, lines, before := backend.Total(), c.lines.Load(), c.snapshot()
	var got counts
	for range n {
		switch _, err := testpb.NewTestClient(c.conn).Unary(ctx, &testpb.Request{}); {
		case err == nil:
			got.answered++
		case interceptor.IsRejected(err):
			got.rejected++
		case status.Code(err) != codes.Unavailable:
			return got, err
		}
	}
	after := c.snapshot()
	got.received = backend.Total() - received
	got.logged = int(c.lines.Load() - lines)
	got.successes = after.Successes - before.Successes
	got.failures = after.Failures - before.Failures
	got.rejections = after.Rejections.Total() - before.Rejections.Total()
	return got, nil
}

func (c *client) snapshot() breaker.Snapshot {
	for _, b := range c.group.All() {
		return b.Snapshot()
	}
	return breaker.Snapshot{}
}
