// Package e2e holds the end-to-end tests. A guarded client calls real servers over TCP on the loopback interface, in
// real time. Other tests run in virtual time where they can.
package e2e
