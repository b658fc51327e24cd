package main

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// source is a file that was mutated.
type source struct {
	path string
	text string
	fset *token.FileSet
	file *ast.File
}

func readSource(path string) (s source, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	s = source{path: path, text: string(text), fset: token.NewFileSet()}
	s.file, err = parser.ParseFile(s.fset, path, text, parser.SkipObjectResolution)
	return s, err
}

// name returns the name of a mutant in docs/mutation.md: its file and function, the line with the operator marked, and
// the kind of mutation, as in "`window.go rotate`: `if n «==» 0 {` conditionals negation".
func (s source) name(m mutation) string {
	line := strings.Split(s.text, "\n")[m.Line-1]
	before, operator := line[:m.Column-1], operatorOf(line[m.Column-1:])
	after := line[len(before)+len(operator):]
	where := filepath.Base(s.path)
	if f := s.function(m.Line); f != "" {
		where += " " + f
	}
	kind := strings.ToLower(strings.ReplaceAll(m.Type, "_", " "))
	return "`" + where + "`: `" + strings.TrimSpace(before+"«"+operator+"»"+after) + "` " + kind
}

// operatorOf returns the first token of text.
func operatorOf(text string) string {
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(text)), []byte(text), func(token.Position, string) {}, 0)
	_, tok, literal := s.Scan()
	if literal != "" {
		return literal
	}
	return tok.String()
}

func (s source) function(line int) string {
	for _, d := range s.file.Decls {
		if fd, ok := d.(*ast.FuncDecl); ok && s.fset.Position(fd.Pos()).Line <= line &&
			line <= s.fset.Position(fd.End()).Line {
			return fd.Name.Name
		}
	}
	return ""
}
