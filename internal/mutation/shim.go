package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// shim stands before the go command while gremlins runs: a directory at the front of PATH, in which this program is called
// go. It corrects two things.
//
// Gremlins takes the exit status 2 of go test for a mutant that does not compile, and 1 for one that a test has noticed. Today's
// go test returns 1 for both, and what does not compile would count as noticed.
//
// It leaves out mutants in lines that the coverage profile does not have: not only code that no test runs, but constants,
// variables of the package and the conditions of switch cases, for which go has no counters. So the profile is made to have every
// line: what no test runs is mutated too, and lives.
type shim struct{ dir, realGo string }

const (
	shimName  = "go"
	realGoEnv = "MUTATION_GO" // the path of the go command behind the shim
)

// newShim installs gremlins next to the shim, and not with go run, which puts the real go command first in PATH.
func newShim(version string) (s shim, err error) {
	if s.realGo, err = exec.LookPath("go"); err != nil {
		return s, err
	}
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	if s.dir, err = os.MkdirTemp("", "mutation"); err != nil {
		return s, err
	}
	install := exec.Command(s.realGo, "install", module+"@"+version)
	install.Env = append(os.Environ(), "GOBIN="+s.dir)
	install.Stderr = os.Stderr
	if err := install.Run(); err != nil {
		s.remove()
		return s, fmt.Errorf("go install %s@%s: %w", module, version, err)
	}
	return s, os.Symlink(self, filepath.Join(s.dir, shimName))
}

func (s shim) remove() { _ = os.RemoveAll(s.dir) }

func (s shim) env() []string {
	return append(os.Environ(), realGoEnv+"="+s.realGo, "PATH="+s.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// asGo does what the go command would, and returns the exit status for it.
func asGo(args []string) int {
	testing := len(args) > 0 && args[0] == "test"
	var limit time.Duration
	if testing {
		// Tests judge mutants, not vet; and neither from the cache, which would make the timeout too short.
		args = slices.Insert(slices.Clone(args), 1, "-count=1", "-vet=off")
		// Half of the time is for the tests, so that it is go test that ends them, and says what it knows.
		if i := slices.Index(args, "-timeout"); i >= 0 {
			limit, _ = time.ParseDuration(args[i+1])
			args[i+1] = (limit / 2).String()
		}
	}
	var out bytes.Buffer
	cmd := exec.Command(os.Getenv(realGoEnv), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	_, _ = os.Stdout.Write(out.Bytes())
	switch exit, failed := errors.AsType[*exec.ExitError](err); {
	case failed && testing:
		status, hangs := testStatus(out.String())
		if hangs {
			time.Sleep(limit) // until gremlins loses its patience
		}
		return status
	case failed:
		return exit.ExitCode()
	case err != nil:
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 2
	}
	if i := slices.Index(args, "-coverprofile"); i >= 0 {
		if err := coverAll(args[i+1]); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			return 1
		}
	}
	return 0
}

// testStatus is 2 for what did not compile, and 1 for a test that failed. A mutant hangs if no test failed before one ran into
// the timeout: -failfast lets examples run after a failure, and they may hang where tests do not.
func testStatus(out string) (status int, hangs bool) {
	if strings.Contains(out, "[build failed]") {
		return 2, false
	}
	return 1, strings.Contains(out, "panic: test timed out after ") && !strings.Contains(out, "--- FAIL: ")
}

var profiled = regexp.MustCompile(`(?m)^(\S+\.go):`)

// coverAll adds a block to the profile for each of its files, from beginning to end.
func coverAll(profile string) error {
	text, err := os.ReadFile(profile)
	if err != nil {
		return err
	}
	var files []string
	for _, m := range profiled.FindAllStringSubmatch(string(text), -1) {
		files = append(files, m[1])
	}
	slices.Sort(files)
	for _, f := range slices.Compact(files) {
		text = append(text, f+":1.1,1000000.1 1 1\n"...)
	}
	return os.WriteFile(profile, text, 0o600)
}
