// Package etcd holds an end-to-end test that compares a guarded and an unguarded client of a real etcd server, in real
// time. It is a separate module, so that the main module does not depend on etcd.
package etcd
