package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/grpcircuit/grpcircuit/internal/compare/speed"
)

// printed returns the output of two rounds on a machine with two cores. Every benchmark takes the time other, except
// those in special. The second round is three times as slow as the first; ratios must not show that.
func printed(other float64, special map[string]float64) string {
	var b strings.Builder
	b.WriteString("# command go run .\n# go go1.99 plan9/mips\n# cores 2\n# load 0.25\n" +
		"# version google.golang.org/grpc v1.2.3\n")
	for round := range 2 {
		fmt.Fprintf(&b, "# round %d\ncpu: abacus\n", round+1)
		slow := float64(1 + 2*round)
		line := func(name string, ns float64) {
			fmt.Fprintf(&b, "%s \t 100 \t %g ns/op \t 0 B/op \t 0 allocs/op\n", name, ns*slow)
		}
		for _, w := range speed.Works {
			for _, p := range speed.Peers() {
				for _, c := range p.Cases {
					if c.Work != w {
						continue
					}
					name := c.BenchmarkName(p)
					ns := other
					if v, ok := special[name]; ok {
						ns = v
					}
					line("BenchmarkOne/"+name, ns)
					line("BenchmarkParallel/"+name+"-2", ns)
					line("BenchmarkParallel/"+name+"-8", ns)
				}
			}
		}
		for pair := range 6 {
			for i, conn := range []string{speed.ConnAgain, speed.ConnGuarded, speed.ConnBare} {
				line(fmt.Sprintf("BenchmarkConn/pair=%d/%s-2", pair, conn), 1000+special[conn]+float64(i*pair%2))
			}
		}
	}
	return b.String()
}

func parsed(t *testing.T, text string) *figures {
	t.Helper()
	f, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func results(f *figures) string {
	var b strings.Builder
	for _, x := range f.targets() {
		b.WriteString(map[bool]string{true: "+", false: "-"}[x.met])
	}
	return b.String()
}

func TestTargets(t *testing.T) {
	ours := map[string]float64{
		"success/grpcircuit/Do":                     50,
		"success/the_floor/as_in_make_bench":        30,
		"success/mercari|go-circuitbreaker/Do":      1,  // has no window
		"success/bytedance|gopkg/IsAllowed_Succeed": 80, // reads no clock
		"consecutive/grpcircuit/Acquire_Done":       25,
		"consecutive/eapache|go-resiliency/Run":     10,
		"open/grpcircuit/Do":                        99,
		"open/eapache|go-resiliency/Run":            1, // reads no clock
		"unary/grpcircuit/Guard.Unary":              10,
	}
	f := parsed(t, printed(100, ours))
	if got, want := results(f), "-+-+-+"+"+"+"-+-+-+"+"+"+"+"+"+"+"+"; got != want {
		t.Errorf("targets %s, want %s", got, want)
	}
	for i, want := range []string{"0.62 (0.62 - 0.62)", "0.50 (0.50 - 0.50)"} {
		if got := f.targets()[i].measured; got != want {
			t.Errorf("target %d: measured %s, want %s", i, got, want)
		}
	}

	ours["success/grpcircuit/Do"] = 52
	ours["consecutive/grpcircuit/Acquire_Done"] = 26
	ours["open/grpcircuit/Do"] = 102
	ours["open/grpcircuit/Acquire_Done"] = 102
	ours["unary/grpcircuit/Guard.Unary"] = 11
	ours[speed.ConnGuarded] = 50
	f = parsed(t, printed(100, ours))
	if got, want := results(f), "------"+"-"+"------"+"-"+"+"+"-"+"-"; got != want {
		t.Errorf("targets %s, want %s", got, want)
	}
}

func TestAllocationsMissTheTarget(t *testing.T) {
	text := printed(100, nil)
	line := "BenchmarkOne/unary/grpcircuit/Guard.Unary \t 100 \t 300 ns/op \t 0 B/op \t "
	if !strings.Contains(text, line+"0 allocs/op") {
		t.Fatal("no such line")
	}
	f := parsed(t, strings.Replace(text, line+"0 allocs/op", line+"1 allocs/op", 1))
	if got := f.noAllocations(); got.met || got.measured != "1" {
		t.Errorf("one allocation in the second round: %+v", got)
	}
}

func TestReport(t *testing.T) {
	f := parsed(t, printed(100, map[string]float64{"open/grpcircuit/Acquire_Done": 40}))
	md, err := report(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- Command: `go run .`",
		"abacus, 2 cores; go1.99 plan9/mips, grpc v1.2.3; load average before the run 0.25",
		"| **grpcircuit** | Acquire, Done |  | 80.0 | 1.00 | 80.0 | 1.00 | 80.0 | 1.00 | 0 | 0 |",
		"| sony/gobreaker | two-step |  | 200 | 2.50 | 200 | 2.50 | 200 | 2.50 | 0 | 0 |",
		"- go-kratos/aegis: rejects at random: it cannot be kept open",
		"all orders: 12 times, 3000 calls each",
	} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(string(md), "NaN") {
		t.Error("the report has NaN")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"",
		"BenchmarkOne/x 100 12 ns/op\n",
		"# cores 2\n# round 1\nBenchmarkOne/x 100 twelve ns/op\n",
	} {
		if _, err := parse([]byte(text)); err == nil {
			t.Errorf("no error for %q", text)
		}
	}
}

// TestFailures makes the check of the fastest peer fail in one round and that of another peer in both.
func TestFailures(t *testing.T) {
	text := printed(100, map[string]float64{"open/sony|gobreaker/Execute": 50})
	lines := strings.SplitAfter(text, "\n")
	rounds := 0
	for i, line := range lines {
		if strings.HasPrefix(line, "# round") {
			rounds++
		}
		name, _, _ := strings.Cut(line, " ")
		if (name == "BenchmarkOne/open/sony|gobreaker/Execute" && rounds == 2) ||
			name == "BenchmarkOne/open/cep21|circuit/Run" {
			lines[i] = name + " \t --- FAIL: " + name + "\n    bench_test.go:82: 8 of 10 calls\n"
		}
	}
	f := parsed(t, strings.Join(lines, ""))
	if len(f.failures) != 3 {
		t.Fatalf("%d failures, want 3: %v", len(f.failures), f.failures)
	}
	one := f.sides()[0]
	if got := f.fastest(fullWork(entries(speed.Open)), one).name(); got != "sony/gobreaker, Execute" {
		t.Errorf("the fastest is %s", got)
	}
	md, err := report(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| `BenchmarkOne/open/cep21\\|circuit/Run` | bench_test.go:82: 8 of 10 calls |",
		"| cep21/circuit | Run |  | - | - | 200 | 1.00 |",
		"| sony/gobreaker | Execute |  | 50.0 | 0.50 |",
	} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(string(md), "NaN") || strings.Contains(string(md), "Inf") {
		t.Error("the report has NaN or Inf")
	}
}

func TestFinished(t *testing.T) {
	for text, want := range map[string]bool{
		"BenchmarkX 1 2 ns/op\nPASS\n": true, "--- FAIL: BenchmarkX\nFAIL\n": true,
		"--- FAIL: BenchmarkX\npanic: no\n\ngoroutine 1\n": false, "": false,
	} {
		if got := finished([]byte(text)); got != want {
			t.Errorf("finished(%q) = %v, want %v", text, got, want)
		}
	}
}
