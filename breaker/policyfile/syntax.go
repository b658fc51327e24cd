package policyfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth is the largest depth of nested mappings and lists. A service config has about ten levels.
	maxDepth = 64
	// maxSearch is the size up to which the exact position of a syntax error is searched for. The search parses parts of
	// the text about twenty times.
	maxSearch = 64 << 10
)

// document parses data and returns the mapping at its root, or errors. The mapping contains no alias and no merge key,
// and is not nested too deeply.
func document(file string, data []byte) (*yaml.Node, []*Error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	fail := func(line, column int, format string, args ...any) (*yaml.Node, []*Error) {
		return nil, []*Error{{File: file, Line: line, Column: column, Text: fmt.Sprintf(format, args...)}}
	}
	if n := validPrefix(data); n < len(data) {
		line, column := position(data, n)
		if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
			return fail(line, column, "the file is UTF-16; save it as UTF-8")
		}
		return fail(line, column, "byte %#02x is not valid UTF-8; save the file as UTF-8", data[n])
	}
	if json.Valid(data) {
		return checkRoot(file, jsonDocument(data))
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || (err == nil && isNull(doc.Content[0])) {
		return emptyFile(file)
	}
	if err == nil {
		switch err = dec.Decode(&next); {
		case errors.Is(err, io.EOF):
			err = nil
		case err == nil:
			return fail(next.Line, next.Column, "a second document begins here; a policy file has one, so remove the line ---")
		}
	}
	if err != nil {
		line, column, what := syntaxError(data, err)
		return fail(line, column, "syntax error: %s", what)
	}
	return checkRoot(file, doc.Content[0])
}

func emptyFile(file string) (*yaml.Node, []*Error) {
	const text = "the file is empty; write {} for a file that changes nothing"
	return nil, []*Error{{File: file, Line: 1, Column: 1, Text: text}}
}

// checkRoot returns root, or errors for what a file must not contain.
func checkRoot(file string, root *yaml.Node) (*yaml.Node, []*Error) {
	if isNull(root) {
		return emptyFile(file)
	}
	if errs := refused(file, root, 1, nil); errs != nil {
		return nil, errs
	}
	if root.Kind != yaml.MappingNode {
		text := fmt.Sprintf("the file is %s, want a mapping with methodConfig, circuitBreaker or presets", describe(root))
		return nil, []*Error{{File: file, Line: root.Line, Column: root.Column, Text: text}}
	}
	return root, nil
}

// refused returns an error for each node below n of a kind that this package does not accept. It does not follow
// aliases, so its work is bounded by the length of the text.
func refused(file string, n *yaml.Node, depth int, errs []*Error) []*Error {
	fail := func(format string, args ...any) []*Error {
		return append(errs, &Error{File: file, Line: n.Line, Column: n.Column, Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case n.Kind == yaml.AliasNode:
		return fail("*%s is an alias, which a policy file may not have; share fields with a preset", shorten(n.Value))
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!merge":
		return fail("<< is a merge key, which a policy file may not have; share fields with a preset")
	case depth > maxDepth && n.Kind != yaml.ScalarNode:
		return fail("nested deeper than %d levels", maxDepth)
	}
	for _, c := range n.Content {
		errs = refused(file, c, depth+1, errs)
	}
	return errs
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// yamlPlace matches the beginning of the errors of the YAML library. The line in it is the one where the wrong
// construct begins, or the line before.
var yamlPlace = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxError returns the position and the text of an error of the YAML library. The library does not export the
// position, so it is found by bisection: it is the end of the shortest prefix of the text that has the same error.
func syntaxError(data []byte, err error) (line, column int, what string) {
	var syntax *json.SyntaxError
	if jsonErr := json.Unmarshal(data, new(json.RawMessage)); looksLikeJSON(data) && errors.As(jsonErr, &syntax) {
		line, column = position(data, int(syntax.Offset)-1)
		return line, column, syntax.Error()
	}
	want := err.Error()
	what = strings.TrimPrefix(want, yamlPlace.FindString(want))
	if len(data) > maxSearch {
		line, _ = strconv.Atoi(yamlPlace.FindStringSubmatch(want)[1])
		return max(1, line), 1, what
	}
	low, high := 0, len(data) // the prefix of length high has the error, and that of length low does not
	for high-low > 1 {
		if mid := (low + high) / 2; decodeError(data[:mid]) == want {
			high = mid
		} else {
			low = mid
		}
	}
	line, column = position(data, high-1)
	text := lineOf(data, line)
	switch {
	case strings.Contains(text[:len(text)-len(strings.TrimLeft(text, " \t"))], "\t"):
		what += "; the line is indented with a tab, use spaces"
	case strings.HasPrefix(what, "mapping values are not allowed"):
		what += "; indent the line as its neighbors, or quote a value that has a colon"
	case strings.HasPrefix(what, "found incompatible YAML document"):
		what += "; remove the line that begins with %YAML"
	case strings.HasPrefix(what, "did not find expected key"):
		what += "; indent the line as its neighbors"
	}
	return line, column, what
}

// looksLikeJSON reports whether the text is an object whose first key is in quotes. For {openFor: 2s}, which is
// YAML, the error of a JSON parser would be misleading.
func looksLikeJSON(data []byte) bool {
	inside, ok := bytes.CutPrefix(bytes.TrimSpace(data), []byte("{"))
	return ok && bytes.HasPrefix(bytes.TrimSpace(inside), []byte(`"`))
}

// decodeError returns the text of the first error in data, or "".
func decodeError(data []byte) string {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for range 2 {
		var n yaml.Node
		if err := dec.Decode(&n); errors.Is(err, io.EOF) {
			return ""
		} else if err != nil {
			return err.Error()
		}
	}
	return ""
}

// lineOf returns a line of data without its end.
func lineOf(data []byte, line int) string {
	for range line - 1 {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	text, _, _ := bytes.Cut(data, []byte("\n"))
	return string(text)
}

// position returns the line and the column, in characters, of the byte at offset.
func position(data []byte, offset int) (line, column int) {
	before := data[:min(max(0, offset), len(data))]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

// validPrefix returns the length of the longest prefix of data that is valid UTF-8.
func validPrefix(data []byte) int {
	n := 0
	for n < len(data) {
		r, size := utf8.DecodeRune(data[n:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		n += size
	}
	return n
}
