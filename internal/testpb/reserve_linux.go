package testpb

import (
	"fmt"
	"syscall"
)

// reserve chooses a free port of 127.0.0.1 and keeps it for this process until release is called. A server can then
// restart on its port after a while, although other tests on the machine look for free ports all the time.
//
// The socket that holds the port never listens, so connections to it are refused. Linux allows a listener on the same
// port, because both sockets have SO_REUSEADDR (package net sets it on every listener) and only one listens. Linux does
// not assign the port to a socket that asks for any free port.
func reserve() (addr string, release func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = syscall.Close(fd)
		}
	}()
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return "", nil, fmt.Errorf("setsockopt: %w", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", nil, fmt.Errorf("bind: %w", err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return "", nil, fmt.Errorf("getsockname: %w", err)
	}
	in4, ok := sa.(*syscall.SockaddrInet4)
	if !ok {
		return "", nil, fmt.Errorf("getsockname: got a %T", sa)
	}
	return fmt.Sprintf("127.0.0.1:%d", in4.Port), func() { _ = syscall.Close(fd) }, nil
}
