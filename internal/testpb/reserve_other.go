//go:build !linux

package testpb

// reserve leaves the choice to the first listener. Its port may be lost to another process while the
// server is down: elsewhere than on Linux a bound socket would keep the listener out too.
func reserve() (addr string, release func(), err error) {
	return "127.0.0.1:0", func() {}, nil
}
