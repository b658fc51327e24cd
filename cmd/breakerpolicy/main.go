// Breakerpolicy checks policy files of package breaker/policyfile.
//
//	go run github.com/grpcircuit/grpcircuit/cmd/breakerpolicy check FILE...
//
// For each rule of a file, it prints the policy that results: the fields that the file sets, where each value comes
// from, and what the policy does. If a file has errors, it prints up to 20 of them and ends with exit code 1.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/policyfile"
)

const usage = `usage: breakerpolicy check FILE...

Check validates policy files and prints the policy of each rule. The exit code is 1 if a file has errors.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 0, 1 if a file has errors, 2 if the arguments are wrong.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) < 2 || args[0] != "check" || strings.HasPrefix(args[1], "-") {
		fmt.Fprint(stderr, usage)
		return 2
	}
	code := 0
	for _, path := range args[1:] {
		text, err := check(path)
		if err != nil {
			fmt.Fprintln(stderr, err)
			code = 1
			continue
		}
		if _, err := io.WriteString(stdout, text); err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
	}
	return code
}

// check returns the text to print for a valid file.
func check(path string) (string, error) {
	f, err := policyfile.Load(path)
	if err != nil {
		return "", err
	}
	// The default comes from a group without rules, because a rule of the other group may match every key.
	base, baseErr := breaker.NewGroup(f.Config)
	ruled, err := breaker.NewGroup(f.Config, breaker.WithPolicy(f.Rules...))
	if err := errors.Join(baseErr, err); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s is valid: a default and %s\n", path, plural(len(f.Rules), "rule"))
	if err := explain(&b, "Default, for keys that no rule matches", base.PolicyFor(breaker.Key{})); err != nil {
		return "", err
	}
	for _, r := range f.Rules {
		match := "every key"
		if r.Match != (breaker.Key{}) {
			match = printable(r.Match.String())
		}
		// No other rule matches a key with just these parts better.
		if err := explain(&b, fmt.Sprintf("%s (%s)", match, r.Name), ruled.PolicyFor(r.Match)); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// printable returns text as it is, or in quotes if a terminal would act on a part of it.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// sources names in the output where a value comes from.
var sources = map[string]string{
	breaker.SourceGroup: "default of the file",
	breaker.SourceRule:  "rule",
}

// explain writes the fields of p that the file sets, and what p does.
func explain(b *strings.Builder, title string, p breaker.Policy) error {
	fmt.Fprintf(b, "\n%s\n", title)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	v := reflect.ValueOf(p.Config)
	for f := range v.Type().Fields() {
		if source, ok := sources[p.Sources[f.Name]]; ok {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fmt.Fprintf(w, "  %s\t%s\t%s\n", name, value(v.FieldByIndex(f.Index)), source)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text, err := p.Config.Explain()
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return nil
}

// value returns a field as text. In all fields, a negative value means off.
func value(v reflect.Value) string {
	if (v.CanInt() && v.Int() < 0) || (v.CanFloat() && v.Float() < 0) {
		return "off"
	}
	return fmt.Sprint(v.Interface())
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
