//go:build !linux

package testpb

// reserve leaves the choice of the port to the first listener. Another process may take the port while the server is
// down: on systems other than Linux a bound socket would also keep the listener out.
func reserve() (addr string, release func(), err error) {
	return "127.0.0.1:0", func() {}, nil
}
