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

// report holds the part of gremlins' report that this program uses.
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

// The statuses that gremlins gives to mutants.
const (
	killed     = "KILLED"
	lived      = "LIVED"
	timedOut   = "TIMED OUT"
	notCovered = "NOT COVERED"
	notViable  = "NOT VIABLE"
)

// mutant is one mutant. Changes elsewhere in the code do not change its name.
type mutant struct{ name, status string }

// unnoticed reports whether no test failed. A mutant that timed out counts as unnoticed: the tests may have hung, but
// the machine may also have been slow, so a person has to check.
func (m mutant) unnoticed() bool { return m.status != killed && m.status != notViable }

func reportOf(path string) string { return filepath.Join(reports, path+".json") }

// sourceOf returns the path of a copy of the file as it was mutated. The lines and columns of a report refer to that
// copy.
func sourceOf(path string) string { return filepath.Join(reports, path+".src") }

// mutants returns all mutants of the target's files, in the order of the source.
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
			// Gremlins lists mutants in the order in which their tests finished.
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

// counts holds the number of mutants for each status.
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

// efficacy and coverage are percentages, defined as in gremlins.
func (n counts) efficacy() float64 { return percent(n[killed], n[killed]+n[lived]) }

func (n counts) coverage() float64 {
	return percent(n[killed]+n[lived], n[killed]+n[lived]+n[notCovered])
}
