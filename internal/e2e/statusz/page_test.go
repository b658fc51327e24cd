package statusz

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/breaker/statusz"
)

var (
	screenshots = flag.String("screenshots", "", "directory to write the screenshots to")
	history     = flag.Duration("history", 0, "how long calls are made before the screenshots")
)

const mount = "/debug/breakers/"

var orders = breaker.Key{Target: "dns:///orders.prod:443", Service: "shop.Orders", Method: "Get"}

// site is a program with breakers and their page. Everybody may act, as a browser that is logged in may.
type site struct {
	group   *breaker.Group
	page    *statusz.Page
	url     string // of the page
	host    string
	streams atomic.Int64 // viewers

	mu   sync.Mutex
	up   http.HandlerFunc // guarded by mu: answers live streams instead of the page; nil: the page
	dead context.Context  // guarded by mu: ends the live streams
	kill func()           // guarded by mu: cancels dead
}

// answerLive ends the live streams. From now on f answers them, or the page if f is nil.
func (s *site) answerLive(f http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
	s.up = f
	s.dead, s.kill = context.WithCancel(context.Background())
}

func (s *site) serveLive(page http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	up, dead := s.up, s.dead
	s.mu.Unlock()
	if up == nil {
		up = page.ServeHTTP
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(dead, cancel)()
	s.streams.Add(1)
	defer s.streams.Add(-1)
	up(w, r.WithContext(ctx))
}

func newSite(t *testing.T, opts ...breaker.GroupOption) *site {
	t.Helper()
	g, err := breaker.NewGroup(breaker.Config{OpenFor: time.Minute}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{group: g}
	s.dead, s.kill = context.WithCancel(t.Context())
	page := statusz.Handler(g, statusz.WithHistory(), statusz.WithName("shop on pod-7"),
		statusz.WithActions(func(*http.Request) (string, bool) { return "alice", true }))
	s.page = page
	mux := http.NewServeMux()
	mux.HandleFunc(mount, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/live") {
			s.serveLive(page, w, r)
			return
		}
		page.ServeHTTP(w, r)
	})
	// A page with the same policy that does what the policy forbids.
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		page.ServeHTTP(discardBody{w}, r.Clone(r.Context()))
		fmt.Fprint(w, `<!doctype html><title>broken</title><p style="color: red">x<script>document.title = "ran"</script>`)
	})
	server := httptest.NewServer(mux)
	s.url, s.host = server.URL+mount, strings.TrimPrefix(server.URL, "http://")
	t.Cleanup(func() {
		page.Close()
		server.Close()
	})
	return s
}

// discardBody keeps only the headers of an answer.
type discardBody struct{ http.ResponseWriter }

func (d discardBody) Write(b []byte) (int, error) {
	d.Header().Set("Content-Type", "text/html; charset=utf-8")
	return len(b), nil
}
func (d discardBody) WriteHeader(int) {}

func (s *site) breakerURL(t *testing.T, b *tab, name string) string {
	t.Helper()
	b.open(s.url)
	link := fmt.Sprintf("[...document.querySelectorAll('a.name')].find(a => a.textContent === %q)", name)
	b.waitFor(link)
	return eval[string](b, link+".href")
}

const openTotal = `document.querySelector(".total.open b").textContent`

// The page is updated in place when a breaker opens. The text that a person has typed and the focus stay.
func TestLive(t *testing.T) {
	s, b := newSite(t), newTab(t)
	br := s.group.Get(orders)
	b.open(s.url)
	if got := eval[string](b, openTotal); got != "0" {
		t.Fatalf("%s breakers are open, want none", got)
	}
	b.run(
		chromedp.Evaluate[chromedp.Void](`window.sameDocument = true`),
		chromedp.SendKeys(chromedp.CSS("#q"), "half a wo"),
	)
	br.Trip(t.Context(), "bad deploy")
	b.waitFor(openTotal + ` === "1"`)
	b.waitFor(`document.querySelector("tr.open .why").textContent.includes("bad deploy")`)
	b.waitFor(`document.title === "1 open, 0 half-open - shop on pod-7"`)
	b.waitFor(`document.getElementById("summary").textContent.includes("1 open")`)
	for _, kept := range []string{
		`window.sameDocument`, `document.activeElement.id === "q"`, `document.getElementById("q").value === "half a wo"`,
	} {
		if !eval[bool](b, kept) {
			t.Errorf("the update has lost %s", kept)
		}
	}
	s.group.Get(breaker.Key{Target: "a new one"}).Trip(t.Context(), "x")
	b.waitFor(`document.querySelectorAll("tbody tr").length === 2`)
	br.Reset(t.Context())
	b.waitFor(`document.querySelector("tbody tr .name").textContent === "a new one"`) // the order has changed
	b.wantClean(s.host)
}

