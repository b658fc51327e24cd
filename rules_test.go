package grpcircuit_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestRules compares docs/semantics.md with the rest of the repository. Each of its rules must be named by a test,
// unless it is marked as not built yet. Each rule that a comment or a document names must be in docs/semantics.md.
func TestRules(t *testing.T) {
	rules, pending := readRules(t)
	if len(rules) < 70 {
		t.Fatalf("docs/semantics.md has %d rules; the test does not find them", len(rules))
	}
	var (
		test  = regexp.MustCompile(`\bTest([BGSO]\d\d?)_|// ([BGSO]\d\d?)[:,]`) // func TestB07_…, // B7: …
		cited = regexp.MustCompile(`\b[BGSO][1-9]\d?\b`)
	)
	tested := map[string]bool{}
	for _, path := range files(t, ".go", ".md") {
		text := read(t, path)
		if strings.HasSuffix(path, "_test.go") && path != "rules_test.go" {
			for _, m := range test.FindAllStringSubmatch(text, -1) {
				tested[canonical(m[1]+m[2])] = true
			}
		}
		switch {
		case path == "docs/comparison.md": // internal/compare writes it
			continue
		case strings.HasPrefix(path, "internal/compare"): // the ids of its scenarios look like rules
			text = strings.Join(regexp.MustCompile(`rule: +"[^"]*"`).FindAllString(text, -1), "\n")
		}
		for _, rule := range cited.FindAllString(text, -1) {
			if !rules[rule] {
				t.Errorf("%s names %s, which is not in docs/semantics.md", path, rule)
			}
		}
	}
	for rule := range rules {
		if tested[rule] == pending[rule] {
			t.Errorf("%s: is it tested: %v; is it not built yet: %v", rule, tested[rule], pending[rule])
		}
	}
}

// readRules returns the rules of docs/semantics.md, and those of them that are not built yet.
func readRules(t *testing.T) (rules, pending map[string]bool) {
	t.Helper()
	rules, pending = map[string]bool{}, map[string]bool{}
	last := map[byte]int{}
	rule := regexp.MustCompile(`(?m)^- \*\*([BGSO]\d+)\*\* (\*Not built yet\.\*)?`)
	for _, m := range rule.FindAllStringSubmatch(read(t, "docs/semantics.md"), -1) {
		rules[m[1]], pending[m[1]] = true, m[2] != ""
		letter := m[1][0]
		n, _ := strconv.Atoi(m[1][1:])
		if n <= last[letter] { // numbers may be missing
			t.Errorf("docs/semantics.md has %s after %c%d", m[1], letter, last[letter])
		}
		last[letter] = n
	}
	return rules, pending
}

// canonical removes the leading zero: it returns B7 for B07.
func canonical(rule string) string {
	n, _ := strconv.Atoi(rule[1:])
	return rule[:1] + strconv.Itoa(n)
}

// files returns the files whose names end in one of endings, also those of the nested modules.
func files(t *testing.T, endings ...string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "mutation" || path == "bench"): // make mutation and make bench-compare write them
			return fs.SkipDir
		case d.IsDir() && path != "." && path != ".ci" && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && slices.ContainsFunc(endings, func(end string) bool { return strings.HasSuffix(path, end) }):
			paths = append(paths, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
