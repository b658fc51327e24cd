package policyfile

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// versions returns two files with the same rules. They differ in each field of each Config except the enforcement.
func versions() [2]string {
	file := func(fields string) string {
		return fmt.Sprintf("circuitBreaker: {%s}\nmethodConfig:\n- name: [{service: a}, {service: b, tag: x}]\n"+
			"  circuitBreaker: {%[1]s, preset: lenient}\n", fields)
	}
	return [...]string{
		file("consecutiveFailures: 3, failingFor: 10ms, failureRatio: 0.3, minCalls: 10, window: 1s, " +
			"slowCall: 1s, slowRatio: 0.3, openFor: 1ms, maxOpenFor: 3ms, backoff: 1.5, jitter: 0.1, maxProbes: 3, " +
			"successesToClose: 1, probeTimeout: 1s, ramp: 1ms, maxConcurrent: 1000"),
		file("consecutiveFailures: 4, failingFor: -1s, failureRatio: 0.4, minCalls: 20, window: 2s, " +
			"slowCall: -1s, slowRatio: 0.4, openFor: 2ms, maxOpenFor: 4ms, backoff: 2, jitter: -1, maxProbes: 2, " +
			"successesToClose: 2, probeTimeout: 2s, ramp: -1s, maxConcurrent: -1"),
	}
}

// load holds the results of callers, with or without reloads of the policy.
type load struct {
	calls, rejected uint64
	p50, p99        time.Duration
}

