package policyfile

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// jsonDocument returns the nodes of data, which is valid JSON. The YAML library refuses some of JSON: a key of more
// than 1024 bytes, a key with its colon on the next line, surrogates, and control characters from U+007F on. A service
// config in JSON may have them.
func jsonDocument(data []byte) *yaml.Node {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	r := jsonReader{data: data, dec: dec, line: 1, column: 1}
	return r.value()
}

// jsonReader makes nodes of the tokens of valid JSON.
type jsonReader struct {
	data []byte
	dec  *json.Decoder

	offset, line, column int // of the last token
}

// value returns the next value. Each loop ends, and no token is an error, because the text is valid JSON.
func (r *jsonReader) value() *yaml.Node {
	n := new(yaml.Node)
	token := r.next(n)
	n.Kind = yaml.ScalarNode
	switch v := token.(type) {
	case json.Delim:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if v == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for r.dec.More() { // a mapping has keys and values by turns, as in its node
			n.Content = append(n.Content, r.value())
		}
		_, _ = r.dec.Token()
	case string:
		n.Tag, n.Value, n.Style = "!!str", v, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", v.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", "false"
		if v {
			n.Value = "true"
		}
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n
}

// next returns the next token, and sets the place of n to where it begins.
func (r *jsonReader) next(n *yaml.Node) json.Token {
	begin := int(r.dec.InputOffset()) // the end of the token before
	for strings.IndexByte(" \t\r\n,:", r.data[begin]) >= 0 {
		begin++
	}
	between := r.data[r.offset:begin]
	if lines := bytes.Count(between, []byte("\n")); lines > 0 {
		r.line += lines
		r.column = 1
		between = between[bytes.LastIndexByte(between, '\n')+1:]
	}
	r.column += utf8.RuneCount(between)
	r.offset = begin
	n.Line, n.Column = r.line, r.column
	token, _ := r.dec.Token()
	return token
}
