package grpcircuit_test

import (
	"fmt"
	"go/scanner"
	"go/token"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// documentsWithNames are those whose back-quoted Go names must exist. docs/decisions.md is not one of them: it also
// names what has been removed.
var documentsWithNames = []string{
	"README.md", "CHANGELOG.md", "docs/guide.md", "docs/architecture.md",
	"docs/semantics.md", "docs/state-machine.md",
}

// foreignNames are Go names in the documents that the code does not use.
var foreignNames = map[string]bool{
	"LogValuer": true, "Maintenance": true, "etcdserverpb": true,
	"Export": true, "Import": true, "HangAfter": true, // of rules that are not built yet
	"google": true, "rpc": true, "IsSuccessful": true, // google.rpc.ErrorInfo, gobreaker
	"subPath": true, "EnforcementPolicy": true, "healthCheckConfig": true, // of Kubernetes and of grpc
}

// TestNamesInDocuments checks that each Go name in a document is an identifier in the code, so that a document does not
// keep a name that was changed.
func TestNamesInDocuments(t *testing.T) {
	known, compared := map[string]bool{}, map[string]bool{}
	for _, path := range files(t, ".go") {
		addIdentifiers(compared, read(t, path))
		if !strings.HasPrefix(path, "internal/compare/") {
			addIdentifiers(known, read(t, path))
		}
	}
	for _, name := range documentsWithNames {
		if name == guide { // its tables for migration name what other libraries have
			for _, d := range deadNames(name, read(t, name), compared) {
				t.Error(d)
			}
			continue
		}
		for _, d := range deadNames(name, read(t, name), known) {
			t.Error(d)
		}
	}
}

// addIdentifiers adds the identifiers of a Go file, except those in its comments and strings.
func addIdentifiers(known map[string]bool, source string) {
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(source))
	s.Init(file, []byte(source), nil, 0)
	for {
		_, tok, lit := s.Scan()
		if tok == token.EOF {
			return
		}
		if tok == token.IDENT {
			known[lit] = true
		}
	}
}

// quotedName matches what may be a Go name. deadNames checks those with letters of both cases. Another word may be
// anything, such as a command or a status code.
var quotedName = regexp.MustCompile(`^(?:[A-Za-z]\w*\.)*[A-Za-z]\w*$`)

// deadNames reports the back-quoted Go names of a document that are not known.
func deadNames(name, text string, known map[string]bool) (dead []string) {
	for n, line := range prose(text) {
		for _, m := range quoted.FindAllStringSubmatch(line, -1) {
			word, _, _ := strings.Cut(m[1], "(")
			if !quotedName.MatchString(word) || quotedFile.MatchString(word) ||
				strings.ToLower(word) == word || strings.ToUpper(word) == word {
				continue
			}
			for part := range strings.SplitSeq(word, ".") {
				if !known[part] && !foreignNames[part] {
					dead = append(dead, fmt.Sprintf("%s:%d: %s: the code has no identifier %s", name, n, m[1], part))
				}
			}
		}
	}
	return dead
}

// The check must find the defects in a wrong document. Otherwise it proves nothing that it finds none in the
// repository.
func TestNameChecks(t *testing.T) {
	known := map[string]bool{}
	addIdentifiers(known, "package a\n\n// Gone\nfunc (b *Breaker) Kept(s string) { s = \"Lost\" }\n")
	got := deadNames("a.md", strings.Join([]string{
		"`Breaker.Kept`, `Kept(s)`, `make test`, `gone`, `GONE`, `Gone.go`",
		"`Breaker.Gone(s)` and `Lost`",
	}, "\n"), known)
	if diff := cmp.Diff(got, []string{
		"a.md:2: Breaker.Gone(s): the code has no identifier Gone",
		"a.md:2: Lost: the code has no identifier Lost",
	}); diff != "" {
		t.Errorf("names (-got +want):\n%s", diff)
	}
}