// underLoad makes calls from 50 goroutines until during returns.
func underLoad(
	t *testing.T, g *breaker.Group, allowed map[breaker.Config]bool, during func(calls *atomic.Uint64),
) load {
	t.Helper()
	const callers = 50
	keys := []breaker.Key{
		{Service: "a"}, {Service: "a", Method: "M"}, {Service: "b", Tag: "x"}, {Service: "c"}, {Target: "t"},
	}
	var (
		wg              sync.WaitGroup
		mu              sync.Mutex
		took            []time.Duration // guarded by mu
		stop            atomic.Bool
		calls, rejected atomic.Uint64
	)
	for c := range callers {
		wg.Go(func() {
			var mine []time.Duration
			for i := 0; !stop.Load(); i++ {
				b := g.Get(keys[(c+i)%len(keys)])
				if cfg := b.Config(); !allowed[cfg] {
					t.Errorf("a Config that is in no file: %+v", cfg)
				}
				outcome := breaker.Success
				if i%40 < 2 {
					outcome = breaker.Failure
				}
				start := time.Now()
				permit, err := b.Acquire(t.Context())
				if err == nil {
					permit.Done(t.Context(), outcome)
				}
				mine = append(mine, time.Since(start))
				calls.Add(1)
				if err != nil {
					rejected.Add(1)
				}
				runtime.Gosched()
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	during(&calls)
	stop.Store(true)
	wg.Wait()
	slices.Sort(took)
	return load{calls: calls.Load(), rejected: rejected.Load(), p50: took[len(took)/2], p99: took[len(took)*99/100]}
}

// With -v, it prints how long calls took with and without reloads.
func TestReloadUnderLoad(t *testing.T) { reloadUnderLoad(t, 1000) }

func TestReloadConcurrentSafe(t *testing.T) { reloadUnderLoad(t, 50) }

// reloadUnderLoad reloads a file while 50 goroutines make calls. No permit may be lost, and each breaker must have a
// Config of one version of the file.
func reloadUnderLoad(t *testing.T, reloads int) {
	t.Helper()
	texts := versions()
	allowed := make(map[breaker.Config]bool)
	for _, text := range texts {
		f, err := Parse("p.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		allowed[f.Config.WithDefaults()] = true
		for _, r := range f.Rules {
			allowed[r.Config.Inherit(f.Config).WithDefaults()] = true
		}
	}
	if len(allowed) != 2 { // the rules set every field that the default sets
		t.Fatalf("%d Configs: %+v", len(allowed), allowed)
	}
	g, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	current := 0
	w := &Watcher{
		path: "p.yaml", groups: []*breaker.Group{g}, logger: slog.New(slog.DiscardHandler), dirs: new(dirs),
		read: func() ([]byte, error) { return []byte(texts[current]), nil },
	}
	if err := w.first(); err != nil {
		t.Fatal(err)
	}
	with := underLoad(t, g, allowed, func(calls *atomic.Uint64) {
		for i := range reloads {
			current = 1 - current
			w.check(time.Now())
			for before := calls.Load(); i%10 == 0 && calls.Load() == before; { // so that reloads and calls mix
				runtime.Gosched()
			}
		}
	})
	without := underLoad(t, g, allowed, func(calls *atomic.Uint64) {
		for calls.Load() < uint64(reloads)*200 {
			runtime.Gosched()
		}
	})
	t.Logf("with %d reloads: %+v", reloads, with)
	t.Logf("without reloads: %+v", without)

	if got := w.Stats(); got.Succeeded != uint64(reloads)+1 || got.Failed != 0 {
		t.Errorf("stats are %+v", got)
	}
	var calls uint64
	for key, b := range g.All() {
		s := b.Snapshot()
		if settled := s.Successes + s.Failures + s.Overloads + s.Ignored + s.Late; s.Admitted != settled || s.InFlight != 0 {
			t.Errorf("%v: %d admitted, %d settled, %d in flight", key, s.Admitted, settled, s.InFlight)
		}
		calls += s.Admitted + s.Rejections.Total()
	}
	if want := with.calls + without.calls; calls != want {
		t.Errorf("the breakers counted %d calls, want %d", calls, want)
	}
}

func FuzzParse(f *testing.F) {
	// The seeds are short, because go test -fuzz spends up to a minute on shortening a new input.
	f.Add([]byte("circuitBreaker: {openFor: 1.5s, jitter: -1, minCalls: 0x10}"))
	f.Add([]byte("methodConfig:\n- name: [{service: a, tag: b}]\n  circuitBreaker: {}"))
	f.Add([]byte("a: &a [x]\nb: [*a, *a]\n<<: *a"))
	f.Add([]byte("circuitBreaker:\n\topenFor: 1s\n"))
	f.Add([]byte("a: b: c\n"))
	f.Add([]byte("{\"circuitBreaker\": {\"openFor\": \"\\ud83d\\/\"}"))
	f.Add([]byte("{\"a\"\n: [1e9,{\"\x7f\":null}],\n\"presets\":{}}"))
	f.Add([]byte("presets: {a: {preset: lenient}}\nmethodConfig: [{name: [{}], circuitBreaker: {preset: a, openFor: 0}}]"))
	f.Add([]byte("%YAML 1.1\n--- !!map\n? a\n: !!int 1\n...\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("p.yaml", data)
		if err != nil {
			positions(t, data, err)
			if json.Valid(data) && utf8.Valid(data) && strings.Contains(err.Error(), "syntax error: ") {
				t.Errorf("valid JSON has a syntax error: %v", err)
			}
			return
		}
		g, err := breaker.NewGroup(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := file.Apply(g); err != nil {
				t.Fatalf("what was parsed cannot be applied: %v", err)
			}
		}
		for _, r := range file.Rules {
			if p := g.PolicyFor(r.Match); p.Name != r.Name {
				t.Errorf("the policy of %+v is %+v, want that of %s", r.Match, p, r.Name)
			}
		}
	})
}

// positions checks that each error has a position in data.
func positions(t *testing.T, data []byte, err error) {
	t.Helper()
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	if len(errs) > maxErrors+1 {
		t.Errorf("%d errors", len(errs))
	}
	lines := 1 // at most: YAML has five ends of a line
	for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		lines += strings.Count(string(data), end)
	}
	for _, err := range errs {
		e, ok := err.(*Error) //nolint:errorlint // Parse joins them directly
		if !ok || (len(data) <= MaxSize && (e.Line < 1 || e.Line > lines || e.Column < 1)) {
			t.Errorf("%#v has no place in %d lines", err, lines)
		}
	}
}
