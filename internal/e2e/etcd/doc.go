// Package etcd holds an end-to-end test: guarded and unguarded clients of a real etcd server, in real time. It is a module
// of its own, so that only this test depends on etcd.
package etcd
