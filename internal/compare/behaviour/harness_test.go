package behaviour

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// known lists the scenarios that grpcircuit fails, with the reason. The report shows them too.
var known = map[string]verdict{
	"T23": {Mark: lacking, Reason: "sees a call only when it ends, and has no time limit for it"},
}

func TestGrpcircuit(t *testing.T) {
	// The scenarios that set the clock need another binary, which only `make compare` builds.
	still := slices.DeleteFunc(slices.Clone(topics), func(t topic) bool { return t.steps })
	for _, p := range []part{
		{libs: []*library{grpcircuit}, topics: still},
		{libs: grpcLibraries[:1], topics: grpcTopics},
	} {
		m, err := runMatrix(t.Context(), self(), p.libs, rows(p.topics))
		if err != nil {
			t.Fatal(err)
		}
		for _, sc := range rows(p.topics) {
			want := verdict{Mark: pass}
			if v, ok := known[sc.id]; ok {
				want = v
			}
			if got := m[sc.id][p.libs[0].name]; got != want {
				t.Errorf("%s (%s): %s %s, want %s %s", sc.id, sc.title, got.Mark, got.Reason, want.Mark, want.Reason)
			}
		}
	}
}

// TestFakes checks that the scenarios detect bad breakers, and that the harness handles hangs and crashes.
func TestFakes(t *testing.T) {
	for _, tt := range []struct {
		fake, id string
		want     mark
		reason   string
	}{
		{"fake without defect", "T01", pass, ""},
		{"fake without defect", "T17", pass, ""},
		{"fake without defect", "O01", pass, ""},
		{"fake without defect", "H01", pass, ""},
		{"fake without defect", "H03", pass, ""},
		{"fake without defect", "H10", pass, ""},
		{"fake without defect", "L01", pass, ""},
		{"fake without defect", "L02", pass, ""},
		{"fake without defect", "L05", pass, ""},
		{"fake without defect", "V01", pass, ""},
		{"fake that never opens", "T01", fail, "admitted a call after as many failures as configured"},
		{
			"fake that never opens", "V01", fail,
			"admitted more than a fifth of the calls to a backend that failed each of them for 10 s",
		},
		{"fake that opens too late", "T01", fail, "admitted a call after as many failures as configured"},
		{"fake that counts cancelled calls", "T17", fail, "200 cancelled calls opened it"},
		{
			"fake without lease", "H10", fail,
			"one probe never reported, and 100 open periods later every call is still rejected",
		},
		{"fake without generations", "L01", fail, "closed on successes of calls begun before it opened"},
		{
			"fake without generations", "L05", fail,
			"rejected a call after it had closed: calls begun before it opened failed and opened it again",
		},
		{"fake without cap", "H01", fail, "admitted a second call while a probe was running"},
		{"fake without cap", "H03", fail, "more than one of 1000 was admitted"},
		{
			"fake without cap", "H13", fail,
			"after 1000 open periods with a backend that hangs, more than 60 probes are in flight",
		},
		{"fake without defect", "T23", fail, "it never opened, though 100 calls hang for up to 20 s with a limit of 5 s"},
		{"fake that hangs on a lock", "T01", hang, "never ends"},
		{"fake that hangs on a channel", "T01", hang, "never ends"},
		{"fake that crashes", "T01", crash, "kills the process: panic: a bug in the library"},
		{"fake that lacks", "T04", lacking, "has none"},
		{"fake that lacks", "T05", na, "has none"},
		{"fake that lacks", "P02", na, "wants none"},
	} {
		limit := limit
		if tt.want == hang {
			limit = 2 * time.Second
		}
		v, err := runCell(t.Context(), self(), findLibrary(tt.fake), findScenario(tt.id), limit)
		if err != nil {
			t.Fatal(err)
		}
		if v.Mark != tt.want || v.Reason != tt.reason {
			t.Errorf("%s on %s: %s %q, want %s %q", tt.id, tt.fake, v.Mark, v.Reason, tt.want, tt.reason)
		}
	}
}

// TestPeers runs one scenario with each of the other libraries: a dead backend gets few calls.
func TestPeers(t *testing.T) {
	for _, l := range libraries[1:] {
		wantCell(t, l, "V01", pass)
	}
	for _, l := range grpcLibraries[1:] {
		wantCell(t, l, "G01", pass)
	}
}

// wantCell runs one cell and compares its mark.
func wantCell(t *testing.T, lib *library, id string, want mark) {
	t.Helper()
	v, err := runCell(t.Context(), self(), lib, findScenario(id), limit)
	if err != nil {
		t.Fatal(err)
	}
	if v.Mark != want {
		t.Errorf("%s on %s: %s (%s), want %s", id, lib.name, v.Mark, v.Reason, want)
	}
}

// TestAdapters checks that each missing function of an adapter is declared in lacks. Otherwise a scenario would call
// nil, and the report would blame the library.
func TestAdapters(t *testing.T) {
	for _, l := range libraries {
		i := l.make((&cell{}).filled(want{failures: 5, ratio: 0.5, minCalls: 5}))
		for _, tt := range []struct {
			f   feature
			has bool
		}{
			{hasCounts, i.counts != nil},
			{hasManual, i.trip != nil && i.reset != nil},
			{hasForce, i.forceOpen != nil},
			{hasShadow, i.shadow != nil},
			{hasRetry, i.retryAfter != nil},
			{hasLive, i.apply != nil},
			{hasKeys, l.registry != nil},
			{hasPreset, l.preset != nil},
			{hasNonsense, l.nonsense != nil},
		} {
			if _, declared := l.lacks[tt.f]; tt.has == declared {
				t.Errorf("%s, %s: the adapter has it: %t, but it is declared as lacking: %t", l.name, tt.f, tt.has, declared)
			}
		}
		if i.do == nil || i.start == nil || i.rejected == nil {
			t.Errorf("%s: the adapter cannot make calls", l.name)
		}
	}
}

// TestScenarios checks that each scenario is complete and unique.
func TestScenarios(t *testing.T) {
	var ids []string
	for _, sc := range scenarios {
		if sc.title == "" || sc.rule == "" || sc.why == "" || sc.run == nil {
			t.Errorf("%s is incomplete", sc.id)
		}
		if slices.Contains(ids, sc.id) {
			t.Errorf("%s is duplicated", sc.id)
		}
		ids = append(ids, sc.id)
	}
	for f, id := range hallmarks {
		if sc := findScenario(id); sc == nil || !slices.Contains(sc.needs, f) {
			t.Errorf("%s stands for %s, but does not need it", id, f)
		}
	}
	if n := len(rows(topics)); n < 60 {
		t.Errorf("%d scenarios for any breaker, want at least 60", n)
	}
	if n := len(rows(grpcTopics)); n < 20 {
		t.Errorf("%d scenarios for gRPC, want at least 20", n)
	}
}

// TestDocument checks that docs/comparison.md holds the current head and scenarios. `make compare` rewrites it.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../../docs/comparison.md")
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	doc := squeeze(string(text))
	want := []string{reportHead, summaryHead, notServed}
	for _, sc := range scenarios {
		want = append(want, "| "+sc.id+" | "+sc.title+" |", item(fmt.Sprintf("%s: %s (%s)", sc.id, sc.why, sc.rule)))
	}
	for _, lib := range slices.Concat(libraries, grpcLibraries) {
		want = append(want, "| "+lib.name+" | "+lib.module+" |", "| "+lib.form+" |")
	}
	for _, w := range want {
		if !strings.Contains(doc, squeeze(w)) {
			t.Errorf("docs/comparison.md lacks %q", w)
		}
	}
}
