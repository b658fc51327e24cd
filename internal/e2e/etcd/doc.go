// Package etcd holds an end-to-end test: a guarded and an unguarded client of a real etcd server, in real time. It is a
// module of its own, so that only this test depends on etcd.
package etcd
