package speed

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// BenchmarkConn makes a real unary call through grpc, in memory: on a connection with a Guard, on one without, and on
// another one without. The difference between the last two is noise. The connections take turns in all orders.
func BenchmarkConn(b *testing.B) {
	r := newConnRun(b)
	orders := [][3]int{{0, 1, 2}, {2, 0, 1}, {1, 2, 0}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}
	for pair, order := range orders {
		for _, i := range order {
			b.Run(fmt.Sprintf("pair=%d/%s", pair, connNames[i]), func(b *testing.B) {
				r.run(b, i, b.Loop)
			})
		}
	}
	r.check(b)
}

var connNames = [3]string{ConnBare, ConnAgain, ConnGuarded}

type connRun struct {
	server  *testpb.Server
	group   *breaker.Group
	clients [3]testpb.TestClient
	calls   [3]int
}

func newConnRun(tb testing.TB) *connRun {
	tb.Helper()
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	guard, err := interceptor.New(group)
	if err != nil {
		tb.Fatal(err)
	}
	r := &connRun{server: new(testpb.Server), group: group}
	backend := testpb.StartBufconn(tb, r.server)
	for i, opts := range [3][]grpc.DialOption{2: guard.DialOptions()} {
		r.clients[i] = testpb.NewTestClient(backend.Dial(tb, opts...))
		r.run(tb, i, times(1)) // connects
	}
	return r
}

func (r *connRun) run(tb testing.TB, i int, next func() bool) {
	tb.Helper()
	req := &testpb.Request{Text: "a unary call"}
	for next() {
		if _, err := r.clients[i].Unary(ctx, req); err != nil {
			tb.Fatal(err)
		}
		r.calls[i]++
	}
}

// check checks that all calls reached the server, and that a breaker counted the guarded calls and no others.
func (r *connRun) check(tb testing.TB) {
	tb.Helper()
	if got, want := r.server.Total(), r.calls[0]+r.calls[1]+r.calls[2]; got != want {
		tb.Fatalf("%d calls reached the server, want %d", got, want)
	}
	var counted uint64
	for _, b := range r.group.All() {
		counted += b.Snapshot().Successes
	}
	if counted != uint64(r.calls[2]) {
		tb.Fatalf("%d calls were guarded, want %d", counted, r.calls[2])
	}
}

func TestConnRun(t *testing.T) {
	r := newConnRun(t)
	for i := range r.clients {
		r.run(t, i, times(3))
	}
	r.check(t)
}
