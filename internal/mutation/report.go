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
	Efficacy   float64 `json:"test_efficacy"`
	Coverage   float64 `json:"mutations_coverage"`
	Killed     int     `json:"mutants_killed"`
	Lived      int     `json:"mutants_lived"`
	NotViable  int     `json:"mutants_not_viable"`
	NotCovered int     `json:"mutants_not_covered"`
	Files      []file  `json:"files"`
}

type file struct {
	Name      string     `json:"file_name"`
	Mutations []mutation `json:"mutations"`
}

type mutation struct {
	Type   string `json:"type"`
	Status string `json:"status"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

const (
	killed    = "KILLED"
	notViable = "NOT VIABLE"
	timedOut  = "TIMED OUT" // gremlins lists them, and does not count them
)

// readReport puts everything in the order of the source; gremlins has it in the order in which the tests were done.
func readReport(t target) (r report, err error) {
	data, err := os.ReadFile(t.json())
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", t.json(), err)
	}
	slices.SortFunc(r.Files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range r.Files {
		slices.SortFunc(f.Mutations, func(a, b mutation) int {
			return cmp.Or(a.Line-b.Line, a.Column-b.Column, strings.Compare(a.Type, b.Type))
		})
	}
	return r, nil
}

func (r report) timedOut() (n int) {
	for _, f := range r.Files {
		for _, m := range f.Mutations {
			if m.Status == timedOut {
				n++
			}
		}
	}
	return n
}

// mutant is one that was made, called by a name that a change elsewhere does not take from it.
type mutant struct{ name, status string }

// unnoticed says whether no test failed. One that hangs is noticed, in a way; but as well the machine may have been slow, so
// a person has to look.
func (m mutant) unnoticed() bool { return m.status != killed && m.status != notViable }

func (r report) mutants(t target) (all []mutant, err error) {
	for _, f := range r.Files {
		src, err := readSource(filepath.Join(t.dir, f.Name))
		if err != nil {
			return nil, err
		}
		for _, m := range f.Mutations {
			name, err := src.name(m)
			if err != nil {
				return nil, err
			}
			all = append(all, mutant{name, m.Status})
		}
	}
	return all, nil
}
