package grpcircuit_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"iter"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLinks checks that the file of each relative link in a document exists, and the heading that its anchor names.
func TestLinks(t *testing.T) {
	for _, name := range files(t, ".md") {
		for _, d := range deadLinks(name, read(t, name)) {
			t.Error(d)
		}
	}
}

// TestPaths checks the names of files and directories in documents and in comments.
func TestPaths(t *testing.T) {
	base := map[string]bool{}
	for _, name := range files(t, "") {
		base[path.Base(name)] = true
	}
	for _, name := range files(t, ".md") {
		for _, d := range deadPaths(name, read(t, name), base) {
			t.Error(d)
		}
	}
	for _, name := range files(t, ".go") {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, c := range file.Comments {
			for _, m := range commentPath.FindAllStringSubmatch(c.Text(), -1) {
				if !exists(m[1]) {
					t.Errorf("%s: a comment names %s, which does not exist", name, m[1])
				}
			}
		}
	}
}

// TestMakeTargets checks that each `make x` in a document is a target of the Makefile.
func TestMakeTargets(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([\w-]+):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, name := range files(t, ".md") {
		for _, m := range regexp.MustCompile("`make\\s([\\w-]+)").FindAllStringSubmatch(read(t, name), -1) {
			if !targets[m[1]] {
				t.Errorf("%s: `make %s` is no target of the Makefile", name, m[1])
			}
		}
	}
}

// ours matches the top directories of the repository.
const ours = `(?:\.ci|breaker|cmd|docs|examples|internal|interceptor|keyfunc|monitoring|otelbridge|prombridge|tools)`

var (
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)|^\s*\[[^\]]+\]: (\S+)`)
	quoted     = regexp.MustCompile("`([^`]+)`")
	quotedPath = regexp.MustCompile(`^(?:\./)?` + ours + `/[^\s:]*$`)
	quotedFile = regexp.MustCompile(`^[\w-]+\.(?:go|md|txt|json|yml|proto|sh)$`)
	// commentPath needs a file extension: the text "breaker/interceptor" may be two alternatives.
	commentPath = regexp.MustCompile(`(?m)(?:^|[\s("\x60])(` + ours + `/[\w./-]*\.(?:go|md|txt|json|yml|tmpl|proto|sh))\b`)
)

// prose yields the lines of a Markdown file with their numbers, without code blocks.
func prose(text string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		code := false
		n := 0
		for line := range strings.Lines(text) {
			n++
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				code = !code
			} else if !code && !yield(n, strings.TrimRight(line, "\n")) {
				return
			}
		}
	}
}

// deadLinks reports the relative links whose file or anchor does not exist.
func deadLinks(name, text string) (dead []string) {
	for n, line := range prose(text) {
		for _, m := range link.FindAllStringSubmatch(quoted.ReplaceAllString(line, ""), -1) {
			target := m[1] + m[2]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			linked, err := os.ReadFile(to)
			info, statErr := os.Stat(to)
			switch {
			case statErr != nil:
				dead = append(dead, fmt.Sprintf("%s:%d: %s does not exist", name, n, target))
			case anchor == "":
			case info.IsDir() || err != nil || !anchors(string(linked))[anchor]:
				dead = append(dead, fmt.Sprintf("%s:%d: %s has no heading for #%s", name, n, to, anchor))
			}
		}
	}
	return dead
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`)

// anchors are those that GitHub generates for the headings of a Markdown file.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, line := range prose(text) {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		slug := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
		slug = strings.ReplaceAll(slug, " ", "-")
		unique := slug
		for i := 1; all[unique]; i++ {
			unique = fmt.Sprintf("%s-%d", slug, i)
		}
		all[unique] = true
	}
	return all
}

// deadPaths reports the back-quoted names that look like a file of this repository but do not exist. A name without a
// directory must be the base name of a file.
func deadPaths(name, text string, base map[string]bool) (dead []string) {
	for n, line := range prose(text) {
		for _, m := range quoted.FindAllStringSubmatch(line, -1) {
			switch p := m[1]; {
			case quotedPath.MatchString(p) && !exists(p), quotedFile.MatchString(p) && !base[p]:
				dead = append(dead, fmt.Sprintf("%s:%d: %s does not exist", name, n, p))
			}
		}
	}
	return dead
}

// exists reports whether p is a file or directory of the repository. It may be a glob, or end in "..." as a package
// pattern.
func exists(p string) bool {
	found, err := filepath.Glob(strings.TrimSuffix(p, "..."))
	return err == nil && len(found) > 0
}

// The checks must find the defects in a wrong document. Otherwise it proves nothing that they find none in the
// repository.
func TestDocumentChecks(t *testing.T) {
	got := deadLinks("docs/a.md", strings.Join([]string{
		"[a](semantics.md), [b](../README.md#none-of-this), [c](gone.md), [d](https://example.com/x), `[e](gone.md)`",
		"```", "[f](gone.md)", "```",
		"[g]: ../gone.txt",
	}, "\n"))
	if diff := cmp.Diff(got, []string{
		"docs/a.md:1: README.md has no heading for #none-of-this",
		"docs/a.md:1: gone.md does not exist",
		"docs/a.md:5: ../gone.txt does not exist",
	}); diff != "" {
		t.Errorf("links (-got +want):\n%s", diff)
	}

	got = deadPaths("a.md", "`breaker/breaker.go` `./breaker/...` `breaker/*_test.go` `breaker/gone.go`\n"+
		"`go.mod` `gone_test.go` `known.go` `go run ./internal/gone` `interceptor.New`", map[string]bool{"known.go": true})
	if diff := cmp.Diff(got, []string{
		"a.md:1: breaker/gone.go does not exist",
		"a.md:2: gone_test.go does not exist",
	}); diff != "" {
		t.Errorf("paths (-got +want):\n%s", diff)
	}

	got = nil
	for _, a := range []string{"a-b--c_d", "a-b--c_d-1", "none"} {
		if anchors("# A b: `C`\n## A b & c_d\n### A b & c_d\n```\n# none\n```\n")[a] {
			got = append(got, a)
		}
	}
	if diff := cmp.Diff(got, []string{"a-b--c_d", "a-b--c_d-1"}); diff != "" {
		t.Errorf("anchors (-got +want):\n%s", diff)
	}
}
