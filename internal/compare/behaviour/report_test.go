package behaviour

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
)

// A part of the report is a set of rows on a set of columns.
type part struct {
	title  string
	libs   []*library
	topics []topic
	m      matrix
}

// unlisted are modules of which the proxy serves the version in go.mod and no list of versions: which one is the latest is not
// known.
var unlisted = []string{cep21Circuit.module, mercariBreaker.module, goresilienceRunner.module}

// notServed is a breaker that was to be in the report and that the module proxy has not got.
const notServed = "The gRPC adapter of github.com/alibaba/sentinel-golang, a module of its own, is missing: the proxy does not serve it."

// marks are what stands in the tables.
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

const reportHead = `# The other breakers, asked the same questions

Written by ` + "`make compare`" + `; do not edit. Each row is a scenario: something that a user of a circuit breaker would want, with the
reason, and the [rule](semantics.md) of this library that it comes from. Each column is a library, unmodified, at the latest version that the Go
module proxy names, set up for the scenario in the best way that its documentation offers. The scenarios and the adapters are in
` + "`internal/compare/behaviour`" + `. Each mark comes from a process of its own, most of them in virtual time, so that a library which hangs
or kills the process is a result and not the end. The rows on the clock run on a patched standard library, whose wall clock can be
set apart from the monotonic one.

An adapter does what a user of the library would have to write, and no more:

- What else the library's module has, such as a time limit for calls, is put around or into the breaker where a scenario asks for it.
- To a library that takes every error for a failure, a call that was cancelled, or rejected by a breaker further in, looks like a
  success; one that is told how a call ended is told nothing then, if it allows that. The caller gets the error as it was.
- No adapter looks at a call's context in the library's place.

The scenarios were written by the authors of grpcircuit, from its rules, and many after bugs seen in the others. They ask what these
authors think matters; a library that was made for something else is not bad for failing them. What grpcircuit fails stands here too.
The rows J01 to J08 and W01 to W06 were written after faults of grpcircuit itself, once it was mended. J01 to J04 use the preset of
each library, that is, what its constructor makes without settings, or with the few that it cannot do without.

| mark | meaning |
|---|---|
| ✓ | does what is asked |
| ✗ | does something else; the last section says what |
| ✗! | the process hangs or dies |
| ○ | cannot, as it has no such thing |
| – | does not apply: there is nothing to ask, it is beside what the library is for, or it rests on a feature that has its ○ in another row |

`

const summaryHead = `The rows are not independent: one cause can cost a library several of them, as a fixed window that drops calls begun before it costs
gobreaker T08 and L06.

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
	s.WriteString("## What fails, and how\n")
	for _, p := range parts {
		p.writeFails(&s)
	}
	return s.String()
}

// moduleVersions asks go.mod: a test binary does not know what it was built from.
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
	s.WriteString("\nOf these the proxy serves this very version and names no latest; there may be newer ones that do better:\n\n")
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
	s.WriteString("\nWhy, and the rule:\n\n")
	for _, sc := range t.scenarios {
		fmt.Fprintf(s, "- %s: %s (%s)\n", sc.id, sc.why, sc.rule)
	}
	s.WriteString("\n")
}

// writeFails says for each library what it did instead. Scenarios with the same reason share a line.
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
			fmt.Fprintf(s, "- %s: %s\n", strings.Join(ids[reason], ", "), reason)
		}
		if order == nil {
			s.WriteString("Nothing.\n")
		}
	}
}
