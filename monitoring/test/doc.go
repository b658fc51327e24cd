// Package test checks the rules, alerts and dashboard of directory monitoring, and the queries in docs/runbooks.md,
// against the golden output of package prombridge. It also generates the dashboard. It is a separate module, so that
// the main module does not depend on Prometheus.
package test

//go:generate go test -run TestDashboardIsGenerated -count 1 . -update
