package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// judgements reads the lists of the document, one for each package. A list starts with a heading that names the
// package's directory. Each item holds the name of a mutant on its first line and the judgement on the following lines.
func judgements(text string) map[string]map[string]string {
	all := make(map[string]map[string]string)
	var list map[string]string
	var item string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if dir, ok := strings.CutPrefix(line, "### "); ok {
			list, item = make(map[string]string), ""
			all[dir] = list
		} else if name, ok := strings.CutPrefix(line, "- "); ok && list != nil {
			item = name
			list[item] = ""
		} else if why, ok := strings.CutPrefix(line, "  "); ok && item != "" {
			list[item] += why
		}
	}
	return all
}

// judge compares the mutants that the tests did not notice with the judgements. If the tests noticed a judged mutant
// this time, that is printed but is not a complaint, because some results depend on the scheduler.
func judge(mutants []mutant, judged map[string]string, dir string) (complaints []string) {
	lives := make(map[string]bool) // by name, for all mutants
	for _, m := range mutants {
		if m.unnoticed() && judged[m.name] == "" && !lives[m.name] {
			complaints = append(complaints, fmt.Sprintf("%s: %s, and not judged:\n- %s", dir, m.status, m.name))
		}
		lives[m.name] = lives[m.name] || m.unnoticed()
	}
	for _, name := range slices.Sorted(maps.Keys(judged)) {
		if unnoticed, made := lives[name]; !made {
			complaints = append(complaints, fmt.Sprintf("%s: judged, but there is no such mutant:\n- %s", dir, name))
		} else if !unnoticed {
			fmt.Printf("%s: judged, and noticed this time:\n- %s\n", dir, name)
		}
	}
	return complaints
}

// figures is the generated part of the document.
type figures struct{ strings.Builder }

const figuresBegin, figuresEnd = "<!-- figures -->\n", "<!-- end of figures -->\n"

func newFigures(version string) *figures {
	f := new(figures)
	fmt.Fprintf(f, "With gremlins %s:\n\n", version)
	fmt.Fprintln(f,
		"| package | mutants | killed | lived | timed out | not covered | do not compile | efficacy | mutant coverage |")
	fmt.Fprintln(f, "|---|---|---|---|---|---|---|---|---|")
	return f
}

func (f *figures) add(t target, n counts) {
	name := "`" + t.dir + "`"
	if len(t.names) > 0 {
		name += ", `" + strings.Join(t.names, "*.go`, `") + "*.go`"
	}
	all := 0
	for _, k := range n {
		all += k
	}
	fmt.Fprintf(f, "| %s | %d | %d | %d | %d | %d | %d | %.2f%% | %.2f%% |\n",
		name, all, n[killed], n[lived], n[timedOut], n[notCovered], n[notViable], n.efficacy(), n.coverage())
}

// into replaces the figures in the document.
func (f *figures) into(text string) (string, error) {
	before, rest, ok := strings.Cut(text, figuresBegin)
	_, after, ok2 := strings.Cut(rest, figuresEnd)
	if !ok || !ok2 {
		return "", errors.New(document + " has no place for the figures")
	}
	return before + figuresBegin + f.String() + figuresEnd + after, nil
}
