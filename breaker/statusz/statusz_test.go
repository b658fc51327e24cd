package statusz

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grpcircuit/grpcircuit/breaker"
)

var (
	orders = breaker.Key{Target: "dns:///orders:443", Service: "shop.Orders", Method: "Get"}
	users  = breaker.Key{Target: "dns:///users:443"}
)

func newGroup(tb testing.TB, opts ...breaker.GroupOption) *breaker.Group {
	tb.Helper()
	g, err := breaker.NewGroup(breaker.Config{Jitter: -1}, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// newPage returns a page that is closed when the test ends.
func newPage(tb testing.TB, g *breaker.Group, opts ...Option) *Page {
	tb.Helper()
	p := Handler(g, opts...)
	tb.Cleanup(p.Close)
	return p
}

// get requests target below the mount of the page.
func get(tb testing.TB, p http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/debug/breakers/"+target, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// gotReport holds the fields of a Report that the tests read.
type gotReport struct {
	Version, Matched, Page, Pages int
	Program                       string
	Unused                        []any `json:"unusedRules"`
	Totals                        Totals
	Breakers                      []struct {
		ID, Name    string
		Snapshot    struct{ Key breaker.Key }
		Policy      PolicyOrigin
		Rates       Rates
		Transitions []struct{ Why string }
		History     *History
	}
}

func getReport(tb testing.TB, p http.Handler, target string) gotReport {
	tb.Helper()
	w := get(tb, p, target)
	if w.Code != http.StatusOK {
		tb.Fatalf("%s: status %d: %s", target, w.Code, w.Body)
	}
	var rep gotReport
	if err := json.Unmarshal(w.Body.Bytes(), &rep); err != nil {
		tb.Fatalf("%s: %v", target, err)
	}
	return rep
}

// do makes n calls that end with err.
func do(tb testing.TB, b *breaker.Breaker, n int, err error) {
	tb.Helper()
	for range n {
		_ = b.Do(tb.Context(), func(context.Context) error { return err })
	}
}

func force(tb testing.TB, b *breaker.Breaker, mode breaker.Mode) {
	tb.Helper()
	o := breaker.Override{Mode: mode, TTL: time.Hour, Why: "a test", By: "alice"}
	if err := b.SetOverride(tb.Context(), o); err != nil {
		tb.Fatal(err)
	}
}

func wantIn(tb testing.TB, body string, parts ...string) {
	tb.Helper()
	for _, part := range parts {
		if !strings.Contains(body, part) {
			tb.Errorf("the answer does not contain %q:\n%s", part, body)
		}
	}
}

// The row of a breaker answers each question of a person on call.
func TestTheListAnswersQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.WithPolicy(
			breaker.PolicyRule{
				Match: breaker.Key{Target: orders.Target}, Name: "orders.yaml:7", Config: breaker.Config{OpenFor: 30 * time.Second},
			},
			breaker.PolicyRule{Match: breaker.Key{Service: "shop.Odrers"}, Name: "orders.yaml:9"},
		))
		p := newPage(t, g)
		for range 5 {
			permit, err := g.Get(orders).Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			permit.Report(t.Context(), breaker.Report{Outcome: breaker.Failure, Cause: "UNAVAILABLE"})
			time.Sleep(500 * time.Millisecond)
		}
		force(t, g.Get(users), breaker.ForceOpen)
		body := get(t, p, "").Body.String()
		wantIn(t, body,
			`<b>2</b> open`, `shop.Odrers (orders.yaml:9)`,
			`consecutive rule: 5 failures in a row over 2s, last UNAVAILABLE`, `not closed since 00:00:02 UTC (0s)`,
			`next probe in 30s`, `policy rule 0 (orders.yaml:7)`, `not ready`, `00:00:02 UTC closed → open`,
			`forced open by alice for 1h0m0s more: a test`,
		)
		wantIn(t, get(t, p, "breaker?key="+encodeKey(orders)).Body.String(),
			`&#34;shop.Orders&#34;`, `consecutive rule; in the window 5 failed, 0 overloaded, 0 slow of 5 calls`,
			`<th scope="row">OpenFor</th><td>30s</td><td>rule</td>`)
		time.Sleep(40 * time.Second)
		wantIn(t, get(t, p, "").Body.String(), "the next call is a probe")
	})
}

