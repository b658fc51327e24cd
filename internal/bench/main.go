// Bench runs the benchmarks of packages breaker and interceptor and prints the ratio of each to the floor. The floor is
// the least that a breaker needs if it knows the time and counts a call: an atomic load, a clock reading and an atomic
// add.
//
//	go run ./internal/bench [-rounds 10] [-benchtime 200ms] [-strict]
//
// Machines are noisy, so absolute times mean little. In each round every benchmark runs once, right after the floor of
// its kind. Ratios are computed within a round. The program prints the median of the ratios, the smallest and the
// largest.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// targets are the largest allowed ratios, by package and benchmark. Benchmarks with one goroutine are compared with
// BenchmarkFloor, parallel ones with BenchmarkFloorParallel.
var targets = map[string]float64{
	"breaker Success":         1.7,
	"breaker SuccessParallel": 2.5,
	"breaker Rejection":       1.3,
	"interceptor Unary":       4.0,
}

var packages = []string{"breaker", "interceptor"}

func main() {
	rounds := flag.Int("rounds", 10, "how often each benchmark runs")
	benchtime := flag.Duration("benchtime", 200*time.Millisecond, "how long each run takes")
	strict := flag.Bool("strict", false, "fail if a ratio is above its target")
	flag.Parse()
	over, err := run(os.Stdout, *rounds, *benchtime)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *strict && over {
		os.Exit(1)
	}
}

func run(out io.Writer, rounds int, benchtime time.Duration) (over bool, err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(out, "%s, %s/%s, %d cores, %d rounds of %v\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), rounds, benchtime)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "package\tbenchmark\tns/op\tx floor\tfrom - to\ttarget\tB/op\tallocs/op")
	for _, pkg := range packages {
		binary := filepath.Join(dir, pkg+".test")
		if text, err := exec.Command("go", "test", "-c", "-o", binary, "./"+pkg).CombinedOutput(); err != nil {
			return false, fmt.Errorf("go test -c ./%s: %w\n%s", pkg, err, text)
		}
		var results []result
		for round := range rounds {
			text, err := exec.Command(binary, "-test.run=^$", "-test.bench=.", "-test.benchmem",
				"-test.benchtime="+benchtime.String()).CombinedOutput()
			if err != nil {
				return false, fmt.Errorf("benchmarks of %s: %w\n%s", pkg, err, text)
			}
			results = append(results, parse(text, round)...)
		}
		over = write(table, pkg, results) || over
	}
	return over, table.Flush()
}

// result is one line of output.
type result struct {
	round  int
	name   string
	ns     float64
	bytes  string
	allocs string
}

func parse(text []byte, round int) (rs []result) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		r := result{round: round, name: name, bytes: "-", allocs: "-"}
		for i := 2; i+1 < len(f); i += 2 {
			switch f[i+1] {
			case "ns/op":
				r.ns, _ = strconv.ParseFloat(f[i], 64)
			case "B/op":
				r.bytes = f[i]
			case "allocs/op":
				r.allocs = f[i]
			}
		}
		if r.ns > 0 {
			rs = append(rs, r)
		}
	}
	return rs
}

// write adds a line for each benchmark and reports whether one is over its target.
func write(table io.Writer, pkg string, rs []result) (over bool) {
	floor := map[string]float64{} // by name and round
	var names []string
	for _, r := range rs {
		if strings.HasPrefix(r.name, "Floor") {
			floor[r.name+strconv.Itoa(r.round)] = r.ns
		}
		if !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	for _, name := range names {
		base := "Floor"
		if strings.Contains(name, "Parallel") {
			base = "FloorParallel"
		}
		var ns, ratios []float64
		var last result
		for _, r := range rs {
			if r.name != name {
				continue
			}
			last = r
			ns = append(ns, r.ns)
			if f := floor[base+strconv.Itoa(r.round)]; f > 0 {
				ratios = append(ratios, r.ns/f)
			}
		}
		if len(ratios) == 0 {
			continue
		}
		slices.Sort(ns)
		slices.Sort(ratios)
		ratio, target := ratios[len(ratios)/2], "-"
		if limit, ok := targets[pkg+" "+name]; ok {
			target = fmt.Sprintf("%.1f", limit)
			if ratio > limit {
				over = true
				target += " OVER"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%.1f\t%.2f\t%.2f - %.2f\t%s\t%s\t%s\n",
			pkg, name, ns[len(ns)/2], ratio, ratios[0], ratios[len(ratios)-1], target, last.bytes, last.allocs)
	}
	return over
}
