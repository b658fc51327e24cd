package testpb

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// The size is small, so that a connection costs little memory. Writing a larger message waits for the reader, which is
// durable blocking in a bubble.
const bufconnSize = 64 << 10

// Bufconn serves srv in memory and returns a connection to it with opts. It combines [StartBufconn] and [Backend.Dial]
// for tests that need one connection and no restart.
func Bufconn(tb testing.TB, srv *Server, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	return StartBufconn(tb, srv).Dial(tb, opts...)
}

// A Backend is a [Server] at an address, in memory or on a TCP port. Tests can dial any number of connections to it,
// with different options, and can stop it and start it again at the same address.
//
// Only the goroutine of the test that started it may use it, except for DialContext, Stop and GracefulStop, which are
// safe for concurrent use. Stop interrupts a GracefulStop that waits.
//
// When the test ends, the backend stops like Stop and waits for its handlers, including those from before a restart.
// Without this wait, a handler that still sleeps would deadlock a bubble, whose clock stops with the test. So a handler
// that waits for the test must be released first: by its context, by a defer, or by a Cleanup registered after the
// backend was started.
type Backend struct {
	tb     testing.TB
	srv    *Server
	opts   []grpc.ServerOption
	target string
	listen func() (net.Listener, error)

	mu sync.Mutex
	// Guarded by mu. Never empty. The last one is current; earlier ones are stopped.
	lives []life
}

// life is the time of a Backend from a start to the next start. A grpc.Server cannot serve again once it is stopped.
type life struct {
	grpc   *grpc.Server
	lis    net.Listener
	served chan struct{} // closed when Serve has returned
}

// StartBufconn serves srv in memory until the test ends. It works inside a synctest bubble.
func StartBufconn(tb testing.TB, srv *Server, opts ...grpc.ServerOption) *Backend {
	tb.Helper()
	b := &Backend{
		tb: tb, srv: srv, opts: opts,
		// passthrough: the default resolver would look the name up in DNS.
		target: "passthrough:///bufconn",
		listen: func() (net.Listener, error) { return bufconn.Listen(bufconnSize), nil },
	}
	b.start()
	tb.Cleanup(b.close)
	return b
}

// StartTCP serves srv on a free port of 127.0.0.1 until the test ends. It does not work inside a synctest bubble.
func StartTCP(tb testing.TB, srv *Server, opts ...grpc.ServerOption) *Backend {
	tb.Helper()
	addr, release, err := reserve()
	if err != nil {
		tb.Fatalf("testpb: reserve a port: %v", err)
	}
	tb.Cleanup(release)
	b := &Backend{
		tb: tb, srv: srv, opts: opts,
		target: addr,
		listen: func() (net.Listener, error) { return net.Listen("tcp", addr) },
	}
	b.start()
	tb.Cleanup(b.close)
	// Where reserve does not support it, addr has port 0, and the listener has chosen the port.
	addr = b.current().lis.Addr().String()
	b.target = addr
	return b
}

// Target returns the target that Dial dials: "passthrough:///bufconn" in memory, "127.0.0.1:port" on TCP. A restart
// does not change it.
func (b *Backend) Target() string { return b.target }

// Dial returns a connection to the backend that is closed when tb ends. It has insecure credentials; opts are applied
// last and override the defaults.
func (b *Backend) Dial(tb testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	return b.DialTarget(tb, b.target, opts...)
}

// DialTarget is like [Backend.Dial], but dials another target, such as "passthrough:///a", for tests of several
// targets. Every target connects to this backend.
func (b *Backend) DialTarget(tb testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(b.DialContext),
	}, opts...)
	cc, err := grpc.NewClient(target, opts...)
	if err != nil {
		tb.Fatalf("testpb: dial %q: %v", target, err)
	}
	tb.Cleanup(func() { _ = cc.Close() })
	return cc
}

// DialContext opens a transport to the backend; it ignores the address. It can be used with [grpc.WithContextDialer]. A
// test with several backends behind one connection selects the backend by address.
func (b *Backend) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	if lis, ok := b.current().lis.(*bufconn.Listener); ok {
		return lis.DialContext(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", b.target)
}

// Stop kills the server: it closes the listener and every connection. Calls in flight fail at the client and have their
// context cancelled at the server. Stop does not wait for their handlers. It does nothing on a stopped backend.
func (b *Backend) Stop() {
	l := b.current()
	l.grpc.Stop()
	<-l.served
}

// GracefulStop accepts no new calls and returns when the calls in flight have finished.
func (b *Backend) GracefulStop() {
	l := b.current()
	l.grpc.GracefulStop()
	<-l.served
}

// Restart starts the server again at the same address, with the same options, script and counts. If the server is not
// stopped, Restart kills it first. Restart must not be called concurrently with itself.
func (b *Backend) Restart() {
	b.tb.Helper()
	b.Stop()
	b.start()
}

func (b *Backend) start() {
	b.tb.Helper()
	lis, err := b.listen()
	if err != nil {
		b.tb.Fatalf("testpb: listen: %v", err)
	}
	l := life{grpc: grpc.NewServer(b.opts...), lis: lis, served: make(chan struct{})}
	b.srv.Register(l.grpc)
	go func() {
		defer close(l.served)
		// Serve returns ErrServerStopped if Stop was called before this goroutine ran.
		if err := l.grpc.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			b.tb.Errorf("testpb: serve: %v", err)
		}
	}()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lives = append(b.lives, l)
}

func (b *Backend) close() {
	b.Stop()
	b.mu.Lock()
	lives := b.lives
	b.mu.Unlock()
	for _, l := range lives {
		// On a stopped server this only waits for the handlers. The option grpc.WaitForHandlers would make Stop wait as well,
		// but a kill during a test must not wait.
		l.grpc.GracefulStop()
	}
}

// current returns the current life. Callers must not hold the lock while a server stops: the clock of a bubble does not
// advance while a goroutine waits for a mutex, so a second Stop would hang too.
func (b *Backend) current() life {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lives[len(b.lives)-1]
}
