package testpb

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// With the range of free ports narrowed to the reserved one, listening on any free port must fail. It must succeed once
// the port is released.
func TestReserveKeepsThePort(t *testing.T) {
	addr, release, err := reserve()
	if err != nil {
		t.Fatal(err)
	}
	port := int(netip.MustParseAddrPort(addr).Port())
	const ipLocalPortRange = 51 // IP_LOCAL_PORT_RANGE, Linux 6.3
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, port|port<<16)
		})
		return errors.Join(ctlErr, err)
	}}
	lc.SetMultipathTCP(false) // not supported with IP_LOCAL_PORT_RANGE
	anyPort := func() error {
		lis, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		return lis.Close()
	}

	err = anyPort()
	release()
	if errors.Is(err, syscall.ENOPROTOOPT) {
		t.Skip("this kernel cannot narrow the range of ports")
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a free port while the only one is reserved: got %v, want EADDRINUSE", err)
	}
	if err := anyPort(); err != nil {
		t.Errorf("a free port after release: %v", err)
	}
}
