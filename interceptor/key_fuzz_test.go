package interceptor

import (
	"strings"
	"testing"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// FuzzSplitMethod checks that splitMethod splits any method as go-grpc-middleware does. A guard without a key function
// then has the keys of keyfunc.TargetMethod, and ForMethods matches exactly the methods with these names.
func FuzzSplitMethod(f *testing.F) {
	for _, method := range []string{
		fullMethod, "pkg.Service/Method", "/", "//", "", "nonsense", "/a/b/c", "///",
		"/\xff/\x00", "a/",
	} {
		f.Add(method)
	}
	f.Fuzz(func(t *testing.T, method string) {
		meta := interceptors.NewClientCallMeta(method, nil, nil)
		if service, name := splitMethod(method); service != meta.Service || name != meta.Method {
			t.Errorf("%q: got %q and %q, want %q and %q", method, service, name, meta.Service, meta.Method)
		}
		want := keyfunc.TargetMethod(t.Context(), keyfunc.Call{CallMeta: meta})
		for name, g := range map[string]*Guard{
			"default":      newGuard(t, breaker.Config{}),
			"TargetMethod": newGuard(t, breaker.Config{}, WithKey(keyfunc.TargetMethod)),
		} {
			if got := g.find(t.Context(), method, nil, nil, nil, nil).Key(); got != want {
				t.Errorf("%q, %s: got key %+v, want %+v", method, name, got, want)
			}
		}
		proper := strings.HasPrefix(method, "/") && strings.Contains(method[1:], "/")
		if got := ForMethods(method).Match(t.Context(), meta); got != proper {
			t.Errorf("ForMethods(%q) matches the method of that name: %t, want %t", method, got, proper)
		}
	})
}
