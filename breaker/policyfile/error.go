package policyfile

import (
	"errors"
	"fmt"
	"slices"
)

// An Error is one defect of a policy file. Parse and Load return one for each defect, joined in the order of the file.
// errors.As finds the first.
type Error struct {
	File   string // as given to Load or Parse
	Line   int    // from 1; 0 if the defect has no position, for example if the file is too long
	Column int    // from 1, in characters
	Text   string // what is wrong, and what to write instead
}

// Error returns "file:line:column: text".
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// maxErrors is the number of errors that are reported. One mistake may cause very many.
const maxErrors = 20

// join sorts errs by position and joins them. Errors beyond maxErrors are only counted.
func join(errs []*Error) error {
	slices.SortStableFunc(errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	var joined []error
	for i, e := range errs {
		if i == maxErrors {
			rest := &Error{File: e.File, Line: e.Line, Column: e.Column}
			rest.Text = fmt.Sprintf("%d more errors, from here on", len(errs)-maxErrors)
			if len(errs) == maxErrors+1 {
				rest = e
			}
			joined = append(joined, rest)
			break
		}
		joined = append(joined, e)
	}
	return errors.Join(joined...)
}
