package grpcircuit_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	pb "github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/otelbridge"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// This is a copy of the code in README.md, so that the compiler checks it. TestReadmeCode compares the two.

func readmeWiring(target string, creds credentials.TransportCredentials, use func(*grpc.ClientConn)) error {
	// Once in a program.
	group, err := breaker.NewGroup(breaker.Config{FailureRatio: 0.5, OpenFor: time.Second})
	if err != nil {
		return err
	}
	guard, err := interceptor.New(group, interceptor.WithHooks(otelbridge.New()))
	if err != nil {
		return err
	}
	prometheus.MustRegister(prombridge.NewCollector(group))

	// For each connection.
	conn, err := grpc.NewClient(target,
		grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(retry.WithMax(3), retry.WithRetriable(interceptor.Retriable)), guard.Unary),
		grpc.WithChainStreamInterceptor(guard.Stream),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithTransportCredentials(creds))
	if err == nil {
		use(conn)
	}
	return err
}

func readmeConnect() grpc.DialOption {
	connect := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 20 * time.Second}
	connect.Backoff.MaxDelay = 5 * time.Second
	option := grpc.WithConnectParams(connect)
	return option
}

type getter interface {
	Get(ctx context.Context, req *pb.Request) (*pb.Response, error)
}

func cached(*pb.Request) *pb.Response { return &pb.Response{Text: "cached"} }

func readmeCaller(ctx context.Context, client getter, req *pb.Request) (*pb.Response, error) {
	reply, err := client.Get(ctx, req)
	if interceptor.IsRejected(err) {
		if rejected, ok := errors.AsType[*interceptor.RejectedError](err); ok { // made here, and not by a server further on
			log.Printf("%v is %v, ask again in %v", rejected.Key, rejected.State, rejected.RetryAfter())
		}
		return cached(req), nil
	}
	return reply, err
}

func readmeFallback() interceptor.Option {
	return interceptor.WithFallback(interceptor.ForMethods("/shop.Orders/Get"),
		interceptor.Fallback(func(ctx context.Context, req *pb.Request, cause error) (*pb.Response, error) {
			return cached(req), nil
		}))
}

var comment = regexp.MustCompile(`(?m)(^|\s)// .*$`)

// squeezed returns text without comments and with each run of white space replaced by one space, so that indentation
// does not matter.
func squeezed(text string) string {
	return strings.Join(strings.Fields(comment.ReplaceAllString(text, "")), " ")
}

func TestReadmeCode(t *testing.T) {
	readme, source := read(t, "README.md"), squeezed(read(t, "readme_test.go"))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(blocks) != 4 {
		t.Errorf("README.md has %d blocks of Go, want 4", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(source, squeezed(b[1])) {
			t.Errorf("this code of README.md is not in readme_test.go:\n%s", b[1])
		}
	}
}

func TestReadmeCodeWorks(t *testing.T) {
	defer func(r prometheus.Registerer) { prometheus.DefaultRegisterer = r }(prometheus.DefaultRegisterer)
	prometheus.DefaultRegisterer = prometheus.NewRegistry()
	err := readmeWiring("passthrough:///nowhere", insecure.NewCredentials(), func(conn *grpc.ClientConn) {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := interceptor.New(nil, readmeFallback()); err != nil {
		t.Error(err)
	}
	b, err := breaker.New(breaker.Key{}, breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.Trip(t.Context(), "test of a rejected call")
	reply, err := readmeCaller(t.Context(), open{b}, nil)
	if err != nil || reply.GetText() != "cached" {
		t.Errorf("a rejected caller got %v, %v; want the cached reply", reply, err)
	}
}

// With the back-off of README.md grpc connects to a server that recovers after a long time within MaxDelay and jitter.
func TestReadmeConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := pb.StartBufconn(t, new(pb.Server))
		conn := backend.Dial(t, readmeConnect())
		answers := func() bool {
			_, err := pb.NewTestClient(conn).Unary(t.Context(), &pb.Request{})
			return err == nil
		}
		if !answers() {
			t.Fatal("the first call failed")
		}
		backend.Stop()
		for range 600 {
			if answers() {
				t.Fatal("a call to a stopped server succeeded")
			}
			time.Sleep(time.Second)
		}
		backend.Restart()
		back := time.Now()
		for !answers() {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(back); took > 7*time.Second {
			t.Errorf("grpc connected after %v, want 5s x 1.2 and a little", took)
		}
	})
}

type open struct{ b *breaker.Breaker }

func (o open) Get(ctx context.Context, _ *pb.Request) (*pb.Response, error) {
	_, err := o.b.Acquire(ctx)
	return nil, err
}

func TestReadmeDefaults(t *testing.T) {
	rows := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\S+) \\|")
	for _, m := range row.FindAllStringSubmatch(read(t, "README.md"), -1) {
		rows[m[1]] = m[2]
	}
	defaults := reflect.ValueOf(breaker.Config{}.WithDefaults())
	for i := range defaults.NumField() {
		name, want := defaults.Type().Field(i).Name, fmt.Sprint(defaults.Field(i))
		if got := rows[name]; got != want {
			t.Errorf("README.md has %q as the default of %s, want %q", got, name, want)
		}
		delete(rows, name)
	}
	if len(rows) > 0 {
		t.Errorf("README.md has defaults of fields that do not exist: %v", rows)
	}
}

// A visitor sees code at once, and can read the whole file in a few minutes.
func TestReadmeIsShort(t *testing.T) {
	lines := strings.Split(read(t, "README.md"), "\n")
	if len(lines) > 250 {
		t.Errorf("README.md has %d lines, want 250 at most", len(lines))
	}
	for i, line := range lines {
		if strings.HasPrefix(line, "```go") {
			if i >= 20 {
				t.Errorf("the first code is on line %d, want it by line 20", i+1)
			}
			return
		}
	}
	t.Error("README.md has no code")
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
