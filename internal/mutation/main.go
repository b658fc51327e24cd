// Mutation breaks the code in hundreds of small ways, one at a time, and looks whether a test notices. The breaking is done
// by gremlins; this program starts it, and holds its report against docs/mutation.md:
//
//	go run ./internal/mutation -version v0.6.0 [breaker] [keyfunc] [interceptor]
//
// It writes the figures into that document, and fails if the tests notice too little, or if a mutant that they do not notice
// has no judgement there. The reports of gremlins stay behind as mutation-PACKAGE.json; those of the packages that are not
// named are taken as they are.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	module   = "github.com/go-gremlins/gremlins/cmd/gremlins"
	document = "docs/mutation.md"
	wanted   = 95.0 // percent
	workers  = "2"
	patience = "8" // a mutant may take so many times as long as the tests do, and their building, before it counts as hanging
)

// targets are the packages, with the beginnings of the names of the files that count; none: all of them.
var targets = []target{
	{dir: "breaker"},
	{dir: "keyfunc"},
	{dir: "interceptor", files: []string{"classify", "stream"}},
}

type target struct {
	dir   string
	files []string
}

func (t target) json() string { return "mutation-" + t.dir + ".json" }

// excluded are the files of the package that do not count, and what lies below it, as gremlins wants to have them.
func (t target) excluded() (flags []string, err error) {
	flags = []string{"--exclude-files", "/"}
	names, err := filepath.Glob(filepath.Join(t.dir, "*.go"))
	for _, name := range names {
		name = filepath.Base(name)
		counts := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if len(t.files) > 0 && !slices.ContainsFunc(t.files, counts) {
			flags = append(flags, "--exclude-files", "^"+name+"$")
		}
	}
	return flags, err
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

func run(version string, dirs []string) (complaints []string, err error) {
	for _, dir := range dirs {
		i := slices.IndexFunc(targets, func(t target) bool { return t.dir == dir })
		if i < 0 {
			return nil, fmt.Errorf("%q is none of the packages", dir)
		}
		if err := unleash(version, targets[i]); err != nil {
			return nil, fmt.Errorf("gremlins on %s: %w", dir, err)
		}
	}
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	judged := judgements(string(text))
	figures := newFigures(version)
	for _, t := range targets {
		r, err := readReport(t)
		if err != nil {
			return nil, err
		}
		figures.add(t, r)
		if r.Efficacy < wanted {
			complaints = append(complaints, fmt.Sprintf("%s: an efficacy of %.2f%%, want %v%%", t.dir, r.Efficacy, wanted))
		}
		mutants, err := r.mutants(t)
		if err != nil {
			return nil, err
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

// unleash has gremlins mutate one package, and leaves its report.
func unleash(version string, t target) error {
	shim, err := newShim()
	if err != nil {
		return err
	}
	defer shim.remove()
	report, err := filepath.Abs(t.json())
	if err != nil {
		return err
	}
	excluded, err := t.excluded()
	if err != nil {
		return err
	}
	args := append([]string{
		"run", module + "@" + version, "unleash", "./" + t.dir, "--output", report,
		"--workers", workers, "--timeout-coefficient", patience,
		// The others are on unless told otherwise.
		"--invert-logical", "--invert-loopctrl", "--invert-assignments", "--invert-bitwise", "--invert-bwassign", "--remove-self-assignments",
	}, excluded...)
	cmd := exec.Command(shim.realGo, args...)
	cmd.Env = shim.env()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
