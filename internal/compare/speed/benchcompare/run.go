package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpcircuit/grpcircuit/internal/compare/speed"
)

// Lines about a run besides the output of the benchmarks; benchstat ignores them.
const (
	noteRound   = "# round "
	noteCommand = "# command "
	noteGo      = "# go "
	noteCores   = "# cores "
	noteVersion = "# version "
	noteLoad    = "# load "
)

const grpcModule = "google.golang.org/grpc"

// manyProcs is the GOMAXPROCS of the third kind of run.
const manyProcs = 8

// steps returns the commands of a round. connCalls is the number of calls in one run of a real call. It is small, so
// that both runs of a pair measure the machine in the same condition.
func steps(round int, benchtime time.Duration) [][]string {
	const connCalls = "3000x"
	procs := strconv.Itoa(runtime.NumCPU())
	if runtime.NumCPU() != manyProcs {
		procs += "," + strconv.Itoa(manyProcs)
	}
	all := [][]string{
		{"One", "-test.cpu=1", "-test.benchtime=" + benchtime.String()},
		{"Parallel", "-test.cpu=" + procs, "-test.benchtime=" + benchtime.String()},
		{"Keys", "-test.cpu=1", "-test.benchtime=" + benchtime.String()},
		{"Conn", "-test.benchtime=" + connCalls},
	}
	if round == 1 { // the memory of a breaker is the same in each round
		all = append(all, []string{"Idle", "-test.benchtime=1x"})
	}
	return all
}

// runAll returns the output of all rounds. A benchmark whose check fails is part of that, and of the report.
func runAll(rounds int, benchtime time.Duration) ([]byte, error) {
	dir, err := os.MkdirTemp("", "benchcompare")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "speed.test")
	if text, err := exec.Command("go", "test", "-c", "-o", binary, "./speed").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go test -c ./speed: %w\n%s", err, text)
	}
	var raw bytes.Buffer
	if err := writeNotes(&raw); err != nil {
		return nil, err
	}
	start := time.Now()
	for round := 1; round <= rounds; round++ {
		fmt.Fprintf(&raw, "%s%d\n", noteRound, round)
		for _, step := range steps(round, benchtime) {
			args := append([]string{"-test.run=^$", "-test.benchmem", "-test.bench=^Benchmark" + step[0] + "$"}, step[1:]...)
			text, err := exec.Command(binary, args...).CombinedOutput()
			raw.Write(text)
			if err != nil && !finished(text) {
				return nil, fmt.Errorf("round %d, %s: %w\n%s", round, strings.Join(args, " "), err, text)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d, after %v\n", round, rounds, time.Since(start).Round(time.Second))
	}
	return raw.Bytes(), nil
}

// finished reports whether a test binary ran to its end, whether it passed or not.
func finished(text []byte) bool {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	verdict := lines[len(lines)-1]
	return verdict == "PASS" || verdict == "FAIL"
}

func writeNotes(raw *bytes.Buffer) error {
	fmt.Fprintf(raw, "%sgo -C internal/compare run ./speed/benchcompare %s\n", noteCommand, strings.Join(os.Args[1:], " "))
	fmt.Fprintf(raw, "%s%s %s/%s\n", noteGo, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(raw, "%s%d\n", noteCores, runtime.NumCPU())
	// The load of the machine before the first round, if the system reports it: a busy machine changes the ratios.
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Fprintf(raw, "%s%s\n", noteLoad, strings.Fields(string(load))[0])
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return fmt.Errorf("the binary holds no module versions")
	}
	versions := map[string]string{}
	for _, m := range info.Deps {
		versions[m.Path] = m.Version
	}
	modules := []string{grpcModule}
	for _, p := range speed.Peers() {
		if p.Module != "" && p.Name != speed.Ours && !slices.Contains(modules, p.Module) {
			modules = append(modules, p.Module)
		}
	}
	for _, m := range modules {
		v, ok := versions[m]
		if !ok {
			return fmt.Errorf("the binary holds no version of %s", m)
		}
		fmt.Fprintf(raw, "%s%s %s\n", noteVersion, m, v)
	}
	return nil
}
