package policyfile_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/policyfile"
)

// A watched file replaces the policy of a group each time it changes.
func ExampleWatch() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(path, []byte("circuitBreaker: {openFor: 2s}"), 0o600); err != nil {
		panic(err)
	}

	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		panic(err)
	}
	reloads := make(chan policyfile.Reload)
	watcher, err := policyfile.Watch(path,
		policyfile.WithGroups(group),
		policyfile.WithLogger(slog.New(slog.DiscardHandler)), // the default is slog.Default()
		policyfile.WithCallback(func(r policyfile.Reload) { reloads <- r }))
	if err != nil {
		panic(err) // the file is missing or broken
	}
	defer watcher.Close()
	orders := group.Get(breaker.Key{Service: "shop.Orders"})
	fmt.Println(orders.Config().OpenFor)

	// Write another file and rename it, so that the watcher never reads half a file.
	if err := os.WriteFile(path+".new", []byte("circuitBreaker: {openFor: 5s}"), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		panic(err)
	}
	fmt.Println((<-reloads).Err, orders.Config().OpenFor)
	// Output:
	// 2s
	// <nil> 5s
}

// The group returns the policy of each key, and where each value comes from.
func ExampleFile_Apply() {
	file, err := policyfile.Parse("policy.yaml", []byte(`
circuitBreaker: {openFor: 2s, enforcement: shadow}
methodConfig:
- name: [{service: shop.Orders}]
  circuitBreaker: {preset: aggressive, minCalls: 50}
`))
	if err != nil {
		panic(err)
	}
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		panic(err)
	}
	if err := file.Apply(group); err != nil {
		panic(err)
	}
	policy := group.PolicyFor(breaker.Key{Service: "shop.Orders", Method: "Get"})
	fmt.Println(policy.Name)
	fmt.Println(policy.Config.OpenFor, policy.Sources["OpenFor"])
	fmt.Println(policy.Config.Enforcement, policy.Sources["Enforcement"])
	// Output:
	// policy.yaml:4
	// 30s rule
	// shadow group
}

// All errors of a file are reported, each with its position.
func ExampleParse_errors() {
	_, err := policyfile.Parse("policy.yaml", []byte(`
circuitBreaker:
  openFor: 5
  minCals: 50
methodConfig:
- name: [{service: shop.Orders}]
  circuitBreaker: {preset: agressiv}
- name: [{service: shop.Orders}]
`))
	fmt.Println(err)
	// Output:
	// policy.yaml:3:12: openFor is 5, a number without a unit; write "5s" for seconds or "5ms" for milliseconds
	// policy.yaml:4:3: unknown field "minCals" in circuitBreaker; did you mean "minCalls"?
	// policy.yaml:7:28: unknown preset "agressiv"; did you mean "aggressive"?
	// policy.yaml:8:10: the name {service: shop.Orders} is already on line 6; merge the two entries
}
