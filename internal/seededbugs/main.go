// Seededbugs checks that the tests of package breaker catch seeded bugs. It builds the package's tests with the build
// tag seededbugs, which adds the bugs. It then runs the tests once for each bug, with only that bug enabled, and also
// without a bug.
//
//	go run ./internal/seededbugs
//
// It fails if TestLinearizable does not catch a bug, or if a run without a bug fails. A bug counts as caught only if a
// test reports FAIL. A panic, a deadlock or a binary that does not start is an error of this program. It also prints
// whether the tests named ConcurrentSafe catch the bug, for information only.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	variable     = "GRPCIRCUIT_SEEDED_BUG"
	linearizable = "^TestLinearizable$"
	longest      = 2 * time.Minute // for one run
)

var bugs = []struct{ name, what string }{
	{"late", "a result of an earlier generation counts in the current one"},
	{"slot", "a probe slot is checked in one step and taken in another"},
	{"deadline", "the open state is published before its deadline is set"},
	{"window", "concurrent successes overwrite each other in the window"},
	{"trip", "the rules are evaluated in one critical section and the breaker trips in another"},
}

func main() {
	missed, err := run(os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "seededbugs:", err)
		os.Exit(1)
	}
	if missed > 0 {
		fmt.Fprintf(os.Stderr, "seededbugs: %d of %d bugs were not caught\n", missed, len(bugs))
		os.Exit(1)
	}
}

func run(out io.Writer) (missed int, err error) {
	dir, err := os.MkdirTemp("", "seededbugs")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "breaker.test")
	build := exec.Command("go", "test", "-c", "-tags", "seededbugs", "-o", binary, "./breaker")
	if text, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go test -c: %w\n%s", err, text)
	}

	for _, control := range []struct {
		name, bug string
		args      []string
	}{
		{"no bug, all tests", "", nil},
		{"no bug, but the code yields at each place where a bug could be", "jitter", []string{"-test.run", linearizable}},
	} {
		r, err := test(binary, control.bug, control.args...)
		if err != nil {
			return 0, err
		}
		if len(r.failed) > 0 {
			return 0, fmt.Errorf("%s: %s\n%s", control.name, strings.Join(r.failed, ", "), r.text)
		}
		fmt.Fprintf(out, "%-8s  passes in %.1f s: %s\n", "control", r.took.Seconds(), control.name)
	}

	for _, bug := range bugs {
		r, err := test(binary, bug.name, "-test.run", linearizable)
		if err != nil {
			return 0, err
		}
		others, othersErr := test(binary, bug.name, "-test.run", "ConcurrentSafe", "-test.failfast")
		verdict := fmt.Sprintf("caught by %s in %.1f s", strings.Join(r.failed, ", "), r.took.Seconds())
		if len(r.failed) == 0 {
			missed++
			verdict = "NOT CAUGHT by TestLinearizable"
		}
		also := "by no ConcurrentSafe test"
		switch {
		case othersErr != nil:
			also = "with no verdict from the ConcurrentSafe tests"
		case len(others.failed) > 0:
			also = "and by " + strings.Join(others.failed, ", ")
		}
		fmt.Fprintf(out, "%-8s  %s, %s: %s\n", bug.name, verdict, also, bug.what)
	}
	return missed, nil
}

type result struct {
	failed []string // names of failed tests
	took   time.Duration
	text   []byte
}

var (
	failure = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	crash   = regexp.MustCompile(`(?m)^(panic|fatal error): `)
)

// test runs the binary with one bug enabled. It returns an error if the tests neither passed nor failed.
func test(binary, bug string, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "-rapid.nofailfile")...)
	cmd.Dir = "breaker" // the directory in which go test would run it
	cmd.Env = append(os.Environ(), variable+"="+bug)
	start := time.Now()
	text, err := cmd.CombinedOutput()
	r := result{took: time.Since(start), text: text}
	for _, m := range failure.FindAllSubmatch(text, -1) {
		r.failed = append(r.failed, string(m[1]))
	}
	passed := err == nil && len(r.failed) == 0 && bytes.HasSuffix(text, []byte("PASS\n"))
	exit, exited := errors.AsType[*exec.ExitError](err)
	failed := exited && exit.ExitCode() == 1 && len(r.failed) > 0 && !crash.Match(text)
	if !passed && !failed {
		how := "exit status 0"
		if err != nil {
			how = err.Error()
		}
		return r, fmt.Errorf("%s=%q %s: no verdict, %s after %v\n%s",
			variable, bug, strings.Join(args, " "), how, r.took, text)
	}
	return r, nil
}