// A single request knows no rates, and does not claim that there were no calls. The next request has them.
func TestRatesNeedTwoRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		permit, err := g.Get(orders).Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		permit.Done(t.Context(), breaker.Success)
		const unknown = "not measured yet"
		wantIn(t, get(t, p, "").Body.String(), unknown)
		wantIn(t, get(t, p, "?format=text").Body.String(), "; rates are "+unknown+", repeat the request\n")
		time.Sleep(time.Second)
		for _, query := range []string{"", "?format=text", "breaker?key=" + encodeKey(orders)} {
			if body := get(t, p, query).Body.String(); strings.Contains(body, unknown) {
				t.Errorf("%q: the second request says %q:\n%s", query, unknown, body)
			}
		}
		wantIn(t, get(t, p, "").Body.String(), "no calls")
		time.Sleep(time.Minute)
		wantIn(t, get(t, p, "?format=text").Body.String(), unknown)
	})
}

func TestWorstFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		b := func(tag string) *breaker.Breaker { return g.Get(breaker.Key{Tag: tag}) }
		b("8 closed")
		do(t, b("7 fails"), 1, errors.New("no"))
		force(t, b("6 forced closed"), breaker.ForceClosed)
		b("5 shadow and open").Trip(t.Context(), "a test")
		force(t, b("5 shadow and open"), breaker.Shadow)
		b("4 half-open").Trip(t.Context(), "a test")
		time.Sleep(2 * time.Second)
		do(t, b("4 half-open"), 1, nil)
		b("1 open for long").Trip(t.Context(), "a test")
		time.Sleep(time.Second)
		b("2 open").Trip(t.Context(), "a test")
		force(t, b("3 forced open"), breaker.ForceOpen)
		var got []string
		for _, r := range getReport(t, p, "?format=json").Breakers {
			got = append(got, r.Snapshot.Key.Tag)
		}
		want := []string{
			"1 open for long", "2 open", "3 forced open", "4 half-open", "5 shadow and open", "6 forced closed", "7 fails",
			"8 closed",
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("order (-got +want):\n%s", diff)
		}
	})
}

func TestFilterAndPages(t *testing.T) {
	g, err := breaker.NewGroup(breaker.Config{OpenFor: time.Hour}) // an open breaker is not ready until then
	if err != nil {
		t.Fatal(err)
	}
	p := newPage(t, g)
	for i := range 120 {
		g.Get(breaker.Key{Service: "shop.Orders", Method: "M" + string(rune('a'+i/26)) + string(rune('a'+i%26))})
	}
	g.Get(users).Trip(t.Context(), "a test")
	force(t, g.Get(orders), breaker.ForceClosed)
	for target, want := range map[string]struct{ matched, shown, page, pages int }{
		"?format=json":                             {122, 122, 1, 1},
		"?format=json&limit=50":                    {122, 50, 1, 3},
		"?format=json&limit=50&page=3":             {122, 22, 3, 3},
		"?format=json&limit=50&page=9":             {122, 22, 3, 3},
		"?format=json&q=ORDERS":                    {121, 121, 1, 1},
		"?format=json&q=users":                     {1, 1, 1, 1},
		"?format=json&q=nothing":                   {0, 0, 1, 1},
		"?format=json&q=+users%09":                 {1, 1, 1, 1}, // pasted with what is around it
		"?format=json&q=/shop.Orders/Get+orders":   {1, 1, 1, 1}, // the parts in another order than in the key
		"?format=json&q=shop.Orders/Get+users":     {0, 0, 1, 1},
		"?format=json&q=+/+":                       {122, 122, 1, 1},
		"?format=json&state=open":                  {1, 1, 1, 1},
		"?format=json&state=half_open":             {0, 0, 1, 1},
		"?format=json&state=closed":                {121, 121, 1, 1},
		"?format=json&state=not_ready":             {1, 1, 1, 1},
		"?format=json&state=override":              {1, 1, 1, 1},
		"?format=json&state=open&q=shop":           {0, 0, 1, 1},
		"?format=json&q=Orders%2FMa&limit=1000000": {26, 26, 1, 1},
	} {
		rep := getReport(t, p, target)
		got := struct{ matched, shown, page, pages int }{rep.Matched, len(rep.Breakers), rep.Page, rep.Pages}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", target, got, want)
		}
	}
	body := get(t, p, "?q=shop&page=2").Body.String()
	wantIn(t, body, `Page 2 of 3`, `href="?q=shop"`, `href="?page=3&amp;q=shop"`, `data-src="live?page=2&amp;q=shop"`,
		`value="shop"`)
	if n := strings.Count(body, `<tr role="row" id=`); n != pageSize {
		t.Errorf("%d rows, want %d", n, pageSize)
	}
}

