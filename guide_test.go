package grpcircuit_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/policyfile"
	"github.com/grpcircuit/grpcircuit/interceptor"
	pb "github.com/grpcircuit/grpcircuit/internal/testpb"
	"github.com/grpcircuit/grpcircuit/keyfunc"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

// These functions hold copies of the code in docs/guide.md, so that the compiler checks it. TestGuideCode compares the
// two.

func guideKeys(group *breaker.Group, tenantOf func(context.Context, keyfunc.Call) string) (*interceptor.Guard, error) {
	guard, err := interceptor.New(group,
		interceptor.WithKey(keyfunc.Tagged(keyfunc.TargetService, tenantOf, "gold", "silver")),
		interceptor.WithMatcher(selector.MatchFunc(func(_ context.Context, c interceptors.CallMeta) bool {
			return c.Service != "grpc.health.v1.Health" // not guarded; selector and interceptors: go-grpc-middleware v2
		})))
	return guard, err
}

func guideSpellings(group *breaker.Group) (*interceptor.Guard, error) {
	guard, err := interceptor.New(group, interceptor.WithKey(keyfunc.MapTarget(keyfunc.TargetMethod,
		func(target string) string { return strings.TrimPrefix(target, "dns:///") })))
	return guard, err
}

func guideExplain(config breaker.Config) error {
	text, err := config.Explain()
	if err != nil {
		return err // a field is out of bounds
	}
	fmt.Print(text)
	return nil
}

func guidePolicyFor(group *breaker.Group, log func(string, ...any)) {
	policy := group.PolicyFor(breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"})
	log("%v from the %s", policy.Config.OpenFor, policy.Sources["OpenFor"])
	for _, p := range group.Policies() {
		if p.Breakers == 0 {
			log("no breaker has used the rule %s, match %v", p.Rule.Name, p.Rule.Match)
		}
	}
}

func guideCode() (*breaker.Group, error) {
	group, err := breaker.NewGroup(
		breaker.Config{OpenFor: 2 * time.Second},
		breaker.WithPolicy(breaker.PolicyRule{
			Match:  breaker.Key{Method: "/shop.Orders/Export"},
			Config: breaker.Config{SlowCall: 30 * time.Second, FailureRatio: -1}, // OpenFor is 2s here too
		}))
	return group, err
}

func guideConnect(target string, guard *interceptor.Guard, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	connect := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 20 * time.Second}
	connect.Backoff.MaxDelay = 5 * time.Second
	conn, err := grpc.NewClient(target, append(guard.DialOptions(),
		grpc.WithConnectParams(connect),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithTransportCredentials(creds))...)
	return conn, err
}

// reachable is the classifier of a breaker for the target. It counts only whether the target can be reached.
func reachable(ctx context.Context, r interceptor.Result) breaker.Outcome {
	outcome := interceptor.DefaultClassifier(ctx, r)
	switch {
	case r.Peer == interceptor.PeerAnswered:
		return breaker.Success // with whatever code
	case outcome != breaker.Failure || r.Code == codes.Unavailable || !r.Ready:
		return outcome
	}
	return breaker.Ignored // for example a deadline on a good connection: that is for the method's breaker
}

// answers is the classifier of a breaker for a method. It ignores results that show only that the target cannot be
// reached.
func answers(ctx context.Context, r interceptor.Result) breaker.Outcome {
	outcome := interceptor.DefaultClassifier(ctx, r)
	if outcome == breaker.Failure && r.Peer != interceptor.PeerAnswered && (r.Code == codes.Unavailable || !r.Ready) {
		return breaker.Ignored
	}
	return outcome
}

func guideTwoGuards(targets, methods *breaker.Group) (options []grpc.DialOption, err error) {
	outer, err := interceptor.New(methods, interceptor.WithClassifier(answers), interceptor.WithPeerEvidence())
	if err != nil {
		return nil, err
	}
	inner, err := interceptor.New(targets, interceptor.WithClassifier(reachable), interceptor.WithPeerEvidence(),
		interceptor.WithKey(keyfunc.Target))
	if err != nil {
		return nil, err
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(outer.Unary, inner.Unary), // the first is outermost
		grpc.WithChainStreamInterceptor(outer.Stream, inner.Stream),
	}, nil
}

func guideTwoCollectors(metrics prometheus.Registerer, targets, methods *breaker.Group) {
	metrics.MustRegister(
		prombridge.NewCollector(targets, prombridge.WithConstLabels(prometheus.Labels{"guards": "target"})),
		prombridge.NewCollector(methods, prombridge.WithConstLabels(prometheus.Labels{"guards": "method"})))
}

