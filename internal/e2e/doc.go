// Package e2e holds the end-to-end tests: a guarded client against real servers over TCP on the loopback interface, in real
// time. Everything else in the project is tested in virtual time.
package e2e
