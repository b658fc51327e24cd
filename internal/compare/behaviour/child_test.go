package behaviour

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// cellEnv is set in a child process. Its value is the name of the library, a slash, and the id of the scenario.
const cellEnv = "GRPCIRCUIT_COMPARE_CELL"

// limit is the longest real time of a cell. In a bubble most take milliseconds.
const limit = 60 * time.Second

var write = flag.String("write", "", "run everything and write the report to this file, instead of testing")

func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case os.Getenv(cellEnv) != "":
		if err := flag.Set("test.run", "^TestCell$"); err != nil {
			panic(err)
		}
		m.Run()
		os.Exit(2) // no verdict
	case *write != "":
		if err := writeReport(*write); err != nil {
			fmt.Fprintln(os.Stderr, "behaviour:", err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// TestCell runs the cell of a child process. It is a test because synctest needs a testing.T. In the parent it checks
// that a child gives a verdict.
func TestCell(t *testing.T) {
	name := os.Getenv(cellEnv)
	if name == "" {
		wantCell(t, grpcircuit, "T01", pass)
		return
	}
	libName, id, _ := strings.Cut(name, "/")
	lib, sc := findLibrary(libName), findScenario(id)
	if lib == nil || sc == nil {
		fmt.Fprintln(os.Stderr, errHarness, name)
		return
	}
	c := &cell{tb: t, lib: lib, wall: sc.wall}
	if sc.wall {
		c.run(sc)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		c.tb = t
		// A bubble's clock starts in the year 2000. A library that remembers when the program started would see an earlier
		// time, so move the clock to well after that.
		time.Sleep(40 * 365 * 24 * time.Hour)
		c.run(sc)
	})
}

func (c *cell) run(sc *scenario) {
	for _, f := range sc.needs {
		if l, ok := c.lib.lacks[f]; ok {
			if l.excuse || hallmarks[f] != sc.id {
				c.notApplicable(l.why)
			}
			c.give(verdict{Mark: lacking, Reason: l.why})
		}
	}
	sc.run(c)
	c.give(verdict{Mark: pass})
}

// runCell runs one scenario with one library in its own process.
func runCell(ctx context.Context, binary string, lib *library, sc *scenario, limit time.Duration) (verdict, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return verdict{}, err
	}
	defer in.Close()
	defer out.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.timeout=0")
	cmd.Env = append(os.Environ(), cellEnv+"="+lib.name+"/"+sc.id)
	cmd.ExtraFiles = []*os.File{out}
	var stderr bytes.Buffer
	cmd.Stdout = &stderr // a library's log, or the runtime's message when the process dies
	cmd.Stderr = &stderr
	runErr := cmd.Run()
	out.Close()
	text, err := io.ReadAll(in)
	if err != nil {
		return verdict{}, err
	}
	var v verdict
	switch {
	case len(text) > 0:
		err := json.Unmarshal(text, &v)
		return v, err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return verdict{Mark: hang, Reason: "never ends"}, nil
	case strings.Contains(stderr.String(), "all goroutines in bubble are blocked"):
		return verdict{Mark: hang, Reason: "never ends"}, nil
	case strings.Contains(stderr.String(), errHarness.Error()), strings.Contains(stderr.String(), "--- FAIL") &&
		!strings.Contains(stderr.String(), "panic: "):
		return verdict{}, fmt.Errorf("%s on %s: %w\n%s", sc.id, lib.name, runErr, stderr.String())
	default:
		return verdict{Mark: crash, Reason: "kills the process: " + lastWords(&stderr)}, nil
	}
}

var noise = regexp.MustCompile(`0x[0-9a-f]+|goroutine \d+|\[recovered.*\]`)

// lastWords returns the line in which the runtime reports why the process died.
func lastWords(output io.Reader) string {
	lines := bufio.NewScanner(output)
	last := "without a message"
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			last = strings.TrimSpace(noise.ReplaceAllString(line, ""))
		}
	}
	return last
}

// self returns the path of the running binary.
func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

func findLibrary(name string) *library {
	for _, l := range slices.Concat(libraries, grpcLibraries, fakes) {
		if l.name == name {
			return l
		}
	}
	return nil
}

func findScenario(id string) *scenario {
	for _, sc := range scenarios {
		if sc.id == id {
			return sc
		}
	}
	return nil
}
