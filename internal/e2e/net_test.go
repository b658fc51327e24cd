package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
)

// blackHole accepts connections and never says a word.
func blackHole(t *testing.T) (addr string) {
	t.Helper()
	l := listen(t)
	var running sync.WaitGroup
	running.Go(func() {
		var conns []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// deadPort is an address where nobody listens any more.
func deadPort(t *testing.T) (addr string) {
	t.Helper()
	l := listen(t)
	addr = l.Addr().String()
	_ = l.Close()
	return addr
}

// proxy passes bytes on to a backend, and can reset every connection that goes through it.
type proxy struct {
	addr string
	to   string

	mu    sync.Mutex
	conns []*net.TCPConn
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l := listen(t)
	p := &proxy{addr: l.Addr().String(), to: to}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.pass(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.reset()
		running.Wait()
	})
	return p
}

func (p *proxy) pass(client *net.TCPConn) {
	backend, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client)
	p.mu.Unlock()
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

// reset has the kernel answer with RST on every connection: what a crashed host or an impatient firewall does.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	p.conns = nil
}