func guideMigration() map[string]breaker.Config {
	gobreaker := breaker.Config{ // gobreaker.Settings{}
		ConsecutiveFailures: 6, FailingFor: -1, FailureRatio: -1,
		OpenFor: time.Minute, Backoff: 1, Jitter: -1, SuccessesToClose: 1,
	}
	hystrix := breaker.Config{ // hystrix.CommandConfig{}, without its timeout
		ConsecutiveFailures: -1, FailingFor: -1, FailureRatio: 0.5, MinCalls: 20, Window: 10 * time.Second,
		OpenFor: 5 * time.Second, MaxOpenFor: 5 * time.Second, Jitter: -1, SuccessesToClose: 1, MaxConcurrent: 10,
	}
	failsafe := breaker.Config{ // circuitbreaker.NewWithDefaults
		ConsecutiveFailures: 1, FailureRatio: -1,
		OpenFor: time.Minute, Backoff: 1, Jitter: -1, SuccessesToClose: 1,
	}
	return map[string]breaker.Config{"gobreaker": gobreaker, "hystrix": hystrix, "failsafe": failsafe}
}

func guideTrip(t *testing.T, guard *interceptor.Guard, conn *grpc.ClientConn) {
	t.Helper()
	b := guard.Group().Get(breaker.Key{Target: conn.Target(), Service: "grpc.health.v1.Health", Method: "Check"})
	b.Trip(t.Context(), "test") // or SetOverride with ForceOpen, which no probe ends
}

func guideRejection() error {
	rejected := &interceptor.RejectedError{RejectedError: &breaker.RejectedError{
		Key: breaker.Key{Service: "shop.Orders", Method: "Get"}, State: breaker.Open, Reason: breaker.ReasonOpen,
		Until: time.Now().Add(time.Second), Opened: breaker.Opening{Why: "a test"}, Outage: breaker.Opening{Why: "a test"},
	}}
	return rejected
}

// The test of an outage in the guide.
func TestGuideOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		server := grpc.NewServer(grpc.UnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				if down.Load() {
					return nil, status.Error(codes.Unavailable, "down")
				}
				return handler(ctx, req)
			}))
		defer server.Stop()
		grpc_health_v1.RegisterHealthServer(server, health.NewServer())
		listener := bufconn.Listen(1 << 16)
		go func() { _ = server.Serve(listener) }()

		guard, err := interceptor.New(nil) // or with the options of your program
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("passthrough:///bufconn", append(guard.DialOptions(),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
			grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := grpc_health_v1.NewHealthClient(conn)
		check := func() error {
			_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			time.Sleep(250 * time.Millisecond)
			return err
		}

		down.Store(true)
		for range 5 { // the fifth failure is a second after the first
			_ = check()
		}
		if err := check(); !interceptor.IsRejected(err) {
			t.Errorf("got %v, want a rejection", err)
		}
		down.Store(false)
		time.Sleep(time.Second) // at most 1.2 s after the opening, the breaker admits a probe
		if err := check(); err != nil {
			t.Errorf("after the recovery: %v", err)
		}
	})
}

// The two ways of the guide to get a rejection.
func TestGuideRejections(t *testing.T) {
	err := guideRejection()
	if !interceptor.IsRejected(err) || status.Code(err) != codes.Unavailable {
		t.Errorf("got %v with code %v, want a rejection with code Unavailable", err, status.Code(err))
	}
	if want := "circuit breaker open for shop.Orders/Get: a test; next probe in"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %q, want %q at its beginning", err, want)
	}
	synctest.Test(t, func(t *testing.T) {
		guard, err := interceptor.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		conn := pb.StartBufconn(t, new(pb.Server)).Dial(t, guard.DialOptions()...)
		guideTrip(t, guard, conn)
		_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if !interceptor.IsRejected(err) {
			t.Errorf("got %v, want a rejection", err)
		}
	})
}

const guide = "docs/guide.md"

