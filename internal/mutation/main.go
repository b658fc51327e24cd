// Mutation breaks the code in hundreds of small ways, one at a time, and looks whether a test notices. The breaking is done
// by gremlins; this program starts it, and holds its reports against docs/mutation.md:
//
//	go run ./internal/mutation -version v0.6.0 breaker keyfunc interceptor/stream.go
//
// What is named is mutated, packages or files. Of all others the reports of earlier runs are taken, which stay behind in the
// directory mutation. It writes the figures into the document, and fails if the tests notice too little, or if a mutant that
// they do not notice has no judgement there.
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
	patience = "8" // a mutant may take so many times as long as the tests and their building, before it counts as hanging
)

// targets are the packages, with the beginnings of the names of the files that count; none: all of them.
var targets = []target{
	{dir: "breaker"},
	{dir: "keyfunc"},
	{dir: "interceptor", names: []string{"classify", "stream"}},
}

type target struct {
	dir   string
	names []string
}

// files are those that count, in order: of the package as it is built here, without build tags.
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
	version := flag.String("version", "", "of gremlins")
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

// mutate has gremlins mutate what is named.
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
				if err := s.unleash(path); err != nil {
					return fmt.Errorf("gremlins on %s: %w", path, err)
				}
			}
		}
	}
	return nil
}

// unleash has gremlins mutate one file, and leaves a report.
func (s shim) unleash(path string) error {
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
		// The others are on unless told otherwise.
		"--invert-logical", "--invert-loopctrl", "--invert-assignments", "--invert-bitwise", "--invert-bwassign", "--remove-self-assignments",
		"--exclude-files", "/", // packages below this one
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
	// It writes no report if there is nothing to mutate; nor, with the same exit status, if it was interrupted.
	if strings.Contains(said.String(), "No results to report") {
		return os.WriteFile(report, []byte("{}"), 0o644)
	}
	_, err = os.Stat(report)
	return err
}
