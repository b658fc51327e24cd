// Benchcompare runs the benchmarks of package speed several times. It writes the output of go test to
// bench/benchmarks.txt, which git ignores, and a report with tables and ratios to docs/benchmarks.md.
//
//	go -C internal/compare run ./speed/benchcompare [-rounds 10] [-benchtime 50ms] [-root ../..] [-render]
//
// In each round every benchmark runs once, and ratios are computed within a round: absolute times mean little on a
// machine that also runs other programs.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 10, "number of times that each benchmark runs")
	benchtime := flag.Duration("benchtime", 50*time.Millisecond, "duration of each run")
	root := flag.String("root", "../..", "root of the repository, for bench/benchmarks.txt and docs/benchmarks.md")
	render := flag.Bool("render", false, "write the report from bench/benchmarks.txt, without running benchmarks")
	flag.Parse()
	if err := compare(*rounds, *benchtime, *root, *render); err != nil {
		fmt.Fprintln(os.Stderr, "benchcompare:", err)
		os.Exit(1)
	}
}

func compare(rounds int, benchtime time.Duration, root string, render bool) error {
	raw := filepath.Join(root, "bench", "benchmarks.txt")
	if !render {
		if rounds < 1 {
			return errors.New("-rounds must be at least 1")
		}
		text, err := runAll(rounds, benchtime)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(raw), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(raw, text, 0o644); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(raw)
	if err != nil {
		return err
	}
	f, err := parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", raw, err)
	}
	md, err := report(f)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "docs", "benchmarks.md"), md, 0o644)
}
