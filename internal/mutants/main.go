// Mutants shows that the tests of package breaker catch what they are there for. It builds them with the tag mutant, by which
// breaker/seam_mutant.go takes the place of breaker/seam.go, and runs them with each of the bugs that are seeded there, and
// with none.
//
//	go run ./internal/mutants
//
// It fails if a bug survives TestLinearizable, or if a control does not pass. A bug is caught if a test says FAIL; a panic, a
// deadlock and a binary that does not start catch nothing. What the first of the race hunters says to a bug is printed too.
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
	variable     = "GRPCIRCUIT_MUTANT"
	linearizable = "^TestLinearizable$"
	longest      = 2 * time.Minute // of one run
)

var bugs = []struct{ name, what string }{
	{"late", "a result of an earlier stay counts in the present one"},
	{"slot", "a probe's slot is checked first and taken later"},
	{"deadline", "the open state shows before its deadline"},
	{"window", "a success in the window is lost to another"},
	{"trip", "the rules are evaluated in one critical section, and the trip is in another"},
}

func main() {
	survivors, err := run(os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	if survivors > 0 {
		fmt.Fprintf(os.Stderr, "mutants: %d of %d bugs survive\n", survivors, len(bugs))
		os.Exit(1)
	}
}

func run(out io.Writer) (survivors int, err error) {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "breaker.test")
	if text, err := exec.Command("go", "test", "-c", "-tags", "mutant", "-o", binary, "./breaker").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go test -c: %w\n%s", err, text)
	}

	for _, control := range []struct {
		name, bug string
		args      []string
	}{
		{"no bug, all tests", "", nil},
		{"no bug, but others run wherever one would be", "jitter", []string{"-test.run", linearizable}},
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
			survivors++
			verdict = "SURVIVES TestLinearizable"
		}
		beside := "by no race hunter"
		switch {
		case othersErr != nil:
			beside = "and the race hunters come to no verdict"
		case len(others.failed) > 0:
			beside = "and by " + strings.Join(others.failed, ", ")
		}
		fmt.Fprintf(out, "%-8s  %s, %s: %s\n", bug.name, verdict, beside, bug.what)
	}
	return survivors, nil
}

type result struct {
	failed []string // tests
	took   time.Duration
	text   []byte
}

var (
	failure = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	crash   = regexp.MustCompile(`(?m)^(panic|fatal error): `)
)

// test runs the binary with one bug. An error is a run without a verdict.
func test(binary, bug string, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "-rapid.nofailfile")...)
	cmd.Dir = "breaker" // as go test has it
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
		return r, fmt.Errorf("%s=%q %s: no verdict, %s after %v\n%s", variable, bug, strings.Join(args, " "), how, r.took, text)
	}
	return r, nil
}
