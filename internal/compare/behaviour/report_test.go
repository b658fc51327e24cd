package behaviour

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"unicode/utf8"
)

// A part of the report is a set of rows on a set of columns.
type part struct {
	title  string
	libs   []*library
	topics []topic
	m      matrix
}

// unlisted holds the modules for which the proxy serves the version in go.mod but no list of versions. Their latest
// version is not known.
var unlisted = []string{cep21Circuit.module, mercariBreaker.module, goresilienceRunner.module}

// notServed describes a library that should be in the report but that the module proxy does not serve.
const notServed = "The gRPC adapter of github.com/alibaba/sentinel-golang, a separate module, is missing: " +
	"the proxy does not serve it."

// marks are the texts in the tables.
var marks = map[mark]string{pass: "✓", fail: "✗", hang: "✗!", crash: "✗!", lacking: "○", na: "–"}

// writeReport runs everything and writes the report to path.
func writeReport(path string) error {
	parts := []*part{
		{title: "Any call", libs: libraries, topics: topics},
		{title: "gRPC", libs: grpcLibraries, topics: grpcTopics},
	}
	versions, err := moduleVersions(parts)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	patched, err := buildPatched(bg, dir)
	if err != nil {
		return err
	}
	for _, p := range parts {
		p.m = matrix{}
		for _, t := range p.topics {
			binary := self()
			if t.steps {
				binary = patched
			}
			m, err := runMatrix(bg, binary, p.libs, t.scenarios)
			if err != nil {
				return err
			}
			maps.Copy(p.m, m)
		}
	}
	return os.WriteFile(path, []byte(report(parts, versions)), 0o644)
}

const reportHead = `# The same scenarios for all Go breakers

` + "`" + `make compare` + "`" + ` writes this file; do not edit it. Each row is a scenario: something that a user of a circuit breaker
would want, with the reason and the [rule](semantics.md) of this library from which it comes. Each column is a
library, unmodified, at the latest version that the Go module proxy names, set up for the scenario in the best way
that its documentation offers. The scenarios and the adapters are in ` + "`" + `internal/compare/behaviour` + "`" + `. Each cell runs in
its own process, in most cases in virtual time. If a library hangs or ends the process, that is the result of the
cell. The rows on the clock run with a patched standard library, in which the wall clock can be set independently of
the monotonic one.

An adapter does what a user of the library would have to write, and no more:

- If a scenario needs another part of the library's module, such as a time limit for calls, it is put around or into
  the breaker.
- Some libraries count every error as a failure. They see a success if a call was cancelled or an inner breaker
  rejected it. If the library allows that, such a call is not reported at all. The caller gets the error unchanged.
- No adapter checks a call's context for the library.

The authors of grpcircuit wrote the scenarios from its rules, many of them after bugs seen in the other libraries.
They show what these authors consider important. A library with another purpose is not bad because it fails them.
Failures of grpcircuit are shown too. The rows J01 to J08 and W01 to W06 were written after faults of grpcircuit
itself had been fixed. J01 to J04 use the preset of each library: what its constructor makes without settings, or with
the few that it requires.

| mark | meaning |
|---|---|
| ✓ | behaves as described |
| ✗ | behaves differently; the last section describes how |
| ✗! | the process hangs or ends |
| ○ | not possible: the library has no such feature |
| – | does not apply: there is nothing to test, it is not the purpose of the library, or it needs a feature that has its ○ in another row |

`

const summaryHead = `The rows are not independent: one cause can make a library fail several of them. For example, a fixed window that
drops calls from before it makes gobreaker fail T08 and L06.

`

func report(parts []*part, versions map[string]string) string {
	var s strings.Builder
	s.WriteString(reportHead)
	writeVersions(&s, parts, versions)
	s.WriteString("## Summary\n\n" + summaryHead)
	for _, p := range parts {
		p.writeSummary(&s)
	}
	for _, p := range parts {
		for _, t := range p.topics {
			p.writeTopic(&s, t)
		}
	}
	s.WriteString("## Failures\n")
	for _, p := range parts {
		p.writeFails(&s)
	}
	return s.String()
}