func TestGuideCode(t *testing.T) {
	blocks, source := blocksOf(t, guide, "go"), squeezed(read(t, "guide_test.go"))
	if len(blocks) < 8 {
		t.Fatalf("%s has %d blocks of Go; the test does not find them", guide, len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(source, squeezed(b)) {
			t.Errorf("this code of %s is not in guide_test.go:\n%s", guide, b)
		}
	}
}

func TestGuideCodeWorks(t *testing.T) {
	group, err := guideCode()
	if err != nil {
		t.Fatal(err)
	}
	export := group.PolicyFor(breaker.Key{Service: "shop.Orders", Method: "Export"})
	if c := export.Config; c.SlowCall != 30*time.Second || c.OpenFor != 2*time.Second || c.FailureRatio >= 0 {
		t.Errorf("Export has %+v", c)
	}
	var lines []string
	guidePolicyFor(group, func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) })
	if diff := cmp.Diff(lines, []string{
		"2s from the group", "no breaker has used the rule , match shop.Orders/Export",
	}); diff != "" {
		t.Errorf("policies (-got +want):\n%s", diff)
	}
	if _, err := guideKeys(group, func(context.Context, keyfunc.Call) string { return "gold" }); err != nil {
		t.Error(err)
	}
	if err := guideExplain(breaker.Config{Backoff: 0.5}); err == nil {
		t.Error("Explain accepts Backoff 0.5")
	}
	synctest.Test(t, func(t *testing.T) {
		group, err := breaker.NewGroup(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		guard, err := guideSpellings(group)
		if err != nil {
			t.Fatal(err)
		}
		backend := pb.StartBufconn(t, new(pb.Server))
		for _, target := range []string{"192.0.2.1:443", "dns:///192.0.2.1:443"} {
			if err := call(t, backend.DialTarget(t, target, guard.DialOptions()...)); err != nil {
				t.Error(err)
			}
		}
		if n := group.Len(); n != 1 {
			t.Errorf("two spellings of a target have %d breakers, want 1", n)
		}
		conn, err := guideConnect("passthrough:///nowhere", guard, insecure.NewCredentials())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// With the back-off of the guide, grpc connects after a long outage within MaxDelay and jitter.
func TestGuideConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := pb.StartBufconn(t, new(pb.Server))
		connect := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 20 * time.Second}
		connect.Backoff.MaxDelay = 5 * time.Second
		conn := backend.Dial(t, grpc.WithConnectParams(connect))
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

// twoGuards is a client with the two guards of the guide.
type twoGuards struct {
	*testing.T
	srv              *pb.Server
	backend          *pb.Backend
	conn             *grpc.ClientConn
	targets, methods *breaker.Group
}

func newTwoGuards(t *testing.T) *twoGuards {
	t.Helper()
	targets, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	methods, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	options, err := guideTwoGuards(targets, methods)
	if err != nil {
		t.Fatal(err)
	}
	guideTwoCollectors(prometheus.NewPedanticRegistry(), targets, methods)
	g := &twoGuards{T: t, srv: new(pb.Server), targets: targets, methods: methods}
	g.backend = pb.StartBufconn(t, g.srv)
	g.conn = g.backend.Dial(t, options...)
	return g
}

// unary makes a call of the method Unary. Each call takes a quarter of a second, so that five failures last a second.
func (g *twoGuards) unary() error {
	ctx, cancel := context.WithTimeout(g.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := pb.NewTestClient(g.conn).Unary(ctx, &pb.Request{})
	time.Sleep(250 * time.Millisecond)
	return err
}

// ping makes a call of another method.
func (g *twoGuards) ping() error {
	_, err := pb.NewOtherClient(g.conn).Ping(g.Context(), &pb.Request{})
	time.Sleep(250 * time.Millisecond)
	return err
}

// stream opens a stream and waits for its first message.
func (g *twoGuards) stream() error {
	stream, err := pb.NewTestClient(g.conn).ServerStream(g.Context(), &pb.Request{Count: 1})
	if err == nil {
		_, err = stream.Recv()
	}
	time.Sleep(250 * time.Millisecond)
	return err
}

// open returns the names of the breakers that are not closed, sorted by group.
func (g *twoGuards) open() (open []string) {
	for key, b := range g.targets.All() {
		if b.State() != breaker.Closed {
			open = append(open, "target "+key.Target)
		}
	}
	for key, b := range g.methods.All() {
		if b.State() != breaker.Closed {
			open = append(open, "method "+key.Method)
		}
	}
	return open
}

func (g *twoGuards) wantOpen(when string, want ...string) {
	g.Helper()
	if diff := cmp.Diff(g.open(), want); diff != "" {
		g.Errorf("%s: breakers that are not closed (-got +want):\n%s", when, diff)
	}
}

// A server that is gone opens the breaker of the target, for all methods, and no other.
func TestGuideTwoGuardsTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTwoGuards(t)
		if err := g.unary(); err != nil {
			t.Fatal(err)
		}
		if err := g.ping(); err != nil {
			t.Fatal(err)
		}
		g.backend.Stop()
		for range 10 {
			_, _, _ = g.unary(), g.ping(), g.stream()
		}
		g.wantOpen("the server is gone", "target passthrough:///bufconn")
		if err := g.ping(); !interceptor.IsRejected(err) {
			t.Errorf("another method: %v, want a rejection", err)
		}
		for key, b := range g.methods.All() {
			if s := b.Snapshot(); s.Failures != 0 {
				t.Errorf("%v has %d failures, want none", key, s.Failures)
			}
		}
		g.backend.Restart()
		for range 200 {
			_ = g.ping()
		}
		if err := g.unary(); err != nil {
			t.Errorf("after the recovery: %v", err)
		}
		g.wantOpen("the server is back")
	})
}

