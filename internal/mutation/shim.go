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

// shim replaces the go command while gremlins runs. It is a directory at the front of PATH that holds a link named go
// to this program. It corrects two things.
//
// Gremlins expects go test to exit with status 2 if a mutant does not compile and with 1 if a test failed. The current
// go test exits with 1 in both cases, so mutants that do not compile would count as noticed.
//
// Gremlins skips mutants on lines that are not in the coverage profile. These are lines that no test runs, and also
// constants, package variables and the conditions of switch cases, which have no coverage counters. The shim adds all
// lines to the profile. So mutants in code that no test runs are tested too, and count as lived.
type shim struct{ dir, realGo string }

const (
	shimName  = "go"
	realGoEnv = "MUTATION_GO" // path of the real go command
)

// newShim installs gremlins in the shim's directory. It does not use go run, because go run puts the real go command
// first in PATH.
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

// asGo runs the go command, with the corrections, and returns the exit status.
func asGo(args []string) int {
	testing := len(args) > 0 && args[0] == "test"
	var limit time.Duration
	if testing {
		// Without the cache, which would make gremlins measure too short a time. Without vet, because only tests may notice a
		// mutant.
		args = slices.Insert(slices.Clone(args), 1, "-count=1", "-vet=off")
		// The tests get half of the time, so that go test stops them and prints which ones ran.
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
			time.Sleep(limit) // until gremlins' own timeout
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

// testStatus returns 2 if the code did not compile, and 1 if a test failed. hangs is true if the timeout came before
// any test failed. The order matters because examples still run after a failure, even with -failfast, and may hang.
func testStatus(out string) (status int, hangs bool) {
	if strings.Contains(out, "[build failed]") {
		return 2, false
	}
	return 1, strings.Contains(out, "panic: test timed out after ") && !strings.Contains(out, "--- FAIL: ")
}

var profiled = regexp.MustCompile(`(?m)^(\S+\.go):`)

// coverAll adds a block that spans the whole file to the profile, for each file in it.
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