// moduleVersions reads go.mod, because a test binary does not contain the versions of its modules.
func moduleVersions(parts []*part) (map[string]string, error) {
	args := []string{"list", "-m", "-f", "{{.Path}} {{if .Replace}}this tree{{else}}{{.Version}}{{end}}"}
	for _, p := range parts {
		for _, l := range p.libs {
			args = append(args, l.module)
		}
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		versions[path] = version
	}
	return versions, nil
}

func writeVersions(s *strings.Builder, parts []*part, versions map[string]string) {
	s.WriteString("## Libraries\n\n| column | module | version | used as |\n|---|---|---|---|\n")
	for _, p := range parts {
		for _, l := range p.libs {
			fmt.Fprintf(s, "| %s | %s | %s | %s |\n", l.name, l.module, versions[l.module], l.form)
		}
	}
	s.WriteString("\nFor these the proxy serves this version but names no latest one; " +
		"newer versions may behave differently:\n\n")
	for _, m := range unlisted {
		fmt.Fprintf(s, "- %s %s\n", m, versions[m])
	}
	s.WriteString("\n" + notServed + "\n\n")
}

func (p *part) writeSummary(s *strings.Builder) {
	all := rows(p.topics)
	fmt.Fprintf(s, "%s: %d scenarios.\n\n| library | ✓ | ✗ | ✗! | ○ | – |\n|---|--:|--:|--:|--:|--:|\n", p.title, len(all))
	for _, l := range p.libs {
		n := map[string]int{}
		for _, sc := range all {
			n[marks[p.m[sc.id][l.name].Mark]]++
		}
		fmt.Fprintf(s, "| %s | %d | %d | %d | %d | %d |\n", l.name, n["✓"], n["✗"], n["✗!"], n["○"], n["–"])
	}
	s.WriteString("\n")
}

func (p *part) writeTopic(s *strings.Builder, t topic) {
	fmt.Fprintf(s, "## %s\n\n| | scenario |", t.title)
	for _, l := range p.libs {
		fmt.Fprintf(s, " %s |", l.name)
	}
	s.WriteString("\n|---|---|" + strings.Repeat(":-:|", len(p.libs)) + "\n")
	for _, sc := range t.scenarios {
		fmt.Fprintf(s, "| %s | %s |", sc.id, sc.title)
		for _, l := range p.libs {
			fmt.Fprintf(s, " %s |", marks[p.m[sc.id][l.name].Mark])
		}
		s.WriteString("\n")
	}
	s.WriteString("\nReason and rule of each row:\n\n")
	for _, sc := range t.scenarios {
		s.WriteString(item(fmt.Sprintf("%s: %s (%s)", sc.id, sc.why, sc.rule)))
	}
	s.WriteString("\n")
}

// writeFails lists the failures of each library. Scenarios with the same reason share a line.
func (p *part) writeFails(s *strings.Builder) {
	for _, l := range p.libs {
		fmt.Fprintf(s, "\n### %s\n\n", l.name)
		ids := map[string][]string{}
		var order []string
		for _, sc := range rows(p.topics) {
			v := p.m[sc.id][l.name]
			if v.Mark == pass || v.Mark == na {
				continue
			}
			reason := v.Reason
			if v.Mark == lacking {
				reason = "○ " + reason
			}
			if ids[reason] == nil {
				order = append(order, reason)
			}
			ids[reason] = append(ids[reason], sc.id)
		}
		for _, reason := range order {
			s.WriteString(item(strings.Join(ids[reason], ", ") + ": " + reason))
		}
		if order == nil {
			s.WriteString("Nothing.\n")
		}
	}
}

// item formats a list item, in lines of at most 120 columns.
func item(text string) string {
	var s strings.Builder
	s.WriteString("-")
	width := 1
	for word := range strings.FieldsSeq(text) {
		n := 1 + utf8.RuneCountInString(word)
		if width+n > 120 {
			s.WriteString("\n ")
			width = 1
		}
		s.WriteString(" " + word)
		width += n
	}
	s.WriteString("\n")
	return s.String()
}