// A page whose server is away says so, in a place that cannot be overlooked, and is live again without a person.
func TestConnectionLost(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		// A proxy without a program behind it. The browser does not try again by itself.
		"refused": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no upstream", http.StatusBadGateway) },
		// A connection on which nothing comes. The browser does not notice.
		"silent": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, b := newSite(t), newTab(t)
			s.group.Get(orders)
			b.open(s.url)
			s.answerLive(answer)
			b.waitFor(`document.getElementById("connection").textContent.startsWith("Not live: connection lost")`)
			b.waitFor(`getComputedStyle(document.getElementById("connection")).position === "fixed"`)
			b.waitFor(`/ This is the state of [\d:]+ UTC\.$/.test(document.getElementById("connection").textContent)`)
			s.mu.Lock() // the streams that hang stay
			s.up = nil
			s.mu.Unlock()
			s.group.Get(orders).Trip(t.Context(), "x")
			b.waitFor(`document.getElementById("connection").textContent === "Live"`)
			b.waitFor(openTotal + ` === "1"`)
			if !eval[bool](b, `getComputedStyle(document.getElementById("connection")).position === "static"`) {
				t.Error("the live page still warns")
			}
		})
	}
}

// Middleware that passes no Flush on ends each stream after one event. The page is still up to date, and does not warn.
func TestWithoutFlush(t *testing.T) {
	s, b := newSite(t), newTab(t)
	s.group.Get(orders)
	s.answerLive(func(w http.ResponseWriter, r *http.Request) {
		s.page.ServeHTTP(hideUnwrap{w}, r)
	})
	b.open(s.url)
	s.group.Get(orders).Trip(t.Context(), "x")
	b.waitFor(openTotal + ` === "1"`)
	for range 50 {
		if text := eval[string](b, `document.getElementById("connection").textContent`); text != "Live" {
			t.Fatalf("the page says %q", text)
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.wantClean(s.host)
}

// hideUnwrap is a ResponseWriter that cannot flush.
type hideUnwrap struct{ w http.ResponseWriter }

func (h hideUnwrap) Header() http.Header         { return h.w.Header() }
func (h hideUnwrap) Write(b []byte) (int, error) { return h.w.Write(b) }
func (h hideUnwrap) WriteHeader(status int)      { h.w.WriteHeader(status) }

// A list of rules that a person has opened stays open when an update comes.
func TestUpdatesKeepDetailsOpen(t *testing.T) {
	s, b := newSite(t, breaker.WithPolicy(breaker.PolicyRule{Match: breaker.Key{Service: "shop.Ordres"}})), newTab(t)
	s.group.Get(orders)
	b.open(s.url)
	b.run(chromedp.Click(chromedp.CSS(".unused summary")))
	b.waitFor(`document.querySelector(".unused").open`)
	s.group.Get(orders).Trip(t.Context(), "x")
	b.waitFor(openTotal + ` === "1"`)
	if !eval[bool](b, `document.querySelector(".unused").open`) {
		t.Error("the update has closed the list")
	}
	b.wantClean(s.host)
}

// A tab that nobody sees costs the server nothing.
func TestPausedWhileHidden(t *testing.T) {
	s, b := newSite(t), newTab(t)
	b.open(s.url)
	hide := func(hidden bool) {
		b.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(
			`Object.defineProperty(document, "hidden", {configurable: true, value: %v});
			document.dispatchEvent(new Event("visibilitychange"))`, hidden)))
	}
	hide(true)
	b.waitFor(`document.getElementById("connection").textContent === "Paused"`)
	for s.streams.Load() > 0 {
		time.Sleep(10 * time.Millisecond) // the server hears of it a little later; the test has a time limit
	}
	s.group.Get(orders).Trip(t.Context(), "x")
	hide(false)
	b.waitFor(openTotal + ` === "1"`)
	b.wantClean(s.host)
}

func TestFilter(t *testing.T) {
	s, b := newSite(t), newTab(t)
	for i := range 60 {
		s.group.Get(breaker.Key{Target: fmt.Sprintf("dns:///backend-%02d", i)})
	}
	s.group.Get(orders).Trip(t.Context(), "x")
	b.open(s.url)
	b.run(chromedp.Click(chromedp.CSS(`a[rel=next]`)))
	b.waitFor(`document.querySelectorAll("tbody tr[id]").length === 11`)
	b.run(chromedp.SendKeys(chromedp.CSS("#q"), "BACKEND-3\n"))
	b.waitFor(`document.querySelectorAll("tbody tr[id]").length === 10 && location.search === "?q=BACKEND-3&state="`)
	b.run(chromedp.Click(chromedp.CSS(`.total.open`)))
	b.waitFor(`document.getElementById("state").value === "open"`)
	b.waitFor(`document.querySelectorAll("tbody tr[id]").length === 1`)
	b.waitFor(`document.getElementById("connection").textContent === "Live"`)
	s.group.Get(orders).Reset(t.Context())
	b.waitFor(`document.querySelector("tbody").textContent.includes("No breaker matches")`)
	b.wantClean(s.host)
}

