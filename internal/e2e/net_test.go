package e2e

import (
	"net"
	"sync"
	"testing"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// blackHole starts a server that accepts connections and never writes.
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

// deadPort returns an address on which no server listens. It is that of a stopped server, which keeps its port, so that
// no other program of this machine gets it.
func deadPort(t *testing.T) (addr string) {
	t.Helper()
	stopped := testpb.StartTCP(t, new(testpb.Server))
	stopped.Stop()
	return stopped.Target()
}
