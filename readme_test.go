package grpcircuit_test

import (
	"context"
	"errors"
	"fmt"
	"go/format"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/policyfile"
	"github.com/grpcircuit/grpcircuit/breaker/statusz"
	"github.com/grpcircuit/grpcircuit/interceptor"
	pb "github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// These functions hold copies of the code in README.md, so that the compiler checks it. TestReadmeCode compares the
// two. The first code of README.md is a whole program, which TestReadmeProgram builds.

type getter interface {
	Get(ctx context.Context, req *pb.Request) (*pb.Response, error)
}

func cached(*pb.Request) *pb.Response { return &pb.Response{Text: "cached"} }

func readmeCaller(ctx context.Context, client getter, req *pb.Request) (*pb.Response, error) {
	reply, err := client.Get(ctx, req)
	if interceptor.IsRejected(err) { // by a breaker of this program, or of a server that returned the rejection
		if rejected, ok := errors.AsType[*interceptor.RejectedError](err); ok { // of this program
			log.Printf("%v is %v, next probe in %v", rejected.Key, rejected.State, rejected.RetryAfter())
		}
		return cached(req), nil
	}
	return reply, err
}

func readmeChain(
	target string, guard *interceptor.Guard, creds credentials.TransportCredentials,
) (*grpc.ClientConn, error) {
	again := retry.UnaryClientInterceptor(retry.WithMax(3), retry.WithRetriable(interceptor.Retriable))
	conn, err := grpc.NewClient(target,
		grpc.WithChainUnaryInterceptor(again, guard.Unary), // the first is outermost
		grpc.WithChainStreamInterceptor(guard.Stream),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithTransportCredentials(creds))
	return conn, err
}

// blocksOf returns the code blocks of a document in a language: go, yaml or text.
func blocksOf(t *testing.T, name, language string) (blocks []string) {
	t.Helper()
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(read(t, name), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

var comment = regexp.MustCompile(`(?m)(^|\s)// .*$`)

// squeezed returns text without comments and with each run of white space replaced by one space, so that indentation
// does not matter.
func squeezed(text string) string {
	return strings.Join(strings.Fields(comment.ReplaceAllString(text, "")), " ")
}

func TestReadmeCode(t *testing.T) {
	blocks, source := blocksOf(t, "README.md", "go"), squeezed(read(t, "readme_test.go"))
	if len(blocks) != 4 {
		t.Fatalf("README.md has %d blocks of Go, want 4", len(blocks))
	}
	for _, b := range blocks[1:] {
		if !strings.Contains(source, squeezed(b)) {
			t.Errorf("this code of README.md is not in readme_test.go:\n%s", b)
		}
	}
}

// TestReadmeProgram builds the first code of README.md as it is, as a program of this module.
func TestReadmeProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("the linker takes some seconds")
	}
	blocks := blocksOf(t, "README.md", "go")
	if len(blocks) == 0 {
		t.Fatal("README.md has no code")
	}
	program := blocks[0]
	if formatted, err := format.Source([]byte(program)); err != nil || string(formatted) != program {
		t.Errorf("gofmt would change the program in README.md (error: %v)", err)
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	// The working directory is this module, so the go command takes the imports from it and from its go.mod.
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=readonly", "-buildvcs=false", "-o", dir, source)
	build.Env = append(os.Environ(), "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
}

func TestReadmeCodeWorks(t *testing.T) {
	guard := newGuard(t)
	conn, err := readmeChain("passthrough:///nowhere", guard, insecure.NewCredentials())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
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

// TestReadmeOutput checks that README.md shows the rejection and the line of the log as they are, except for durations.
func TestReadmeOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged strings.Builder
		group, err := breaker.NewGroup(breaker.Config{}, breaker.LogTransitions(slog.New(slog.NewTextHandler(&logged, nil))))
		if err != nil {
			t.Fatal(err)
		}
		b := group.Get(breaker.Key{Target: "localhost:50051", Service: "grpc.health.v1.Health", Method: "Check"})
		var rejection error
		for rejection == nil {
			permit, err := b.Acquire(t.Context())
			permit.Report(t.Context(), breaker.Report{Outcome: breaker.Failure, Cause: "UNAVAILABLE"})
			rejection = err
			time.Sleep(300 * time.Millisecond)
		}
		duration := regexp.MustCompile(`\d[\d.]*(ms|s)`)
		timeless := func(text string) string { return squeezed(duration.ReplaceAllString(text, "TIME")) }
		readme := timeless(read(t, "README.md"))
		if want := timeless(rejection.Error()); !strings.Contains(readme, want) {
			t.Errorf("README.md does not show the rejection: %s", want)
		}
		_, line, _ := strings.Cut(logged.String(), " ") // the time
		line, _, _ = strings.Cut(line, " failed_recoveries")
		if want := timeless(line); !strings.Contains(readme, want) {
			t.Errorf("README.md does not show the line of the log: %s", want)
		}
		time.Sleep(time.Minute) // so that the timer of the log is over
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

// TestReadmeMistakes checks the column "what happens" of the table of mistakes in README.md.
func TestReadmeMistakes(t *testing.T) {
	rows := regexp.MustCompile(`(?s)## Common mistakes\n\n(.*?)\n\n`).FindStringSubmatch(read(t, "README.md"))
	if rows == nil {
		t.Fatal("README.md has no section on mistakes")
	}
	if n := strings.Count(rows[1], "\n") - 1; n != len(mistakes) {
		t.Errorf("README.md has %d mistakes, and the test %d", n, len(mistakes))
	}
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := new(pb.Server)
				m.check(mistake{T: t, srv: srv, backend: pb.StartBufconn(t, srv)})
			})
		})
	}
}

