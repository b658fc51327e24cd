package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// figures holds the measurements of all rounds.
type figures struct {
	command, toolchain, cpu, load string
	cores                         int
	versions                      map[string]string // by module
	rounds                        []map[string]metrics
	conns                         []connPair
	failures                      []failure
}

// failure is a run of a benchmark whose check failed. It has no figures.
type failure struct{ benchmark, reason string }

// metrics holds the figures in a line of a benchmark, by unit.
type metrics map[string]float64

// connPair holds the time of a real call on each connection in nanoseconds, by the connection's name.
type connPair map[string]float64

// row returns the name of a line: the name of a benchmark and the GOMAXPROCS it ran with, unless that is 1.
func row(name string, procs int) string {
	if procs == 1 {
		return name
	}
	return name + "-" + strconv.Itoa(procs)
}

var connLine = regexp.MustCompile(`^BenchmarkConn/pair=(\d+)/([a-z]+)`)

func parse(text []byte) (*figures, error) {
	f := &figures{versions: map[string]string{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	pair := -1
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, noteRound):
			f.rounds = append(f.rounds, map[string]metrics{})
			pair = -1
		case strings.HasPrefix(line, noteCommand):
			f.command = strings.TrimSpace(strings.TrimPrefix(line, noteCommand))
		case strings.HasPrefix(line, noteGo):
			f.toolchain = strings.TrimPrefix(line, noteGo)
		case strings.HasPrefix(line, noteCores):
			f.cores, _ = strconv.Atoi(strings.TrimPrefix(line, noteCores))
		case strings.HasPrefix(line, noteLoad):
			f.load = strings.TrimPrefix(line, noteLoad)
		case strings.HasPrefix(line, noteVersion):
			module, version, _ := strings.Cut(strings.TrimPrefix(line, noteVersion), " ")
			f.versions[module] = version
		case strings.HasPrefix(line, "cpu: "):
			f.cpu = strings.TrimPrefix(line, "cpu: ")
		case strings.HasPrefix(line, "Benchmark") && strings.Contains(line, "--- FAIL"):
			x := failure{benchmark: strings.Fields(line)[0]}
			if lines.Scan() {
				x.reason = strings.TrimSpace(lines.Text())
			}
			f.failures = append(f.failures, x)
		case strings.HasPrefix(line, "Benchmark"):
			name, m, err := parseLine(line)
			if err != nil {
				return nil, err
			}
			if len(f.rounds) == 0 {
				return nil, fmt.Errorf("%s comes before the first round", name)
			}
			if c := connLine.FindStringSubmatch(name); c != nil {
				if n, _ := strconv.Atoi(c[1]); n != pair {
					pair = n
					f.conns = append(f.conns, connPair{})
				}
				f.conns[len(f.conns)-1][c[2]] = m["ns/op"]
				continue
			}
			f.rounds[len(f.rounds)-1][name] = m
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(f.rounds) == 0 || f.cores == 0 {
		return nil, errors.New("not the output of benchcompare")
	}
	return f, nil
}

// parseLine parses a line such as "BenchmarkOne/success/x/Do 100 12.5 ns/op 0 B/op".
func parseLine(line string) (name string, m metrics, err error) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return "", nil, fmt.Errorf("not the line of a benchmark: %q", line)
	}
	m = metrics{}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", fields[0], err)
		}
		m[fields[i+1]] = v
	}
	return fields[0], m, nil
}

// all returns a figure of a benchmark for each round that has it.
func (f *figures) all(name, unit string) []float64 {
	var vs []float64
	for _, r := range f.rounds {
		if v, ok := r[name][unit]; ok {
			vs = append(vs, v)
		}
	}
	return vs
}

// ratios returns the time of one benchmark divided by that of another, for each round that has both.
func (f *figures) ratios(name, by string) []float64 {
	var vs []float64
	for _, r := range f.rounds {
		a, ok := r[name]["ns/op"]
		b := r[by]["ns/op"]
		if ok && b > 0 {
			vs = append(vs, a/b)
		}
	}
	return vs
}