func TestBadRequests(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g)
	for target, want := range map[string]int{
		"?state=ajar":                        http.StatusBadRequest,
		"?page=0":                            http.StatusBadRequest,
		"?page=x":                            http.StatusBadRequest,
		"?limit=-1":                          http.StatusBadRequest,
		"?format=xml":                        http.StatusBadRequest,
		"?q=" + strings.Repeat("x", 1025):    http.StatusBadRequest,
		"live?state=ajar":                    http.StatusBadRequest,
		"live?key=!":                         http.StatusBadRequest,
		"breaker":                            http.StatusBadRequest,
		"breaker?key=AAAAA":                  http.StatusBadRequest,
		"breaker?key=" + encodeKey(users):    http.StatusNotFound,
		"nothing":                            http.StatusNotFound,
		"..":                                 http.StatusNotFound,
		"page.html":                          http.StatusNotFound,
		"statusz.css":                        http.StatusOK,
		"statusz.js?v=1":                     http.StatusOK,
		"statusz.svg":                        http.StatusOK,
		"?page=1000000&q=%ff%00&state=open":  http.StatusOK,
		"?q=%3Cscript%3Ealert(1)%3C/script>": http.StatusOK,
	} {
		w := get(t, p, target)
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", target, w.Code, want)
		}
		if strings.Contains(w.Body.String(), "<script>") {
			t.Errorf("%s: not escaped", target)
		}
	}
	for _, target := range []string{"", "breaker", "live"} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/"+target, http.NoBody))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST /%s: status %d, want 405", target, w.Code)
		}
	}
}

