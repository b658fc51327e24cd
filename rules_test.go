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

// TestRules holds docs/semantics.md against the rest: each of its rules is named by a test, unless it is said not to
// be built yet, and each rule that a comment or a document names is one of them.
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
		case path == "docs/comparison.md": // written by internal/compare
			continue
		case strings.HasPrefix(path, "internal/compare"): // its scenarios have numbers like those of rules
			text = strings.Join(regexp.MustCompile(`rule: +"[^"]*"`).FindAllString(text, -1), "\n")
		}
		for _, rule := range cited.FindAllString(text, -1) {
			if !rules[rule] {
				t.Errorf("%s names %s, which docs/semantics.md does not have", path, rule)
			}
		}
	}
	for rule := range rules {
		if tested[rule] == pending[rule] {
			t.Errorf("%s: is it tested: %v; is it not built yet: %v", rule, tested[rule], pending[rule])
		}
	}
}

// readRules returns the rules of docs/semantics.md, and those of them that wait to be built.
func readRules(t *testing.T) (rules, pending map[string]bool) {
	t.Helper()
	rules, pending = map[string]bool{}, map[string]bool{}
	last := map[byte]int{}
	for _, m := range regexp.MustCompile(`(?m)^- \*\*([BGSO]\d+)\*\* (\*Not built yet\.\*)?`).FindAllStringSubmatch(read(t, "docs/semantics.md"), -1) {
		rules[m[1]], pending[m[1]] = true, m[2] != ""
		letter := m[1][0]
		n, _ := strconv.Atoi(m[1][1:])
		if n <= last[letter] { // a number may be left out, for a rule to come
			t.Errorf("docs/semantics.md has %s after %c%d", m[1], letter, last[letter])
		}
		last[letter] = n
	}
	return rules, pending
}

// canonical makes B7 of B07.
func canonical(rule string) string {
	n, _ := strconv.Atoi(rule[1:])
	return rule[:1] + strconv.Itoa(n)
}

// files are those below this directory whose names end in one of endings, of the nested modules too.
func files(t *testing.T, endings ...string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "mutation" || path != "." && strings.HasPrefix(d.Name(), ".")): // the first is what make mutation leaves
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