// A lost connection with a message in flight counts for the target too, and so does a call that waits for a connection
// until its deadline.
func TestGuideTwoGuardsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTwoGuards(t)
		g.backend.Stop()
		for range 8 {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			_, err := pb.NewTestClient(g.conn).Unary(ctx, &pb.Request{}, grpc.WaitForReady(true))
			cancel()
			if code := status.Code(err); code != codes.DeadlineExceeded && !interceptor.IsRejected(err) {
				t.Errorf("got %v, want a deadline or a rejection", err)
			}
			time.Sleep(250 * time.Millisecond)
		}
		g.wantOpen("calls wait for a connection", "target passthrough:///bufconn")
	})
}

// A method that fails opens its own breaker and no other, whatever the code, also if its calls reach their deadlines.
// Calls of other methods pass.
func TestGuideTwoGuardsMethod(t *testing.T) {
	hangs := func(ctx context.Context, _ *pb.Request) (*pb.Response, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	fails := func(code codes.Code) func(context.Context, *pb.Request) (*pb.Response, error) {
		return func(context.Context, *pb.Request) (*pb.Response, error) { return nil, status.Error(code, "test") }
	}
	for _, tt := range []struct {
		name    string
		onUnary func(context.Context, *pb.Request) (*pb.Response, error)
	}{
		{"Unavailable", fails(codes.Unavailable)}, {"Internal", fails(codes.Internal)}, {"a deadline", hangs},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newTwoGuards(t)
			g.srv.Set(pb.Script{OnUnary: tt.onUnary})
			for range 8 {
				_ = g.unary()
				if err := g.ping(); err != nil {
					t.Errorf("%s: the other method: %v", tt.name, err)
				}
				if err := g.stream(); err != nil {
					t.Errorf("%s: a stream: %v", tt.name, err)
				}
			}
			// The same holds without successes of other methods in between.
			for range 8 {
				_ = g.unary()
			}
			g.wantOpen(tt.name, "method Unary")
			for key, b := range g.targets.All() {
				if s := b.Snapshot(); s.Failures != 0 {
					t.Errorf("%s: the target %v has %d failures, want none", tt.name, key, s.Failures)
				}
			}
		})
	}
}

// A stream whose handler fails counts for the method too.
func TestGuideTwoGuardsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTwoGuards(t)
		g.srv.Set(failing)
		for range 8 {
			_ = g.stream()
		}
		g.wantOpen("the stream fails", "method ServerStream")
	})
}

// TestGuidePolicies checks each policy file that a document shows.
func TestGuidePolicies(t *testing.T) {
	found := 0
	for _, name := range []string{"README.md", guide} {
		for _, b := range blocksOf(t, name, "yaml") {
			if !regexp.MustCompile(`(?m)^(circuitBreaker|methodConfig|presets):`).MatchString(b) {
				continue // it is for Kubernetes
			}
			found++
			if _, err := policyfile.Parse(name, []byte(b)); err != nil {
				t.Errorf("%v in:\n%s", err, b)
			}
		}
	}
	if found < 4 {
		t.Errorf("the documents have %d policy files; the test does not find them", found)
	}
}

// TestGuideExplain compares the output of Explain in the guide with the code.
func TestGuideExplain(t *testing.T) {
	text := squeezed(read(t, guide))
	for name, c := range map[string]breaker.Config{
		"the default": {}, "the slow rule": {SlowCall: 300 * time.Millisecond, MinCalls: 50}, "Balanced": breaker.Balanced(),
	} {
		explained, err := c.Explain()
		if err != nil {
			t.Fatal(err)
		}
		if name != "the default" { // only what differs is shown
			explained = regexp.MustCompile(`(?m)^.*` + regexp.QuoteMeta(map[string]string{
				"the slow rule": "took longer than", "Balanced": "After the backend",
			}[name]) + `.*$`).FindString(explained)
		}
		if !strings.Contains(text, squeezed(explained)) {
			t.Errorf("%s does not show what Explain says of %s:\n%s", guide, name, explained)
		}
	}
}

