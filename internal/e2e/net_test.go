package e2e

import (
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
