package statusz_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/statusz"
)

// The authentication of the program protects the page. Here it is a password, and only alice may act.
func Example() {
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		panic(err)
	}
	login := func(r *http.Request) (string, bool) {
		user, password, ok := r.BasicAuth()
		return user, ok && password == "secret"
	}
	page := statusz.Handler(group, statusz.WithActions(func(r *http.Request) (string, bool) {
		user, ok := login(r)
		return user, ok && user == "alice"
	}))
	defer page.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/breakers/", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := login(r); !ok {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		page.ServeHTTP(w, r)
	})

	group.Get(breaker.Key{Target: "dns:///orders:443"})
	err = group.Get(breaker.Key{Target: "dns:///users:443"}).SetOverride(context.Background(),
		breaker.Override{Mode: breaker.ForceOpen, Why: "maintenance", By: "alice"})
	if err != nil {
		panic(err)
	}

	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/debug/breakers/?format=text", http.NoBody)
	r.SetBasicAuth("bob", "secret")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	_, breakers, _ := strings.Cut(w.Body.String(), "\n") // after the line of totals, which has the time
	fmt.Print(breakers)
	// Output:
	// open       dns:///users:443  not ready; forced open by alice until cleared: maintenance; policy of the group
	// closed     dns:///orders:443  policy of the group
}
