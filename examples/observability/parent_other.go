//go:build !linux

package main

import "os/exec"

// dieWithParent does nothing: only Linux can do this. A panic or SIGKILL then leaves Prometheus running.
func dieWithParent(*exec.Cmd) {}