// mistake is the test of a mistake, with a backend in memory.
type mistake struct {
	*testing.T
	srv     *pb.Server
	backend *pb.Backend
}

var mistakes = []struct {
	name  string
	check func(m mistake)
}{
	{"one kind of interceptor", func(m mistake) {
		m.srv.Set(failing)
		unary, stream := newGuard(m.T), newGuard(m.T)
		onlyUnary := m.backend.Dial(m.T, grpc.WithChainUnaryInterceptor(unary.Unary))
		onlyStream := m.backend.Dial(m.T, grpc.WithChainStreamInterceptor(stream.Stream))
		for range 20 {
			_ = openStream(m.T, onlyUnary)
			_ = call(m.T, onlyStream)
		}
		if n := m.srv.Total(); n != 40 {
			m.Errorf("the server received %d calls, want all 40", n)
		}
		if a, b := unary.Group().Len(), stream.Group().Len(); a != 0 || b != 0 {
			m.Errorf("there are %d and %d breakers for the other kind of call, want none", a, b)
		}
	}},
	{"a guard for each connection", func(m mistake) {
		m.srv.Set(failing)
		for range 3 {
			conn := m.backend.Dial(m.T, newGuard(m.T).DialOptions()...)
			before := m.srv.Total()
			for range 8 {
				_ = call(m.T, conn)
			}
			if n := m.srv.Total() - before; n != 5 {
				m.Errorf("the server received %d calls of the connection, want 5 before its breaker opens", n)
			}
		}
	}},
	{"the same guard twice", func(m mistake) {
		reports := 0
		guard := newGuard(m.T, interceptor.WithHooks(&interceptor.Hooks{
			GuardedTwice: func(context.Context, interceptor.GuardedTwiceInfo) { reports++ },
		}))
		_ = call(m.T, m.backend.Dial(m.T, append(guard.DialOptions(), guard.DialOptions()...)...))
		if s := snapshot(m.T, guard); s.Successes != 2 || reports != 1 {
			m.Errorf("one call: %d successes and %d reports, want 2 and 1", s.Successes, reports)
		}
	}},
	{"retry without Retriable", func(m mistake) {
		wantRejections(m, 3, retry.WithMax(3))
		wantRejections(m, 1, retry.WithMax(3), retry.WithRetriable(interceptor.Retriable))
	}},
	{"WithCodes after WithRetriable", func(m mistake) {
		retriable, unavailable := retry.WithRetriable(interceptor.Retriable), retry.WithCodes(codes.Unavailable)
		wantRejections(m, 3, retry.WithMax(3), retriable, unavailable)
		wantRejections(m, 1, retry.WithMax(3), unavailable, retriable)

		guard := newGuard(m.T)
		again := retry.UnaryClientInterceptor(retry.WithMax(3), retriable)
		conn := m.backend.Dial(m.T, grpc.WithChainUnaryInterceptor(again, guard.Unary))
		_ = call(m.T, conn)
		breakerOf(m.T, guard).Trip(m.Context(), "test")
		_ = call(m.T, conn, unavailable)
		if n := snapshot(m.T, guard).Rejections.Total(); n != 3 {
			m.Errorf("as an option of a call: %d rejections, want 3", n)
		}
	}},
	{"retry after the guard", func(m mistake) {
		m.srv.Set(failing)
		guard := newGuard(m.T)
		again := grpc.WithChainUnaryInterceptor(
			retry.UnaryClientInterceptor(retry.WithMax(3), retry.WithRetriable(interceptor.Retriable)))
		_ = call(m.T, m.backend.Dial(m.T, append(guard.DialOptions(), again)...))
		if s := snapshot(m.T, guard); s.Failures != 1 || m.srv.Total() != 3 {
			m.Errorf("%d failures for %d attempts, want 1 for 3", s.Failures, m.srv.Total())
		}
	}},
	{"no deadline", func(m mistake) {
		m.srv.Set(pb.Script{OnUnary: func(ctx context.Context, _ *pb.Request) (*pb.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		guard := newGuard(m.T)
		conn := m.backend.Dial(m.T, guard.DialOptions()...)
		ctx, cancel := context.WithCancel(m.Context())
		for range 100 {
			go func() { _, _ = pb.NewTestClient(conn).Unary(ctx, &pb.Request{}) }()
			time.Sleep(time.Minute)
		}
		if s := snapshot(m.T, guard); s.State != breaker.Closed || s.InFlight != 100 {
			m.Errorf("the breaker is %v with %d calls in flight, want closed with 100", s.State, s.InFlight)
		}
		cancel()
		synctest.Wait()
	}},
	{"short deadlines", func(m mistake) {
		m.srv.Set(pb.Script{OnUnary: func(context.Context, *pb.Request) (*pb.Response, error) {
			time.Sleep(20 * time.Millisecond)
			return &pb.Response{}, nil
		}})
		// patient returns how many of 50 calls with long deadlines are rejected. Before each of them there is a call with a
		// deadline of 5 ms.
		patient := func(opts ...interceptor.Option) (rejected int) {
			conn := m.backend.Dial(m.T, newGuard(m.T, opts...).DialOptions()...)
			for range 50 {
				ctx, cancel := context.WithTimeout(m.Context(), 5*time.Millisecond)
				_, _ = pb.NewTestClient(conn).Unary(ctx, &pb.Request{})
				cancel()
				if interceptor.IsRejected(call(m.T, conn)) {
					rejected++
				}
			}
			return rejected
		}
		if n := patient(); n == 0 {
			m.Error("no patient call was rejected")
		}
		if n := patient(interceptor.WithMinBudget(50 * time.Millisecond)); n > 0 {
			m.Errorf("with WithMinBudget %d patient calls were rejected", n)
		}
	}},
	{"targets spelled differently", func(m mistake) {
		one := interceptor.WithKey(keyfunc.MapTarget(nil, func(string) string { return "orders" }))
		for want, guard := range map[int]*interceptor.Guard{2: newGuard(m.T), 1: newGuard(m.T, one)} {
			for _, target := range []string{"192.0.2.1:443", "dns:///192.0.2.1:443"} { // an address needs no DNS server
				if err := call(m.T, m.backend.DialTarget(m.T, target, guard.DialOptions()...)); err != nil {
					m.Error(err)
				}
			}
			if n := guard.Group().Len(); n != want {
				m.Errorf("%d breakers, want %d", n, want)
			}
		}
	}},
	{"Lookup with the wrong parts", func(m mistake) {
		guard := newGuard(m.T)
		conn := m.backend.Dial(m.T, guard.DialOptions()...)
		_ = call(m.T, conn)
		service, method, _ := strings.Cut(strings.TrimPrefix(pb.Test_Unary_FullMethodName, "/"), "/")
		for _, tt := range []struct {
			key  breaker.Key
			want bool
		}{
			{breaker.Key{Target: conn.Target(), Service: service, Method: method}, true},
			{breaker.Key{Service: service, Method: method}, false},
			{breaker.Key{Target: conn.Target()}, false},
			{breaker.Key{Target: conn.Target(), Method: pb.Test_Unary_FullMethodName}, false},
		} {
			if _, ok := guard.Group().Lookup(tt.key); ok != tt.want {
				m.Errorf("Lookup(%#v) found a breaker: %v, want %v", tt.key, ok, tt.want)
			}
		}
	}},
}

var failing = pb.Script{
	OnUnary: func(context.Context, *pb.Request) (*pb.Response, error) {
		return nil, status.Error(codes.Unavailable, "down")
	},
	OnServerStream: func(*pb.Request, grpc.ServerStreamingServer[pb.Response]) error {
		return status.Error(codes.Unavailable, "down")
	},
}

func newGuard(t *testing.T, opts ...interceptor.Option) *interceptor.Guard {
	t.Helper()
	guard, err := interceptor.New(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

// call makes a unary call and waits, so that five failures in a row take a second.
func call(t *testing.T, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
	t.Helper()
	_, err := pb.NewTestClient(conn).Unary(t.Context(), &pb.Request{}, opts...)
	time.Sleep(250 * time.Millisecond)
	return err
}

func openStream(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	stream, err := pb.NewTestClient(conn).ServerStream(t.Context(), &pb.Request{})
	if err == nil {
		_, err = stream.Recv()
	}
	time.Sleep(250 * time.Millisecond)
	return err
}

// breakerOf returns the only breaker of a guard.
func breakerOf(t *testing.T, guard *interceptor.Guard) *breaker.Breaker {
	t.Helper()
	if n := guard.Group().Len(); n != 1 {
		t.Fatalf("the guard has %d breakers, want 1", n)
	}
	for _, b := range guard.Group().All() {
		return b
	}
	panic("unreachable")
}

func snapshot(t *testing.T, guard *interceptor.Guard) breaker.Snapshot {
	t.Helper()
	return breakerOf(t, guard).Snapshot()
}

// wantRejections makes a call through a retry interceptor and an open breaker, and checks how often it is rejected. It
// checks that the retry interceptor pauses before each attempt but the first.
func wantRejections(m mistake, want uint64, opts ...retry.CallOption) {
	m.Helper()
	guard := newGuard(m.T)
	conn := m.backend.Dial(m.T, grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(opts...), guard.Unary))
	_ = call(m.T, conn)
	breakerOf(m.T, guard).Trip(m.Context(), "test")
	began := time.Now()
	if _, err := pb.NewTestClient(conn).Unary(m.Context(), &pb.Request{}); !interceptor.IsRejected(err) {
		m.Errorf("got %v, want a rejection", err)
	}
	if n := snapshot(m.T, guard).Rejections.Total(); n != want {
		m.Errorf("%d rejections, want %d", n, want)
	}
	if paused := time.Since(began) > 0; paused != (want > 1) {
		m.Errorf("%d rejections took %v", want, time.Since(began))
	}
}

// TestReadmeSeries measures how many series a breaker has and how long they are in a scrape, and compares that with
// README.md. The names in the keys are as long as those of a real service. In a bubble no call leaves the window.
func TestReadmeSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		readme := squeezed(read(t, "README.md"))
		m := regexp.MustCompile(`has (\d+) to (\d+) series, about ([\d.]+) kB, and one that is open (\d+)`).FindStringSubmatch(readme)
		if m == nil {
			t.Fatal("README.md does not say how many series a breaker has")
		}
		scrape := func(breakers int, prepare func(*breaker.Breaker)) (series, bytes int) {
			group, err := breaker.NewGroup(breaker.Config{FailingFor: -1})
			if err != nil {
				t.Fatal(err)
			}
			for i := range breakers {
				prepare(group.Get(breaker.Key{
					Target: "dns:///orders.example:443", Service: "shop.v1.Orders", Method: fmt.Sprintf("Method%03d", i),
				}))
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(prombridge.NewCollector(group))
			w := httptest.NewRecorder()
			promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
			for line := range strings.Lines(w.Body.String()) {
				if !strings.HasPrefix(line, "#") {
					series++
				}
			}
			return series, w.Body.Len()
		}
		do := func(n int, outcome breaker.Outcome) func(*breaker.Breaker) {
			return func(b *breaker.Breaker) {
				for range n {
					if permit, err := b.Acquire(t.Context()); err == nil {
						permit.Done(t.Context(), outcome)
					}
				}
			}
		}
		const breakers = 100
		got := []string{}
		for _, prepare := range []func(*breaker.Breaker){do(0, 0), do(20, breaker.Success)} {
			few, _ := scrape(breakers, prepare)
			many, _ := scrape(2*breakers, prepare)
			got = append(got, fmt.Sprint((many-few)/breakers))
		}
		_, few := scrape(breakers, do(20, breaker.Success))
		_, many := scrape(2*breakers, do(20, breaker.Success))
		got = append(got, fmt.Sprintf("%.1f", float64(many-few)/breakers/1000))
		fewOpen, _ := scrape(breakers, do(5, breaker.Failure))
		manyOpen, _ := scrape(2*breakers, do(5, breaker.Failure))
		got = append(got, fmt.Sprint((manyOpen-fewOpen)/breakers))
		if diff := cmp.Diff(got, m[1:]); diff != "" {
			t.Errorf("README.md: series closed without and with calls, kB, series open (-got +want):\n%s", diff)
		}
	})
}

// guardFor is the set-up that README.md has for a platform team.
func guardFor(path string, log *slog.Logger, reg prometheus.Registerer, mux *http.ServeMux) (*interceptor.Guard, io.Closer, error) {
	group, err := breaker.NewGroup(breaker.Config{}, breaker.LogTransitions(log))
	if err != nil {
		return nil, nil, err
	}
	file, err := policyfile.Watch(path, policyfile.WithGroups(group), policyfile.WithLogger(log))
	if err != nil {
		return nil, nil, err
	}
	reg.MustRegister(prombridge.NewCollector(group, prombridge.WithPolicyReloads(file.Reloads)))
	mux.Handle("/debug/breakers/", statusz.Handler(group)) // where only operators get in; see Page.Close for Shutdown
	guard, err := interceptor.New(group, interceptor.WithHooks(interceptor.LogHooks(log)))
	return guard, file, err
}

// TestPlatformTeam counts the lines of the set-up in README.md, and runs it: the policy file is in force and is
// reloaded, transitions are logged, and the registry has the metrics of breakers and reloads.
func TestPlatformTeam(t *testing.T) {
	var block string
	for _, b := range blocksOf(t, "README.md", "go") {
		if strings.Contains(b, "policyfile.Watch") {
			block = b
		}
	}
	if n := strings.Count(block, "\n"); n == 0 || n > 15 {
		t.Errorf("the set-up has %d lines, want from 1 to 15", n)
	}
	if _, err := format.Source([]byte(block)); err != nil || strings.Contains(block, ";\n") {
		t.Errorf("the set-up is not formatted: %v", err)
	}
	if shown, file := blocksOf(t, "README.md", "yaml"), read(t, "examples/platform/policy.yaml"); len(shown) != 1 ||
		!strings.HasSuffix(file, shown[0]) {
		t.Errorf("README.md does not show examples/platform/policy.yaml, but %q", shown)
	}

	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(read(t, "examples/platform/policy.yaml"))
	lines := make(lineWriter, 100)
	registry := prometheus.NewRegistry()
	mux := http.NewServeMux()
	guard, file, err := guardFor(path, slog.New(slog.NewTextHandler(lines, nil)), registry, mux)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}()
	orders := guard.Group().Get(breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"})
	search := guard.Group().Get(breaker.Key{Target: "dns:///search:443", Service: "shop.Search", Method: "Find"})
	if c := orders.Config(); c.OpenFor != 2*time.Second || c.Enforcement != breaker.EnforcementOn {
		t.Errorf("orders has %+v", c)
	}
	if c := search.Config(); c.Enforcement != breaker.EnforcementShadow {
		t.Errorf("search has %+v", c)
	}
	orders.Trip(t.Context(), "test")
	lines.wait(t, `level=WARN msg="circuit breaker open" key="dns:///orders:443 shop.Orders/Get" from=closed to=open`)
	write("circuitBreaker: {openFor: 7s}")
	lines.wait(t, `msg="policy file: a new policy is in force"`)
	for _, b := range []*breaker.Breaker{orders, search} {
		if c := b.Config(); c.OpenFor != 7*time.Second || c.Enforcement != breaker.EnforcementOn {
			t.Errorf("after the reload %v has %+v", b.Key(), c)
		}
	}
	page := httptest.NewRecorder()
	mux.ServeHTTP(page, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/breakers/?format=text", nil))
	if text := page.Body.String(); page.Code != http.StatusOK || !strings.Contains(text, "shop.Orders/Get") {
		t.Errorf("the page has status %d and says\n%s", page.Code, text)
	}
	if state := orders.State(); state != breaker.Open {
		t.Errorf("after the reload the breaker is %v, want open", state)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, f := range families {
		has[f.GetName()] = true
	}
	for _, name := range []string{"state", "trips_total", "policy_reloads_total", "policy_last_success_timestamp_seconds"} {
		if !has[metricPrefix+name] {
			t.Errorf("the registry has no %s%s", metricPrefix, name)
		}
	}
}

// lineWriter is a writer for a log handler, which writes one line at a time.
type lineWriter chan string

func (w lineWriter) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}

// wait waits for a line with want in it.
func (w lineWriter) wait(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case line := <-w:
			if strings.Contains(line, want) {
				return
			}
		case <-timeout:
			t.Fatalf("no line of the log has %s", want)
		}
	}
}
