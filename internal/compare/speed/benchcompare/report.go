package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/grpcircuit/grpcircuit/internal/compare/speed"
)

//go:embed report.md.tmpl
var reportText string

// report returns the text of docs/benchmarks.md. Its prose is in report.md.tmpl; every figure comes from f.
func report(f *figures) ([]byte, error) {
	t, err := template.New("report").Funcs(template.FuncMap{
		"work": func(w string) string { return f.workTable(speed.Work(w)) },
	}).Parse(reportText)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Command": f.command, "Rounds": len(f.rounds), "Go": f.toolchain, "Load": f.load, "CPU": f.cpu, "Cores": f.cores,
		"Targets": f.targetTable(), "Peers": f.peerTable(), "Idle": f.idleTable(), "Keys": f.keyTable(),
		"Conns": f.connTable(),
		"Pairs": len(f.conns), "GRPC": f.versions[grpcModule], "Failures": f.failureTable(),
	})
	return out.Bytes(), err
}

// table holds lines of cells; the first line is the head.
type table struct{ lines [][]string }

func newTable(head ...string) *table { return &table{[][]string{head}} }

func (t *table) add(cells ...string) { t.lines = append(t.lines, cells) }

// markdown formats the table. The columns after the first texts ones hold numbers.
func (t *table) markdown(texts int) string {
	var b strings.Builder
	for i, line := range t.lines {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			for j := range line {
				b.WriteString("|" + map[bool]string{true: " --- ", false: " ---: "}[j < texts])
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// number formats v with three significant digits.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v == 0:
		return "0"
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// count formats v as an integer.
func count(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func (f *figures) targetTable() string {
	t := newTable("target", "measured", "limit", "against", "result")
	for _, x := range f.targets() {
		result := "met"
		if !x.met {
			result = "**missed**"
		}
		t.add(x.what, x.measured, x.limit, x.against, result)
	}
	return t.markdown(5)
}

func (f *figures) peerTable() string {
	t := newTable("library", "version", "window of a closed breaker", "remarks")
	for _, p := range speed.Peers() {
		if p.Module == "" {
			continue
		}
		version := f.versions[p.Module]
		if p.Name == speed.Ours {
			version = "this tree"
		}
		t.add(p.Name, version, p.Window, p.Note)
	}
	return t.markdown(4)
}

// workTable has a line for each form of each library, sorted by the time on one goroutine. Below it come the libraries
// that cannot do the work.
func (f *figures) workTable(w speed.Work) string {
	es := entries(w)
	sides := f.sides()
	base := f.fastest(named(es, speed.Ours), sides[0])
	one := func(e entry) string { return sides[0].row(e.peer, e.c) }
	slices.SortStableFunc(es, f.byTime(sides[0]))
	head := []string{"library", "form", "remark"}
	for _, s := range sides {
		head = append(head, s.name+", ns", "x")
	}
	t := newTable(append(head, "B", "allocs")...)
	for _, e := range es {
		name := e.peer.Name
		if name == speed.Ours {
			name = "**" + name + "**"
		}
		line := []string{name, e.c.Form, e.peer.Apart[w]}
		for _, s := range sides {
			line = append(line,
				number(median(f.all(s.row(e.peer, e.c), "ns/op"))),
				number(median(f.ratios(s.row(e.peer, e.c), s.row(base.peer, base.c)))))
		}
		line = append(line, count(median(f.all(one(e), "B/op"))), count(median(f.all(one(e), "allocs/op"))))
		t.add(line...)
	}
	return t.markdown(3) + lacking(w)
}

// lacking lists the libraries that cannot do the work, with the reasons.
func lacking(w speed.Work) string {
	var reasons []string
	who := map[string][]string{}
	for _, p := range speed.Peers() {
		if why, ok := p.Lacks[w]; ok {
			if who[why] == nil {
				reasons = append(reasons, why)
			}
			who[why] = append(who[why], p.Name)
		}
	}
	var b strings.Builder
	for i, why := range reasons {
		if i == 0 {
			b.WriteString("\nNot here:\n\n")
		}
		fmt.Fprintf(&b, "- %s: %s\n", strings.Join(who[why], ", "), why)
	}
	return b.String()
}

// failureTable is empty if no check failed.
func (f *figures) failureTable() string {
	if len(f.failures) == 0 {
		return ""
	}
	t := newTable("benchmark", "error of its check")
	for _, x := range f.failures {
		t.add("`"+strings.ReplaceAll(x.benchmark, "|", "\\|")+"`", x.reason)
	}
	return t.markdown(2)
}

func (f *figures) idleTable() string {
	type line struct {
		name              string
		bytes, goroutines float64
	}
	var lines []line
	for _, p := range speed.Peers() {
		if p.Idle != nil {
			name := row("BenchmarkIdle/"+p.BenchmarkName(), f.cores)
			lines = append(lines, line{
				p.Name, median(f.all(name, "bytes/breaker")), median(f.all(name, "goroutines/breaker")),
			})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.bytes, b.bytes) })
	t := newTable("library", "bytes", "goroutines")
	for _, l := range lines {
		t.add(l.name, count(l.bytes), count(l.goroutines))
	}
	return t.markdown(1)
}

func (f *figures) keyTable() string {
	head := []string{"ns a call, by number of keys"}
	for _, keys := range speed.KeyCounts {
		head = append(head, strconv.Itoa(keys))
	}
	for _, keys := range speed.KeyCounts[2:] {
		head = append(head, "bytes a key, with "+strconv.Itoa(keys))
	}
	t := newTable(head...)
	for _, k := range speed.Keyeds() {
		name := func(keys int) string { return fmt.Sprintf("BenchmarkKeys/%s/keys=%d", k.BenchmarkName(), keys) }
		line := []string{k.Name}
		for _, keys := range speed.KeyCounts {
			line = append(line, number(median(f.all(name(keys), "ns/op"))))
		}
		for _, keys := range speed.KeyCounts[2:] {
			line = append(line, count(median(f.all(name(keys), "bytes/key"))))
		}
		t.add(line...)
	}
	return t.markdown(1)
}

func (f *figures) connTable() string {
	t := newTable("connection", "ns a call", "difference to without, ns", "95% interval, from", "to")
	for _, c := range []struct{ name, what string }{
		{speed.ConnBare, "without"}, {speed.ConnAgain, "another without"}, {speed.ConnGuarded, "with a guard"},
	} {
		line := []string{c.what, number(f.connTime(c.name)), "", "", ""}
		if c.name != speed.ConnBare {
			d := f.connDifference(c.name, speed.ConnBare)
			line = append(line[:2], count(d.median), count(d.low), count(d.high))
		}
		t.add(line...)
	}
	return t.markdown(1)
}