func TestFormats(t *testing.T) {
	p := newPage(t, newGroup(t))
	const chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, tt := range []struct{ target, accept, agent, want string }{
		{"", chrome, "Mozilla/5.0", "text/html; charset=utf-8"},
		{"", "", "", "text/html; charset=utf-8"},
		{"", "*/*", "curl/8.5.0", "text/plain; charset=utf-8"},
		{"", "*/*", "Wget/1.21", "text/plain; charset=utf-8"},
		{"", "text/plain", "Go-http-client/1.1", "text/plain; charset=utf-8"},
		{"", "application/json", "curl/8.5.0", "application/json"},
		{"?format=json", chrome, "Mozilla/5.0", "application/json"},
		{"?format=text", chrome, "Mozilla/5.0", "text/plain; charset=utf-8"},
		{"?format=html", "*/*", "curl/8.5.0", "text/html; charset=utf-8"},
	} {
		w := get(t, p, tt.target, "Accept", tt.accept, "User-Agent", tt.agent)
		if got := w.Header().Get("Content-Type"); got != tt.want {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
}

func TestHeaders(t *testing.T) {
	p := newPage(t, newGroup(t))
	for _, target := range []string{"", "statusz.js", "nothing", "?format=json"} {
		w := get(t, p, target)
		for name, want := range map[string]string{
			"Content-Security-Policy": contentSecurityPolicy,
			"X-Content-Type-Options":  "nosniff",
			"Referrer-Policy":         "same-origin",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%q: %s is %q, want %q", target, name, got, want)
			}
		}
		want := "no-store"
		if target == "statusz.js" {
			want = "private, max-age=86400"
		}
		if got := w.Header().Get("Cache-Control"); got != want {
			t.Errorf("%q: Cache-Control is %q, want %q", target, got, want)
		}
	}
}

// The handler works at any path.
func TestMounts(t *testing.T) {
	p := newPage(t, newGroup(t))
	mux := http.NewServeMux()
	mux.Handle("/debug/breakers/", p)
	mux.Handle("/a/b/c/", http.StripPrefix("/a/b/c", p))
	mux.Handle("/d/", http.StripPrefix("/d/", p))
	for _, mount := range []string{"/debug/breakers/", "/a/b/c/", "/d/"} {
		for _, target := range []string{"", "statusz.css", "?format=json"} {
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, mount+target, http.NoBody))
			if w.Code != http.StatusOK {
				t.Errorf("%s%s: status %d", mount, target, w.Code)
			}
		}
	}
}

func TestReportOfOneBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g, WithHistory())
		defer p.Close()
		synctest.Wait()
		time.Sleep(1500 * time.Millisecond)
		do(t, g.Get(orders), 10, nil) // in the first second the breaker is new
		time.Sleep(time.Second)
		do(t, g.Get(orders), 20, nil)
		do(t, g.Get(orders), 1, errors.New("secret words of the backend"))
		g.Get(orders).Trip(t.Context(), "a test")
		do(t, g.Get(orders), 3, nil)
		time.Sleep(time.Second)
		w := get(t, p, "breaker?format=json&key="+encodeKey(orders))
		if strings.Contains(w.Body.String(), "secret") {
			t.Error("words of the backend are in the report")
		}
		rep := getReport(t, p, "breaker?format=json&key="+encodeKey(orders))
		if rep.Version != 1 || len(rep.Breakers) != 1 {
			t.Fatalf("got %+v", rep)
		}
		r := rep.Breakers[0]
		if r.Snapshot.Key != orders || r.Name != orders.String() || r.ID != encodeKey(orders) {
			t.Errorf("got %+v", r)
		}
		if got := r.Policy.Sources["OpenFor"]; got != breaker.SourceDefault {
			t.Errorf("OpenFor comes from %q", got)
		}
		last := shown - 1
		h := r.History
		if h == nil || h.Successes[0] != -1 || h.Successes[last] != 20 || h.Failures[last] != 1 || h.Rejections[last] != 3 {
			t.Errorf("history is %+v, want 20 successes, 1 failure and 3 rejections at its end", h)
		}
		if len(r.Transitions) != 1 || r.Transitions[0].Why != "a test" {
			t.Errorf("transitions are %+v", r.Transitions)
		}
	})
}

// After a second every outage has had a failed probe. What began it is still there.
func TestOutageKeepsItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		fail := func() {
			if permit, err := g.Get(orders).Acquire(t.Context()); err == nil {
				permit.Report(t.Context(), breaker.Report{Outcome: breaker.Failure, Cause: "UNAVAILABLE"})
			}
		}
		for range 5 {
			fail()
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		fail()
		link := "breaker?key=" + encodeKey(orders)
		for _, target := range []string{"", "?format=text", link} {
			wantIn(t, get(t, p, target).Body.String(),
				`consecutive rule: 5 failures in a row over 2s, last UNAVAILABLE`, `not closed since 00:00:02 UTC (2s)`,
				`opened again at 00:00:04 UTC: a probe failed, last UNAVAILABLE`)
		}
		wantIn(t, get(t, p, link).Body.String(), `consecutive rule; in the window 5 failed, 0 overloaded, 0 slow of 5 calls`)
		g.Get(orders).Reset(t.Context())
		time.Sleep(time.Second)
		g.Get(orders).Trip(t.Context(), "bad deploy")
		time.Sleep(time.Second)
		body := get(t, p, "?format=text").Body.String()
		wantIn(t, body, "opened by hand: bad deploy")
		if strings.Contains(body, "again") {
			t.Errorf("a new outage has the reason of the last one: %s", body)
		}
	})
}

