// Mutation makes hundreds of small changes to the code, one at a time, and checks that a test fails for each. Gremlins
// makes the changes. This program runs gremlins and compares its reports with docs/mutation.md:
//
//	go run ./internal/mutation -version v0.6.0 breaker keyfunc interceptor/stream.go
//
// The arguments are the packages or files to mutate. For all others it uses the reports of earlier runs in the
// directory mutation. It writes the figures into the document. It fails if the efficacy is too low, or if a mutant that
// no test noticed has no judgement in the document.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/build"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	module   = "github.com/go-gremlins/gremlins/cmd/gremlins"
	document = "docs/mutation.md"
	reports  = "mutation" // a directory
	wanted   = 95.0       // percent
	workers  = "2"
	patience = "8" // a mutant times out after this multiple of the time that building and running the tests takes
)

// targets are the packages to mutate. If names is not empty, only files whose names start with one of them count.
var targets = []target{
	{dir: "breaker"},
	{dir: "keyfunc"},
	{dir: "interceptor", names: []string{"classify", "stream"}},
}

type target struct {
	dir   string
	names []string
}

// files returns the files that count, sorted. It takes the files of a build without build tags.
func (t target) files() (paths []string, err error) {
	pkg, err := build.ImportDir(t.dir, 0)
	for _, name := range pkg.GoFiles {
		counts := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if len(t.names) == 0 || slices.ContainsFunc(t.names, counts) {
			paths = append(paths, filepath.Join(t.dir, name))
		}
	}
	return paths, err
}

func main() {
	if filepath.Base(os.Args[0]) == shimName {
		os.Exit(asGo(os.Args[1:]))
	}
	version := flag.String("version", "", "version of gremlins")
	flag.Parse()
	if *version == "" {
		flag.Usage()
		os.Exit(2)
	}
	complaints, err := run(*version, flag.Args())
	if err != nil {
		complaints = append(complaints, err.Error())
	}
	for _, c := range complaints {
		fmt.Fprintln(os.Stderr, "mutation:", c)
	}
	if len(complaints) > 0 {
		os.Exit(1)
	}
}

func run(version string, what []string) (complaints []string, err error) {
	if err := mutate(version, what); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	judged := judgements(string(text))
	figures := newFigures(version)
	for _, t := range targets {
		mutants, err := t.mutants()
		if err != nil {
			return nil, err
		}
		n := count(mutants)
		figures.add(t, n)
		if n.efficacy() < wanted {
			complaints = append(complaints, fmt.Sprintf("%s: an efficacy of %.2f%%, want %v%%", t.dir, n.efficacy(), wanted))
		}
		complaints = append(complaints, judge(mutants, judged[t.dir], t.dir)...)
	}
	fmt.Print(figures)
	changed, err := figures.into(string(text))
	if err != nil {
		return nil, err
	}
	return complaints, os.WriteFile(document, []byte(changed), 0o644)
}

// mutate runs gremlins on the given packages and files.
func mutate(version string, what []string) error {
	if len(what) == 0 {
		return nil
	}
	s, err := newShim(version)
	if err != nil {
		return err
	}
	defer s.remove()
	for _, t := range targets {
		paths, err := t.files()
		if err != nil {
			return err
		}
		for _, path := range paths {
			if slices.Contains(what, path) || slices.Contains(what, t.dir) {
				fmt.Println("==", path)
				if err := s.mutateFile(path); err != nil {
					return fmt.Errorf("gremlins on %s: %w", path, err)
				}
			}
		}
	}
	return nil
}

// mutateFile runs gremlins on one file and writes a report.
func (s shim) mutateFile(path string) error {
	report, err := filepath.Abs(reportOf(path))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(report), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(report); err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(sourceOf(path), text, 0o644); err != nil {
		return err
	}
	args := []string{
		"unleash", "./" + filepath.Dir(path), "--output", report,
		"--workers", workers, "--timeout-coefficient", patience,
		// These are off by default.
		"--invert-logical", "--invert-loopctrl", "--invert-assignments", "--invert-bitwise", "--invert-bwassign",
		"--remove-self-assignments",
		"--exclude-files", "/", // packages in subdirectories
	}
	siblings, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.go"))
	if err != nil {
		return err
	}
	for _, other := range siblings {
		if other != path {
			args = append(args, "--exclude-files", "^"+filepath.Base(other)+"$")
		}
	}
	cmd := exec.Command(filepath.Join(s.dir, "gremlins"), args...)
	cmd.Env = s.env()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &said), os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	// Gremlins writes no report if there is nothing to mutate. It also writes none, with the same exit status, if it was
	// interrupted.
	if strings.Contains(said.String(), "No results to report") {
		return os.WriteFile(report, []byte("{}"), 0o644)
	}
	_, err = os.Stat(report)
	return err
}