func TestOverrideRoundTrip(t *testing.T) {
	s, b := newSite(t), newTab(t)
	br := s.group.Get(orders)
	address := s.breakerURL(t, b, orders.String())
	b.open(address)
	b.run(
		chromedp.SetValue(chromedp.CSS(`select[name=action]`), "force_open"),
		chromedp.SetValue(chromedp.CSS(`select[name=ttl]`), "5m"),
		chromedp.SendKeys(chromedp.CSS(`input[name=why]`), `<b>"bad" deploy</b>`+"\n"),
	)
	b.waitFor(`document.querySelector(".override")?.textContent.startsWith("forced open by alice for ")`)
	got := br.Snapshot().Override
	want := breaker.Override{Mode: breaker.ForceOpen, TTL: got.TTL, Why: `<b>"bad" deploy</b>`, By: "alice"}
	if got != want || got.TTL <= 0 || got.TTL > 5*time.Minute {
		t.Errorf("the override is %+v, want %+v for at most 5 minutes", got, want)
	}
	if eval[string](b, "location.href") != address {
		t.Errorf("the address is now %s", eval[string](b, "location.href"))
	}
	b.run(chromedp.Click(chromedp.CSS(`button[value=clear]`)))
	b.waitFor(`document.readyState === "complete" && !document.querySelector(".override")`)
	if o := br.Snapshot().Override; o.Mode != 0 {
		t.Errorf("the override is still %+v", o)
	}
	b.wantClean(s.host)
}

