package behaviour

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The clock of a machine may be set by hand, by NTP after a suspend, or by a hypervisor after a migration. A test
// cannot do that, so these scenarios run in a binary with a patched standard library: time.Now reads a wall clock that
// stepClock sets, and a monotonic clock that it does not change, like those of the kernel. The libraries are not
// changed. The binary takes long to build, so only `make compare` builds it.
var clock = []*scenario{
	{
		id: "C01", title: "The clock is set back an hour while it is open: it probes on time", rule: "B36",
		why:   "otherwise it stays open for an hour more",
		needs: []feature{hasStates},
		wall:  true,
		run: func(c *cell) {
			b := c.make(want{openFor: briefly})
			b.open()
			c.step(-time.Hour)
			b.elapse()
			b.must(success, "the call after the open period, as the clock was set back during it")
		},
	},
	{
		id: "C02", title: "The clock is set forward an hour while it is open: it does not close early", rule: "B36",
		why:   "otherwise the open period ends too early",
		needs: []feature{hasStates},
		wall:  true,
		run: func(c *cell) {
			b := c.make(want{openFor: time.Minute})
			b.open()
			c.step(time.Hour)
			c.sleep(min(b.openFor/10, time.Second))
			b.mustNot("a call at the beginning of the open period, as the clock was set forth")
		},
	},
	{
		id: "C03", title: "The clock is set back an hour between two failures: both count", rule: "B36",
		why:   "otherwise the breaker does not open for an hour",
		needs: []feature{hasStates},
		wall:  true,
		run: func(c *cell) {
			c.failuresAround(-time.Hour)
		},
	},
	{
		id: "C04", title: "The clock is set forward an hour between two failures: both count", rule: "B36",
		why:   "an outage may begin when a virtual machine migrates",
		needs: []feature{hasStates},
		wall:  true,
		run: func(c *cell) {
			c.failuresAround(time.Hour)
		},
	},
}

// briefly is an open period for the scenarios above, which run in real time.
const briefly = time.Second

// stepClock sets the wall clock by d. It is nil in all binaries but the patched one.
var stepClock func(d time.Duration)

// failuresAround makes as many failures as open the breaker, and sets the clock in the middle of them.
func (c *cell) failuresAround(d time.Duration) {
	b := c.make(want{failures: 6, window: time.Minute})
	for range b.failures / 2 {
		b.must(failure, "one of the failures before the clock was set")
	}
	c.step(d)
	for range b.failures - b.failures/2 {
		b.must(failure, "one of the failures after the clock was set")
	}
	b.mustNot("a call after as many failures as configured, with the clock set between them")
}

// step sets the clock and checks that it is set.
func (c *cell) step(d time.Duration) {
	wall, mono := time.Now().Unix(), time.Now()
	stepClock(d)
	off := time.Duration(time.Now().Unix()-wall)*time.Second - d
	if off.Abs() > 5*time.Second || time.Since(mono).Abs() > 5*time.Second {
		panic("the clock was not set as it should be")
	}
}

// buildPatched builds the binary with the patched clock in dir and returns its path.
func buildPatched(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const read = "	sec, nsec, mono := runtimeNow()\n	if mono == 0 {"
	if strings.Count(string(text), read) != 1 {
		return "", fmt.Errorf("%s does not read the clock as it used to", source)
	}
	const stepped = "	sec, nsec, mono := runtimeNow()\n	sec += WallStep\n	if mono == 0 {"
	patched := strings.Replace(string(text), read, stepped, 1) +
		"\n// WallStep is how far the wall clock was set, in seconds.\nvar WallStep int64\n"
	patch, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	binary := filepath.Join(dir, "stepped.test")
	if err := os.WriteFile(patch, []byte(patched), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, source, patch), 0o600); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-tags", "clockstep", "-overlay", overlay,
		"-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the binary that sets the clock: %w\n%s", err, out)
	}
	return binary, nil
}
