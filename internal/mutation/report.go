package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// report is what is read of what gremlins writes.
type report struct {
	Files []struct {
		Mutations []mutation `json:"mutations"`
	} `json:"files"`
}

type mutation struct {
	Type   string `json:"type"`
	Status string `json:"status"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// What gremlins says of a mutant.
const (
	killed     = "KILLED"
	lived      = "LIVED"
	timedOut   = "TIMED OUT"
	notCovered = "NOT COVERED"
	notViable  = "NOT VIABLE"
)

// mutant is one that was made, called by a name that a change elsewhere does not take from it.
type mutant struct{ name, status string }

// unnoticed says whether no test failed. One that hangs is noticed, in a way; but as well the machine may have been slow, so
// a person has to look.
func (m mutant) unnoticed() bool { return m.status != killed && m.status != notViable }

func reportOf(path string) string { return filepath.Join(reports, path+".json") }

// sourceOf is the file as it was when it was mutated: a report has lines and columns of that one, and of no other.
func sourceOf(path string) string { return filepath.Join(reports, path+".src") }

// mutants are all that were made of the target's files, in the order of the source.
func (t target) mutants() (all []mutant, err error) {
	paths, err := t.files()
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		data, err := os.ReadFile(reportOf(path))
		if err != nil {
			return nil, fmt.Errorf("%s has not been mutated: %w", path, err)
		}
		var r report
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", reportOf(path), err)
		}
		src, err := readSource(path)
		if err != nil {
			return nil, err
		}
		if then, err := os.ReadFile(sourceOf(path)); err != nil || string(then) != src.text {
			return nil, fmt.Errorf("%s has changed since it was mutated", path)
		}
		for _, f := range r.Files {
			// Gremlins has them in the order in which their tests were done.
			slices.SortFunc(f.Mutations, func(a, b mutation) int {
				return cmp.Or(a.Line-b.Line, a.Column-b.Column, strings.Compare(a.Type, b.Type))
			})
			for _, m := range f.Mutations {
				all = append(all, mutant{src.name(m), m.Status})
			}
		}
	}
	return all, nil
}

// counts is how many mutants have which status.
type counts map[string]int

func count(mutants []mutant) counts {
	n := make(counts)
	for _, m := range mutants {
		n[m.status]++
	}
	return n
}

func percent(part, whole int) float64 {
	if whole == 0 {
		return 100
	}
	return 100 * float64(part) / float64(whole)
}

// efficacy and coverage are what gremlins means by them.
func (n counts) efficacy() float64 { return percent(n[killed], n[killed]+n[lived]) }

func (n counts) coverage() float64 {
	return percent(n[killed]+n[lived], n[killed]+n[lived]+n[notCovered])
}
