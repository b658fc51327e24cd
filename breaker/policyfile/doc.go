// Package policyfile reads the policies of circuit breakers from a YAML or JSON file, and keeps them in force when the
// file changes. [Watch] does both; [Load] and [File.Apply] do it once.
//
// A policy file is a gRPC service config with more keys, so one file can serve both, or be for breakers only:
//
//	circuitBreaker:             # for all keys that no name below matches: the Config of the group
//	  openFor: 2s
//	  enforcement: shadow       # enforce, shadow or off
//	presets:
//	  patient:                  # complete in itself: what is not here has the library's default
//	    consecutiveFailures: 20
//	    failingFor: 5s
//	methodConfig:
//	- name:
//	  - service: shop.Orders    # all methods of the service
//	  - service: shop.Payments
//	    method: Charge
//	  circuitBreaker:
//	    preset: aggressive      # conservative, balanced, aggressive, lenient, or one of the file's
//	    openFor: 10s            # overrides the preset
//	    enforcement: enforce
//	  timeout: 3s               # gRPC's keys are left alone
//	- name: [{target: "dns:///search:443", tag: gold}]
//	  circuitBreaker: {preset: patient}
//
// # Fields
//
// The fields of a circuitBreaker are those of [breaker.Config], in lower camel case. The file schema.json beside this
// package is a JSON schema for editors; the key $id in it is its address. A duration is a string with a unit, such as
// "1.5s" or "200ms". A negative value (-1, or "-1s" for a duration) switches off what can be off. A zero is an error,
// because a field that is zero in Go is one that is not given: remove the line instead.
//
// A field that is not given is inherited: from the preset, if there is one, otherwise from the circuitBreaker at the
// top of the file, and last from the library's defaults. See [breaker.PolicyRule]. A preset has a value for each
// field, so nothing else is inherited with it, except the enforcement. A preset sets that only if the file writes it
// there, so that a rule with a preset does not begin to reject calls where the file's default is shadow. A preset with
// consecutiveFailures 1 and without failingFor has failingFor off, so that also one burst of slow calls may open.
//
// # Names
//
// A name has service and method, as in gRPC, and target and tag, the other parts of a [breaker.Key]. A part that is
// left out matches anything. The empty name {} is gRPC's default for all methods. A method without a service is an
// error. So is the same name twice, also if only one of the entries has a circuitBreaker: gRPC refuses such a service
// config as a whole. gRPC does not know target and tag. It takes two names that differ only in them for the same name,
// so write such names into a file that is not also the service config.
//
// # Errors
//
// Unknown keys outside circuitBreaker and presets are gRPC's and left alone, unless they look like a misspelt key of
// this package. Anything else that is wrong is an [Error] with line and column. A file has at most [MaxSize] bytes and
// one document, without aliases and merge keys.
//
// The command cmd/breakerpolicy checks a file and prints what it comes to.
package policyfile

//go:generate go test -run TestSchema -count 1 . -update
