package etcd

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A proxy passes bytes between clients and a server. It can cut all connections and refuse new ones.
type proxy struct {
	to   string
	addr string

	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while the proxy refuses connections
	conns    map[*net.TCPConn]struct{}
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to, addr: l.Addr().String(), conns: make(map[*net.TCPConn]struct{})}
	p.serve(l)
	t.Cleanup(func() {
		p.refuse()
		p.running.Wait()
	})
	return p
}

func (p *proxy) serve(l net.Listener) {
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
			// Registered before the backend is dialled, so that a cut in between also closes it.
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

// pass returns when the connection is closed from either side, or cut.
func (p *proxy) pass(client *net.TCPConn) {
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

// cut resets all connections. New ones are accepted at once.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.SetLinger(0) // the kernel sends RST
		_ = c.Close()
	}
	clear(p.conns)
}

// refuse resets all connections and stops listening: new connections are refused.
func (p *proxy) refuse() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	p.cut()
}

// listen accepts connections again, on the same port.
func (p *proxy) listen(t *testing.T) {
	t.Helper()
	// Another connection of this machine may use the port for a moment.
	for limit := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("tcp", p.addr)
		if err == nil {
			p.serve(l)
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}
