package breaker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// row is one instant of a timeline: what is done at it, and the expected results.
//
// do is a list of steps, each of which may end in *n for n times:
//
//	success, failure, overload, ignored   a call that ends at once. failure~150ms: with that Latency;
//	                                      failure@30s: with that RetryAfter
//	canceled                              an ignored call, canceled by its caller
//	begin:a, end:a=success                a call named a, from one row to another; the end may have ~ and @ too
//	trip, reset, clear                    Trip, Reset, ClearOverride
//	force_open, force_closed, shadow      SetOverride; force_open/30s: with a TTL
//
// want holds the results of the calls, and then the state: "rejected:open*2 open". A plain admission is left out. An
// admission as a probe is "probe".
type row struct {
	at   time.Duration // since the timeline began
	do   string
	want string
}

// timeline runs rows on a breaker. It must be made in a bubble of testing/synctest.
type timeline struct {
	t       *testing.T
	b       *Breaker
	start   time.Time
	permits map[string]Permit
}

func newTimeline(t *testing.T, b *Breaker) *timeline {
	t.Helper()
	return &timeline{t: t, b: b, start: time.Now(), permits: make(map[string]Permit)}
}

// run does the rows and compares the results. It stops at the first difference, because it would cause others.
func (tl *timeline) run(rows ...row) {
	tl.t.Helper()
	for i, r := range rows {
		tl.until(r.at)
		if got := tl.do(r.do); got != r.want {
			tl.t.Fatalf("row %d, at %v, %q: got %q, want %q", i, r.at, r.do, got, r.want)
		}
	}
}

// until sleeps to the instant at.
func (tl *timeline) until(at time.Duration) {
	tl.t.Helper()
	wait := at - time.Since(tl.start)
	if wait < 0 {
		tl.t.Fatalf("a row at %v comes after one at %v", at, at-wait)
	}
	time.Sleep(wait)
}

// do does the steps of one row, and returns what row.want is compared with.
func (tl *timeline) do(steps string) string {
	tl.t.Helper()
	var results []string
	for step := range strings.FieldsSeq(steps) {
		step, n := repeated(tl.t, step)
		for range n {
			if r := tl.step(step); r != "" {
				results = append(results, r)
			}
		}
	}
	return strings.Join(append(compact(results), tl.b.State().String()), " ")
}

// step does one step and returns the result of its call, if there is one.
func (tl *timeline) step(step string) (result string) {
	tl.t.Helper()
	ctx := tl.t.Context()
	verb, name, _ := strings.Cut(step, ":")
	switch verb {
	case "begin":
		p, err := tl.b.Acquire(ctx)
		tl.permits[name] = p
		return resultOf(tl.t, p, err)
	case "end":
		name, report, _ := strings.Cut(name, "=")
		p, known := tl.permits[name]
		if !known {
			tl.t.Fatalf("no call %q has begun", name)
		}
		p.Report(ctx, parseReport(tl.t, report))
		return ""
	case "trip":
		tl.b.Trip(ctx, "test")
		return ""
	case "reset":
		tl.b.Reset(ctx)
		return ""
	case "clear":
		tl.b.ClearOverride(ctx)
		return ""
	}
	if o, ok := parseOverride(tl.t, verb); ok {
		if err := tl.b.SetOverride(ctx, o); err != nil {
			tl.t.Fatal(err)
		}
		return ""
	}
	report := parseReport(tl.t, step)
	p, err := tl.b.Acquire(ctx)
	if err == nil {
		p.Report(ctx, report)
	}
	return resultOf(tl.t, p, err)
}

func parseOverride(t *testing.T, step string) (o Override, ok bool) {
	t.Helper()
	mode, ttl, timed := strings.Cut(step, "/")
	if err := o.Mode.UnmarshalText([]byte(mode)); err != nil || o.Mode == 0 {
		return o, false
	}
	o.Why, o.By = "test", t.Name()
	if timed {
		o.TTL = parseDuration(t, ttl)
	}
	return o, true
}

func parseReport(t *testing.T, text string) (r Report) {
	t.Helper()
	text, retryAfter, _ := strings.Cut(text, "@")
	text, latency, _ := strings.Cut(text, "~")
	r.RetryAfter, r.Latency = parseDuration(t, retryAfter), parseDuration(t, latency)
	if text == "canceled" {
		r.Outcome, r.Canceled = Ignored, true
		return r
	}
	for o, name := range outcomeNames {
		if name == text {
			r.Outcome = Outcome(o)
			return r
		}
	}
	t.Fatalf("%q is neither a step nor an outcome", text)
	return r
}