// A page of another site cannot act with the rights of the person who visits it.
func TestCrossSitePost(t *testing.T) {
	s, b := newSite(t), newTab(t)
	br := s.group.Get(orders)
	id := strings.SplitN(s.breakerURL(t, b, orders.String()), "key=", 2)[1]
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<form method="post" action="%sact"><input name="key" value=%q><input name="action" value="trip">`+
			`<input name="why" value="x"><button>Win a prize</button></form>`, s.url, id)
	}))
	defer evil.Close()
	for _, host := range []string{"127.0.0.1", "localhost"} { // another port of the same site, and another site
		b.run(
			chromedp.Navigate(strings.Replace(evil.URL, "127.0.0.1", host, 1)),
			chromedp.Click(chromedp.CSS("button")),
		)
		b.waitFor(`location.pathname.endsWith("/act")`)
		if text := eval[string](b, "document.body.innerText"); !strings.Contains(text, "cross-origin request") {
			t.Errorf("from %s: the answer is %q", host, text)
		}
		if br.State() != breaker.Closed {
			t.Fatalf("from %s: the breaker is %v", host, br.State())
		}
	}
}

// The strict policy forbids nothing that the page does. The test also checks that it detects a violation.
func TestPolicyIsEnforced(t *testing.T) {
	s, b := newSite(t), newTab(t)
	b.run(chromedp.Navigate("http://" + s.host + "/broken"))
	b.waitFor(`document.title === "broken"`)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.errors) < 2 {
		t.Errorf("a page with inline script and style: errors are %q, want at least two", b.errors)
	}
}

func TestManyBreakers(t *testing.T) {
	s, b := newSite(t), newTab(t)
	for i := range 10_000 {
		br := s.group.Get(breaker.Key{Target: orders.Target, Service: orders.Service, Method: fmt.Sprintf("Method%05d", i)})
		if i%100 == 0 {
			br.Trip(t.Context(), "x")
		}
	}
	best := 1e9
	b.open(s.url)
	b.waitFor(openTotal + ` === "100"`)
	for tries := 0; tries < 10 && best >= 1000; tries++ { // the machine may be busy
		b.open(s.url)
		b.waitFor(`performance.getEntriesByName("first-contentful-paint").length === 1`)
		best = min(best, eval[float64](b, `performance.getEntriesByName("first-contentful-paint")[0].startTime`))
	}
	t.Logf("first paint of 10 000 breakers after %.0f ms", best)
	if best >= 1000 {
		t.Errorf("first paint after %.0f ms, want less than 1 s", best)
	}
	b.waitFor(openTotal + ` === "100" && document.querySelectorAll("tbody tr.open").length === 50`)
	b.wantClean(s.host)
}

// shop makes breakers in all states, with names that are hard to lay out.
func shop(t *testing.T, s *site) {
	t.Helper()
	key := func(target, method string) breaker.Key {
		service := "shop." + strings.ToUpper(target[:1]) + target[1:]
		return breaker.Key{Target: "dns:///" + target + ".prod:443", Service: service, Method: method}
	}
	override := func(k breaker.Key, mode breaker.Mode, why string) {
		o := breaker.Override{Mode: mode, TTL: 45 * time.Minute, Why: why, By: "alice"}
		if err := s.group.Get(k).SetOverride(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	failing, healthy := s.group.Get(key("orders", "Get")), []*breaker.Breaker{
		s.group.Get(key("users", "Lookup")), s.group.Get(key("catalogue", "Search")), s.group.Get(key("payments", "Charge")),
	}
	override(key("mail", "Send"), breaker.ForceOpen, "provider is down until 14:00")
	override(key("payments", "Refund"), breaker.Shadow, "trying the new policy")
	long := breaker.Key{Target: strings.Repeat("a-very-long-name.", 20), Tag: "<b>\n"}
	s.group.Get(long)
	override(long, breaker.ForceClosed, strings.Repeat("nospace", 40))
	for began := time.Now(); ; {
		at := time.Since(began)
		for i, b := range healthy {
			for range (i+1)*4 + int(at/(500*time.Millisecond))%5 {
				call(b, breaker.Success, "")
			}
		}
		for range 8 {
			if at < *history*2/3 {
				call(failing, breaker.Success, "")
			} else {
				call(failing, breaker.Failure, "UNAVAILABLE")
			}
		}
		call(s.group.Get(key("payments", "Refund")), breaker.Failure, "DEADLINE_EXCEEDED")
		if at >= *history && failing.State() == breaker.Open {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func call(b *breaker.Breaker, o breaker.Outcome, cause string) {
	permit, err := b.Acquire(context.Background())
	if errors.As(err, new(*breaker.RejectedError)) {
		return
	}
	permit.Report(context.Background(), breaker.Report{Outcome: o, Cause: cause})
}

// The page in light, dark and on a phone. With -screenshots it writes the images of the documentation.
func TestLooks(t *testing.T) {
	rule := func(name, service string) breaker.PolicyRule {
		cfg := breaker.Config{SlowCall: time.Second}
		return breaker.PolicyRule{Name: name, Match: breaker.Key{Service: service}, Config: cfg}
	}
	s, b := newSite(t, breaker.WithPolicy(rule("payments", "shop.Payments"), rule("orders", "shop.Ordres"))), newTab(t)
	shop(t, s)
	colours := make(map[string]string)
	for _, scheme := range []string{"light", "dark"} {
		b.colorScheme(scheme)
		b.open(s.url)
		colours[scheme] = eval[string](b, `getComputedStyle(document.body).backgroundColor`)
		b.shoot("statusz-" + scheme)
	}
	if colours["light"] != "rgb(255, 255, 255)" || colours["dark"] != "rgb(22, 24, 28)" {
		t.Errorf("the backgrounds are %v", colours)
	}
	b.colorScheme("light")
	b.phone()
	addresses := append([]string{s.url}, eval[[]string](b, `[...document.querySelectorAll("a.name")].map(a => a.href)`)...)
	for _, address := range addresses {
		b.open(address)
		if got := eval[int](b, `document.documentElement.scrollWidth`); got > 390 {
			t.Errorf("%s is %d pixels wide on a phone with 390", address, got)
		}
	}
	b.open(s.url)
	b.shoot("statusz-phone")
	b.wantClean(s.host)
}

// The page works with the keyboard, and has the roles and labels that a screen reader needs.
func TestAccessible(t *testing.T) {
	s, b := newSite(t), newTab(t)
	s.group.Get(orders)
	b.open(s.url)
	b.waitFor(`document.querySelector("tbody th")`)
	for _, want := range []string{
		`document.documentElement.lang === "en"`,
		`document.querySelectorAll("main, header, form[role=search], nav[aria-label]").length === 4`,
		`document.querySelectorAll("h1").length === 1`,
		`[...document.querySelectorAll("thead th")].every(th => th.scope === "col")`,
		`document.querySelector("tbody th").scope === "row"`,
		`[...document.querySelectorAll("input:not([type=hidden]), select")].every(e => e.labels.length > 0)`,
		`document.getElementById("summary").getAttribute("aria-live") === "polite"`,
	} {
		if !eval[bool](b, want) {
			t.Errorf("not true: %s", want)
		}
	}
	b.run(chromedp.KeyEvent("\t"))
	if got := eval[string](b, "document.activeElement.className"); got != "skip" {
		t.Errorf("the first element that Tab reaches is %q, want the link to the breakers", got)
	}
	reached := false
	for range 12 {
		b.run(chromedp.KeyEvent("\t"))
		reached = reached || eval[bool](b, `document.activeElement.className === "name"`)
	}
	if !reached {
		t.Error("Tab does not reach the breaker")
	}
}

// shoot writes a screenshot, if asked to.
func (b *tab) shoot(name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if len(png) > 160_000 {
		b.t.Errorf("%s has %d bytes, want at most 160 kB", name, len(png))
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