// A shadow breaker is not shown as one that rejects calls.
func TestShadowAdmits(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g)
	force(t, g.Get(orders), breaker.Shadow)
	g.Get(orders).Trip(t.Context(), "a test")
	body := get(t, p, "").Body.String()
	wantIn(t, body, `class="badge open shadow"`, "admits all calls; would reject them for ")
	if strings.Contains(body, "next probe") {
		t.Error("a breaker that admits all calls waits for a probe")
	}
}

// A file of a platform has many rules that one program does not need. They do not hide the breakers.
func TestManyUnusedRules(t *testing.T) {
	var rules []breaker.PolicyRule
	for i := range 40 {
		rules = append(rules, breaker.PolicyRule{Match: breaker.Key{Service: "shop.S" + string(rune('A'+i))}})
	}
	g := newGroup(t, breaker.WithPolicy(rules...))
	p := newPage(t, g)
	g.Get(orders)
	text := get(t, p, "?format=text").Body.String()
	if n := strings.Count(text, "\n"); n != 1+3+1+1 {
		t.Errorf("the text has %d lines, want totals, 3 rules, the number of the others, and a breaker:\n%s", n, text)
	}
	wantIn(t, text, "# matches nothing: 37 more policy rules")
	wantIn(t, get(t, p, "").Body.String(), "<details class=\"unused\"><summary>40 policy\nrules match no breaker")
	if rep := getReport(t, p, "?format=json"); len(rep.Unused) != 40 {
		t.Errorf("the JSON has %d rules, want 40", len(rep.Unused))
	}
}

// Pages of many processes are told apart.
func TestName(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g, WithName("shop on <pod-7>\n"))
	wantIn(t, get(t, p, "").Body.String(), `<title>0 open, 0 half-open - shop on &lt;pod-7&gt;\n</title>`,
		`<p class="where">of shop on &lt;pod-7&gt;\n</p>`)
	wantIn(t, get(t, p, "?format=text").Body.String(), `# shop on <pod-7>\n, `)
	if rep := getReport(t, p, "?format=json"); rep.Program != "shop on <pod-7>\n" {
		t.Errorf("the JSON has the name %q", rep.Program)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	wantIn(t, get(t, newPage(t, g), "?format=text").Body.String(), " on "+host)
}

// A breaker that is idle is no longer in the list, but links to it work.
func TestIdleBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.WithIdleTimeout(time.Minute))
		p := newPage(t, g)
		do(t, g.Get(orders), 1, nil)
		time.Sleep(2 * time.Minute)
		if rep := getReport(t, p, "?format=json"); len(rep.Breakers) != 0 {
			t.Errorf("got %+v", rep.Breakers)
		}
		wantIn(t, get(t, p, "breaker?key="+encodeKey(orders)).Body.String(), orders.String())
	})
}

func TestHandlerPanics(t *testing.T) {
	g := newGroup(t)
	for name, f := range map[string]func(){
		"nil group":      func() { Handler(nil) },
		"nil option":     func() { Handler(g, nil) },
		"nil func":       func() { Handler(g, option(nil)) },
		"nil authorizer": func() { WithActions(nil) },
	} {
		func() {
			defer func() {
				if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "statusz: ") {
					t.Errorf("%s: recovered %v", name, text)
				}
			}()
			f()
		}()
	}
}
