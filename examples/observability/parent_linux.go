package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel kill the process of cmd when this program ends, also after a panic or SIGKILL.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
