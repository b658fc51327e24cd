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

// Small enough that a connection costs little to make; a larger message waits for its reader, which
// is durable blocking.
const bufconnSize = 64 << 10

// Bufconn serves srv in memory and returns a connection to it with opts: [StartBufconn] and
// [Backend.Dial] in one, for the many tests that need one connection and no restart.
func Bufconn(tb testing.TB, srv *Server, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	return StartBufconn(tb, srv).Dial(tb, opts...)
}

// Backend is a [Server] at an address, in memory or on a TCP port. Any number of connections with
// different options can be dialled to it, and it can be stopped and started again in its place.
//
// It is for the goroutine of the test that started it, except for DialContext, Stop and GracefulStop,
// which are safe for concurrent use; Stop cuts short a GracefulStop that waits.
//
// When the test ends, the backend stops hard and waits for its handlers, those of earlier lives too.
// Without this wait a handler that still sleeps would deadlock a bubble, whose clock stops with the
// test. So a handler that waits for the test must be let go before: by its context, by a defer, or by
// a Cleanup registered after the backend was started.
type Backend struct {
	tb     testing.TB
	srv    *Server
	opts   []grpc.ServerOption
	target string
	listen func() (net.Listener, error)

	mu sync.Mutex
	// Guarded by mu. The last is the current one; earlier ones are stopped. Never empty.
	lives []life
}

// life is what a Backend has from a start to the next: grpc.Server cannot serve again once stopped.
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
		// passthrough: the default resolver would look the name up in the DNS.
		target: "passthrough:///bufconn",
		listen: func() (net.Listener, error) { return bufconn.Listen(bufconnSize), nil },
	}
	b.start()
	tb.Cleanup(b.close)
	return b
}

// StartTCP serves srv on a free port of 127.0.0.1 until the test ends. It does not work inside a
// synctest bubble.
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
	// Where ports cannot be reserved, the first listener has found one.
	addr = b.current().lis.Addr().String()
	b.target = addr
	return b
}

// Target returns the target that Dial dials: "passthrough:///bufconn" in memory, "127.0.0.1:port" on
// TCP. A restart leaves it as it is.
func (b *Backend) Target() string { return b.target }

// Dial returns a connection to the backend, closed when tb ends. It has insecure credentials; opts
// come last and win.
func (b *Backend) Dial(tb testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	return b.DialTarget(tb, b.target, opts...)
}

// DialTarget is [Backend.Dial] under another target, such as "passthrough:///a", for tests that tell
// targets apart. Whatever the target resolves to, the connection leads to this backend.
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

// DialContext opens a transport to the backend, whatever the address. It fits [grpc.WithContextDialer]:
// a test with several backends behind one connection calls the right one's by address.
func (b *Backend) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	if lis, ok := b.current().lis.(*bufconn.Listener); ok {
		return lis.DialContext(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", b.target)
}

// Stop kills the server: it closes the listener and every connection. Calls in flight fail at the
// client and have their context cancelled at the server, but Stop does not wait for their handlers.
// Stopping again does nothing.
func (b *Backend) Stop() {
	l := b.current()
	l.grpc.Stop()
	<-l.served
}

// GracefulStop takes no new calls and returns when those in flight have finished.
func (b *Backend) GracefulStop() {
	l := b.current()
	l.grpc.GracefulStop()
	<-l.served
}

// Restart starts the server again at the same address, with the same options, script and counts. It
// kills the server first unless it is stopped already. It must not be called concurrently with itself.
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
		// ErrServerStopped: Stop came before this goroutine did.
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
		// On a stopped server only the wait for the handlers is left of it. grpc.WaitForHandlers would
		// make Stop wait as well, and a kill in mid-test must not.
		l.grpc.GracefulStop()
	}
}

// current does not hold the lock while a server stops: a bubble's clock does not advance while a
// goroutine waits for a mutex, so a second Stop would hang with it.
func (b *Backend) current() life {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lives[len(b.lives)-1]
}
