package policyfile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// MaxSize is the largest size of a policy file in bytes. A longer file is an error.
const MaxSize = 1 << 20

// A File holds the content of a policy file as plain data.
type File struct {
	// Config is the circuitBreaker at the top of the file, for keys that no rule matches.
	Config breaker.Config
	// Rules has a rule for each name of a methodConfig entry with a circuitBreaker, in the order of the file. The Name of
	// a rule is the position of the name in the file: "policy.yaml:12".
	Rules []breaker.PolicyRule
}

// Load reads a policy file. It returns an error that joins one *Error for each defect in it, or the error of the
// operating system. A file longer than MaxSize is not read.
func Load(path string) (*File, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse is like Load, for text that has been read already. name takes the place of the path in errors and in the names
// of rules.
func Parse(name string, data []byte) (*File, error) {
	if len(data) > MaxSize {
		return nil, tooLong(name, int64(len(data)))
	}
	root, errs := document(name, data)
	if errs != nil {
		return nil, join(errs)
	}
	p := parser{file: name}
	f := &File{Config: p.run(root)}
	f.Rules = p.rules
	if len(p.errs) > 0 {
		return nil, join(p.errs)
	}
	// The parser should have found everything that Apply would refuse. An error here is a defect of this package.
	if err := f.Validate(); err != nil {
		return nil, &Error{File: name, Text: err.Error()}
	}
	return f, nil
}

// Validate returns the error that Apply would return. A File from Load or Parse is valid until it is changed.
func (f *File) Validate() error {
	_, err := breaker.NewGroup(f.Config, breaker.WithPolicy(f.Rules...))
	return err
}

// Apply puts the file in force in each of the groups. Like Group.Apply, it replaces their whole policy, and keeps
// states, permits and overrides. If it returns an error, it has changed none of the groups. A nil group is an error.
func (f *File) Apply(groups ...*breaker.Group) error {
	for i, g := range groups {
		if g == nil {
			return fmt.Errorf("policyfile: Apply: group %d is nil", i)
		}
	}
	// All groups accept the same policies. So after Validate, either all of them accept the file, or the first one refuses
	// it and nothing has changed.
	if err := f.Validate(); err != nil {
		return err
	}
	for _, g := range groups {
		if err := g.Apply(f.Config, f.Rules...); err != nil {
			return err
		}
	}
	return nil
}

// read returns the content of a policy file.
func read(path string) (data []byte, err error) {
	info, err := os.Stat(path) // before Open, which would block on a named pipe
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{File: path, Text: "is not a regular file"}
	}
	if info.Size() > MaxSize {
		return nil, tooLong(path, info.Size())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, MaxSize+1)) // the file may have grown since Stat
	if err != nil {
		return nil, err
	}
	return data, nil
}

func tooLong(name string, size int64) error {
	return &Error{File: name, Text: fmt.Sprintf("the file has %d bytes, more than %d (1 MiB)", size, MaxSize)}
}
