package keyfunc_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/keyfunc"
)

// FuzzKeyFunctions makes keys of any method, target and tag. Each function sets the parts that its name contains,
// unchanged, and only allowed tags get into a key.
func FuzzKeyFunctions(f *testing.F) {
	for _, method := range []string{
		"/shop.Orders/Get", "shop.Orders/Get", "//", "/", "", "nonsense", "/a/b/c", "///",
		"/\xff/\x00", "/ / ",
	} {
		f.Add(method, "dns:///orders:443", "gold", "gold,silver")
	}
	f.Add("/s/m", "", "", "")
	f.Add("/s/m", "\xff", "silver", "gold,,silver")
	f.Add("/s/m", "t", "other", "gold")
	f.Fuzz(func(t *testing.T, method, target, tag, list string) {
		c := call(target, method)
		service, name := "unknown", "unknown"
		if parts := strings.SplitN(strings.TrimPrefix(method, "/"), "/", 2); len(parts) == 2 {
			service, name = parts[0], parts[1]
		}
		full := breaker.Key{Target: target, Service: service, Method: name}
		for _, tt := range []struct {
			name string
			f    keyfunc.Func
			want breaker.Key
		}{
			{"Method", keyfunc.Method, breaker.Key{Service: service, Method: name}},
			{"Service", keyfunc.Service, breaker.Key{Service: service}},
			{"Target", keyfunc.Target, breaker.Key{Target: target}},
			{"TargetMethod", keyfunc.TargetMethod, full},
			{"TargetService", keyfunc.TargetService, breaker.Key{Target: target, Service: service}},
		} {
			if diff := cmp.Diff(tt.want, tt.f(t.Context(), c)); diff != "" {
				t.Errorf("%s of %q at %q (-want +got):\n%s", tt.name, method, target, diff)
			}
			allowed := strings.Split(list, ",")
			tt.want.Tag = keyfunc.Other
			if slices.Contains(allowed, tag) {
				tt.want.Tag = tag
			}
			tagged := keyfunc.Tagged(tt.f, func(context.Context, keyfunc.Call) string { return tag }, allowed...)
			if diff := cmp.Diff(tt.want, tagged(t.Context(), c)); diff != "" {
				t.Errorf("Tagged %s of %q at %q with %q of %q (-want +got):\n%s", tt.name, method, target, tag, allowed, diff)
			}
		}
		// The name of a key contains each of its parts, whatever strings they are.
		for _, part := range []string{target, service, name} {
			if s := full.String(); s == "" || !strings.Contains(s, part) {
				t.Errorf("%+v is called %q, want %q in it", full, s, part)
			}
		}
	})
}