// TestGuideCheck compares the output of breakerpolicy in the guide with that for the example file.
func TestGuideCheck(t *testing.T) {
	if testing.Short() {
		t.Skip("the linker takes some seconds")
	}
	program := filepath.Join(t.TempDir(), "breakerpolicy")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "./cmd/breakerpolicy")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	out, err := exec.CommandContext(t.Context(), program, "check", "examples/platform/policy.yaml").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, shown := range blocksOf(t, guide, "text") {
		if !strings.HasPrefix(shown, "examples/platform/policy.yaml is valid") {
			continue
		}
		for part := range strings.SplitSeq(shown, "…\n") {
			if !strings.Contains(string(out), part) {
				t.Errorf("breakerpolicy does not print this text of the guide:\n%s\nbut:\n%s", part, out)
			}
		}
		return
	}
	t.Errorf("%s does not show the output for examples/platform/policy.yaml, which is:\n%s", guide, out)
}

// TestGuideMigration checks what the configurations for users of other libraries do.
func TestGuideMigration(t *testing.T) {
	want := map[string]string{
		"gobreaker": "6 failures in a row open it. It stays open for 1m0s.",
		"hystrix":   "It opens when at least 20 calls ended within 10s and 50% of them failed or were overloads. It stays open for 5s.",
		"failsafe":  "1 failure opens it. It stays open for 1m0s.",
	}
	for name, c := range guideMigration() {
		text, err := c.Explain()
		if err != nil {
			t.Fatal(err)
		}
		lines := regexp.MustCompile(`(?m)^.*( open it| opens it|It opens when|stays open).*$`).FindAllString(text, 2)
		if got := strings.Join(lines, " "); got != want[name] {
			t.Errorf("%s: got %q, want %q", name, got, want[name])
		}
		if !strings.Contains(text, "all calls after 1 successful probe in a row") {
			t.Errorf("%s needs more than one successful probe:\n%s", name, text)
		}
	}
}

// TestGuideRollout follows the steps of the guide in one group: a file in shadow mode, then enforcement for one
// service, then for all but one. The backends fail from the beginning. After each reload, calls are rejected where the
// guide says so.
func TestGuideRollout(t *testing.T) {
	var steps []*policyfile.File
	for _, b := range blocksOf(t, guide, "yaml") {
		if strings.HasPrefix(b, "# step ") {
			file, err := policyfile.Parse(guide, []byte(b))
			if err != nil {
				t.Fatal(err)
			}
			steps = append(steps, file)
		}
	}
	if len(steps) != 3 {
		t.Fatalf("%s has %d steps with a file, want 3", guide, len(steps))
	}
	synctest.Test(t, func(t *testing.T) {
		group, err := breaker.NewGroup(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for i, enforced := range []map[string]bool{
			{"shop.Orders": false, "shop.Search": false, "shop.Reports": false},
			{"shop.Orders": true, "shop.Search": false, "shop.Reports": false},
			{"shop.Orders": true, "shop.Search": true, "shop.Reports": false},
		} {
			if err := steps[i].Apply(group); err != nil {
				t.Fatal(err)
			}
			for service, want := range enforced {
				b := group.Get(breaker.Key{Service: service, Method: "Get"})
				b.Reset(t.Context()) // it may be due for a probe
				before := b.Snapshot()
				for b.Snapshot().Underlying == breaker.Closed {
					if permit, err := b.Acquire(t.Context()); err == nil {
						permit.Done(t.Context(), breaker.Failure)
					}
					time.Sleep(250 * time.Millisecond)
				}
				if _, err := b.Acquire(t.Context()); (err != nil) != want {
					t.Errorf("step %d: %s: %v; is it rejected, want %v", i+1, service, err, want)
				}
				after := b.Snapshot()
				if got := after.Rejections.Total() > before.Rejections.Total(); got != want {
					t.Errorf("step %d: rejections of %s counted: %v, want %v", i+1, service, got, want)
				}
				if got := after.ShadowRejections.Total() > before.ShadowRejections.Total(); got == want {
					t.Errorf("step %d: shadow rejections of %s counted: %v, want %v", i+1, service, got, !want)
				}
			}
		}
	})
}
