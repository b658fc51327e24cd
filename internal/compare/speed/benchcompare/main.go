// Benchcompare runs the benchmarks of package speed round after round and writes what came out to docs/benchmarks.txt, as go
// test printed it, and docs/benchmarks.md, as tables and ratios.
//
//	go -C internal/compare run ./speed/benchcompare [-rounds 10] [-benchtime 50ms] [-docs ../../docs] [-render]
//
// In each round every benchmark runs once, and ratios are taken within the round: absolute times say little on a machine that
// does other things too.
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
	rounds := flag.Int("rounds", 10, "how often each benchmark runs")
	benchtime := flag.Duration("benchtime", 50*time.Millisecond, "how long each run takes")
	docs := flag.String("docs", "../../docs", "where benchmarks.txt and benchmarks.md go")
	render := flag.Bool("render", false, "write benchmarks.md from the benchmarks.txt that is there, and run nothing")
	flag.Parse()
	if err := compare(*rounds, *benchtime, *docs, *render); err != nil {
		fmt.Fprintln(os.Stderr, "benchcompare:", err)
		os.Exit(1)
	}
}

func compare(rounds int, benchtime time.Duration, docs string, render bool) error {
	raw := filepath.Join(docs, "benchmarks.txt")
	if !render {
		if rounds < 1 {
			return errors.New("-rounds must be at least 1")
		}
		text, err := runAll(rounds, benchtime)
		if err != nil {
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
	return os.WriteFile(filepath.Join(docs, "benchmarks.md"), md, 0o644)
}
