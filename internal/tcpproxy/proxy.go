// Package tcpproxy is a TCP proxy between the client and the server of a test, so that the test can cut connections.
package tcpproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Proxy passes bytes between clients and a server. It can cut all connections and refuse new ones.
type Proxy struct {
	// Addr is the address on which the proxy listens.
	Addr string

	to string

	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while the proxy refuses connections
	conns    map[*net.TCPConn]struct{}
}

// Start starts a proxy on a free port of 127.0.0.1 that connects to the server at address to. It runs until the test
// ends.
func Start(tb testing.TB, to string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{to: to, Addr: l.Addr().String(), conns: make(map[*net.TCPConn]struct{})}
	p.serve(l)
	tb.Cleanup(func() {
		p.Refuse()
		p.running.Wait()
	})
	return p
}

func (p *Proxy) serve(l net.Listener) {
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			client := c.(*net.TCPConn)
			// Registered before the backend is dialled, so that a Cut in between also closes it.
			p.mu.Lock()
			refused := p.listener != l
			if !refused {
				p.conns[client] = struct{}{}
			}
			p.mu.Unlock()
			if refused {
				_ = client.Close()
				return
			}
			p.running.Go(func() { p.pass(client) })
		}
	})
}

// pass copies bytes in both directions. It returns when either side closes the connection, or when the proxy cuts it.
func (p *Proxy) pass(client *net.TCPConn) {
	defer func() {
		p.mu.Lock()
		delete(p.conns, client)
		p.mu.Unlock()
		_ = client.Close()
	}()
	backend, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, backend}, {backend, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
}

// Cut resets all connections. The proxy keeps accepting new ones.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.SetLinger(0) // the kernel sends RST
		_ = c.Close()
	}
	clear(p.conns)
}

// Refuse resets all connections and stops listening, so that new connections are refused.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	p.Cut()
}

// Listen accepts connections again, on the same port.
func (p *Proxy) Listen(tb testing.TB) {
	tb.Helper()
	// Another connection on this machine may use the port for a moment.
	for limit := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("tcp", p.Addr)
		if err == nil {
			p.serve(l)
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(limit) {
			tb.Fatal(err)
		}
	}
}
