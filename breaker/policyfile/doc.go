// Package policyfile reads the policies of circuit breakers from a YAML or JSON file, and keeps them in force when the
// file changes. [Watch] does both; [Load] and [File.Apply] do it once.
//
// A policy file is a gRPC service config with more keys, so one file can serve both, or be for breakers only:
//
//	circuitBreaker:             # for all calls that no name below matches; the Config of the group
//	  openFor: 2s
//	  enforcement: shadow       # enforce, shadow or off
//	presets:
//	  patient:                  # complete: fields that are not here have the library's defaults
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
//	  timeout: 3s               # gRPC's keys are ignored
//	- name: [{target: "dns:///search:443", tag: gold}]
//	  circuitBreaker: {preset: patient}
//
// # Fields
//
// The fields of a circuitBreaker are those of [breaker.Config], in lower camel case. The file schema.json in the
// directory of this package is a JSON schema for editors. Its key $id is its URL. A duration is a string with a unit,
// such as "1.5s" or "200ms". A negative value (-1, or "-1s" for a duration) switches off what can be off. A zero is an
// error, because zero means "not given" in Go. To inherit a value, remove the line.
//
// A field that is not given is inherited. With a preset, it is inherited from the preset, which has a value for each
// field except the enforcement. Otherwise it is inherited from the circuitBreaker at the top of the file, and last from
// the library's defaults. Nothing is inherited from another entry, for example from the one for the service. See
// [breaker.PolicyRule]. The enforcement of a rule with a preset comes from the top of the file too, unless the preset
// sets it. So such a rule does not begin to reject calls while the file's default is shadow.
//
// A preset with consecutiveFailures 1 and without failingFor has failingFor off. So one burst of slow calls may open
// the breaker too.
//
// # Names
//
// A name has service and method, as in gRPC, and target and tag, the other parts of a [breaker.Key]. A part that is
// left out matches anything. The empty name {} is gRPC's default for all methods. A method without a service is an
// error. The same name twice is an error too, even if only one of the entries has a circuitBreaker, because gRPC
// refuses such a service config as a whole. gRPC ignores target and tag, so for gRPC two names that differ only in them
// are the same name. Write such names into a file that is not also the service config.
//
// # Errors
//
// Unknown keys outside circuitBreaker and presets belong to gRPC and are ignored, unless they look like a misspelt key
// of this package. Every other defect is an [Error] with line and column. A file has at most [MaxSize] bytes and one
// document. It has no aliases and no merge keys.
//
// The command cmd/breakerpolicy checks a file and prints the policies that result from it.
package policyfile

//go:generate go test -run TestSchema -count 1 . -update