func parseDuration(t *testing.T, text string) time.Duration {
	t.Helper()
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// repeated splits "failure*4" into "failure" and 4.
func repeated(t *testing.T, step string) (one string, n int) {
	t.Helper()
	one, times, many := strings.Cut(step, "*")
	if !many {
		return one, 1
	}
	n, err := strconv.Atoi(times)
	if err != nil {
		t.Fatal(err)
	}
	return one, n
}

// compact is the reverse of repeated, for equal words in a row.
func compact(words []string) []string {
	var out []string
	for i := 0; i < len(words); {
		n := i + 1
		for n < len(words) && words[n] == words[i] {
			n++
		}
		if n-i == 1 {
			out = append(out, words[i])
		} else {
			out = append(out, words[i]+"*"+strconv.Itoa(n-i))
		}
		i = n
	}
	return out
}

// resultOf returns the result of Acquire in a word, or "" for a plain admission.
func resultOf(t *testing.T, p Permit, err error) string {
	t.Helper()
	switch e, rejected := err.(*RejectedError); { //nolint:errorlint // Acquire returns it unwrapped
	case rejected:
		return "rejected:" + e.Reason.String()
	case err != nil:
		t.Fatalf("Acquire: %v", err)
		return ""
	case p.IsProbe():
		return "probe"
	}
	return ""
}

// acquire calls Acquire, which must succeed.
func acquire(t *testing.T, b *Breaker) Permit {
	t.Helper()
	p, err := b.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return p
}

// report makes n calls that end at once with o. They must be admitted.
func report(t *testing.T, b *Breaker, n int, o Outcome) {
	t.Helper()
	for range n {
		acquire(t, b).Done(t.Context(), o)
	}
}

// mustReject calls Acquire, which must reject the call.
func mustReject(t *testing.T, b *Breaker) *RejectedError {
	t.Helper()
	_, err := b.Acquire(t.Context())
	e, ok := err.(*RejectedError) //nolint:errorlint // Acquire returns it unwrapped
	if !ok {
		t.Fatalf("Acquire returned %v, want a rejection", err)
	}
	return e
}

// opensAtOnce returns cfg with the defaults of most timelines: failures open the breaker at once, for 5 s at first and
// for at most 60 s. Tests of FailingFor and of the real defaults set these fields, or make their breakers with New.
func opensAtOnce(cfg Config) Config {
	setDefault(&cfg.FailingFor, -1)
	setDefault(&cfg.OpenFor, 5*time.Second)
	setDefault(&cfg.MaxOpenFor, max(time.Minute, cfg.OpenFor))
	return cfg
}

// shortenOpenPeriods sets the open period of a policy to 1 ns, which Validate does not allow. It is for tests that hunt
// races between probes. They run in real time, and need many open periods.
func shortenOpenPeriods(ps *policies) {
	ps.base.cfg.OpenFor, ps.base.cfg.MaxOpenFor = 1, 1
}

// applyShortened is Apply with shortenOpenPeriods.
func applyShortened(g *Group, cfg Config) error {
	ps, err := newPolicies(cfg, nil, g.shared.trip != nil)
	if err != nil {
		return err
	}
	shortenOpenPeriods(ps)
	g.install(ps)
	return nil
}

func mustGroup(tb testing.TB, cfg Config, opts ...GroupOption) *Group {
	tb.Helper()
	g, err := NewGroup(opensAtOnce(cfg), opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

func setOverride(t *testing.T, b *Breaker, m Mode, ttl time.Duration) {
	t.Helper()
	if err := b.SetOverride(t.Context(), Override{Mode: m, TTL: ttl, Why: "test", By: t.Name()}); err != nil {
		t.Fatal(err)
	}
}

// wantSame fails the test if got is not want.
func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: got (+), want (-):\n%s", what, diff)
	}
}

// steady returns a Config without jitter, which closes after one successful probe.
func steady() Config { return Config{Jitter: -1, SuccessesToClose: 1} }

// recorder keeps the events that it receives. Transition is the listener.
type recorder struct {
	mu     sync.Mutex
	events []Event
	ctxs   []context.Context
}

func (r *recorder) Transition(ctx context.Context, e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	r.ctxs = append(r.ctxs, ctx)
}

func (r *recorder) received() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}

// brief returns the events in short form: "1 closed>open consecutive", or "1 closed>closed override set".
func (r *recorder) brief() []string {
	var out []string
	for _, e := range r.received() {
		what := e.Rule.String()
		if e.OverrideChanged {
			what = e.Why
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%d %v>%v %s", e.Seq, e.From, e.To, what)))
	}
	return out
}
