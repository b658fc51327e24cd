package statusz

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// byHeader authorizes by a header that only the test sets.
func byHeader(r *http.Request) (string, bool) {
	who := r.Header.Get("Test-User")
	return who, who != "" && who != "mallory"
}

// post sends a form to act, as alice unless the header says otherwise.
func post(tb testing.TB, p http.Handler, form url.Values, header ...string) *httptest.ResponseRecorder {
	tb.Helper()
	body := strings.NewReader(form.Encode())
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/debug/breakers/act", body)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Test-User", "alice")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

func form(k breaker.Key, fields ...string) url.Values {
	v := url.Values{"key": {encodeKey(k)}}
	for i := 0; i < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return v
}

func TestActions(t *testing.T) {
	var logged bytes.Buffer
	var events []string
	g := newGroup(t,
		breaker.LogTransitions(slog.New(slog.NewTextHandler(&logged, nil))),
		breaker.WithListener(func(_ context.Context, e breaker.Event) {
			events = append(events, e.From.String()+">"+e.To.String()+" "+e.Rule.String()+": "+e.Why)
		}))
	p := newPage(t, g, WithActions(byHeader))
	b := g.Get(orders)
	steps := []struct {
		form  url.Values
		state breaker.State
		mode  breaker.Mode
		ttl   time.Duration // at most
	}{
		{form(orders, "action", "trip", "why", "bad deploy"), breaker.Open, 0, 0},
		{
			form(orders, "action", "force_closed", "why", "we need it", "ttl", "15m", "by", "somebody else"),
			breaker.Closed, breaker.ForceClosed, 15 * time.Minute,
		},
		{form(orders, "action", "shadow", "why", "to see", "ttl", "1h"), breaker.Open, breaker.Shadow, time.Hour},
		{form(orders, "action", "force_open", "why", "enough", "ttl", "0"), breaker.Open, breaker.ForceOpen, 0},
		{form(orders, "action", "reset"), breaker.Open, breaker.ForceOpen, 0},
		{form(orders, "action", "clear"), breaker.Closed, 0, 0},
	}
	for _, step := range steps {
		w := post(t, p, step.form)
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "breaker?key="+encodeKey(orders) {
			t.Fatalf("%v: status %d to %q: %s", step.form, w.Code, w.Header().Get("Location"), w.Body)
		}
		s := b.Snapshot()
		ttl := s.Override.TTL
		if s.State != step.state || s.Override.Mode != step.mode || ttl > step.ttl || (ttl > 0) != (step.ttl > 0) {
			t.Errorf("%v: state %v, override %+v", step.form, s.State, s.Override)
		}
		if s.Override.Mode != 0 && s.Override.By != "alice" {
			t.Errorf("%v: the author is %q, want alice", step.form, s.Override.By)
		}
		// The page after the redirect shows the change, although less than a second has passed.
		wantIn(t, get(t, p, w.Header().Get("Location")).Body.String(), `class="badge `+step.state.String())
	}
	want := []string{
		"closed>open manual: bad deploy (by alice)", "open>open : override set", "open>open : override set",
		"open>open : override set", "open>closed manual: reset", "closed>closed : override cleared",
	}
	if diff := cmp.Diff(events, want); diff != "" {
		t.Errorf("events (-got +want):\n%s", diff)
	}
	wantIn(t, get(t, p, "breaker?key="+encodeKey(orders)).Body.String(),
		" UTC override set: force_open by alice, enough</li>", " UTC open → closed: reset</li>", " UTC override cleared</li>")
	wantIn(t, logged.String(), `why="bad deploy (by alice)"`, `mode=force_closed by=alice why="we need it" ttl=15m0s`,
		"override cleared")
}

func TestRefusedActions(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g, WithActions(byHeader))
	readOnly := newPage(t, g)
	g.Get(orders)
	trip := form(orders, "action", "trip", "why", "a test")
	tooLong := strings.Repeat("x", maxForm)
	override := func(fields ...string) url.Values {
		return form(orders, append([]string{"action", "force_open", "why", "a test", "ttl", "5m"}, fields...)...)
	}
	for name, tt := range map[string]struct {
		page   *Page
		form   url.Values
		header []string
		status int
		text   string
	}{
		"read-only":            {readOnly, trip, nil, http.StatusForbidden, "read-only"},
		"nobody":               {p, trip, []string{"Test-User", ""}, http.StatusForbidden, "may not act"},
		"not authorized":       {p, trip, []string{"Test-User", "mallory"}, http.StatusForbidden, "may not act"},
		"blank name":           {p, trip, []string{"Test-User", " "}, http.StatusForbidden, "may not act"},
		"cross-site":           {p, trip, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden, "cross-origin"},
		"same site":            {p, trip, []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden, "cross-origin"},
		"other origin":         {p, trip, []string{"Origin", "https://evil.example"}, http.StatusForbidden, "cross-origin"},
		"null origin":          {p, trip, []string{"Origin", "null"}, http.StatusForbidden, "cross-origin"},
		"bad form":             {p, trip, []string{"Content-Type", ";"}, http.StatusBadRequest, "cannot be read"},
		"other encoding":       {p, trip, []string{"Content-Type", "text/plain"}, http.StatusBadRequest, "not an id"},
		"no key":               {p, url.Values{"action": {"trip"}}, nil, http.StatusBadRequest, "not an id"},
		"bad key":              {p, url.Values{"key": {"AAAAA"}}, nil, http.StatusBadRequest, "not an id"},
		"unknown key":          {p, form(users, "action", "trip", "why", "x"), nil, http.StatusNotFound, "no breaker"},
		"no action":            {p, form(orders), nil, http.StatusBadRequest, "action is"},
		"bad mode":             {p, override("action", "force_ajar"), nil, http.StatusBadRequest, "action is"},
		"trip without reason":  {p, form(orders, "action", "trip"), nil, http.StatusBadRequest, "why is empty"},
		"force without reason": {p, override("why", " \n"), nil, http.StatusBadRequest, "why is empty"},
		"long reason":          {p, override("why", strings.Repeat("x", 501)), nil, http.StatusBadRequest, "501 characters"},
		"no ttl":               {p, override("ttl", ""), nil, http.StatusBadRequest, "ttl is"},
		"bad ttl":              {p, override("ttl", "soon"), nil, http.StatusBadRequest, "ttl is"},
		"ttl without a unit":   {p, override("ttl", "15"), nil, http.StatusBadRequest, "ttl is"},
		"negative ttl":         {p, override("ttl", "-5m"), nil, http.StatusBadRequest, "TTL"},
		"short ttl":            {p, override("ttl", "1ns"), nil, http.StatusBadRequest, "TTL"},
		"long ttl":             {p, override("ttl", "2000000h"), nil, http.StatusBadRequest, "TTL"},
		"huge form":            {p, override("why", tooLong), nil, http.StatusBadRequest, "cannot be read"},
	} {
		w := post(t, tt.page, tt.form, tt.header...)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s: status %d %q, want %d with %q", name, w.Code, w.Body, tt.status, tt.text)
		}
		if s := g.Get(orders).Snapshot(); s.Generation != 1 || s.Override.Mode != 0 {
			t.Fatalf("%s: the breaker has changed: %+v", name, s)
		}
	}
	w := get(t, p, "act?"+trip.Encode(), "Test-User", "alice")
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("GET: status %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	// Fields in the address are not part of the form.
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/act?"+trip.Encode(), http.NoBody)
	r.Header.Set("Test-User", "alice")
	rec := httptest.NewRecorder()
	p.ServeHTTP(rec, r)
	if rec.Code != http.StatusBadRequest {
		t.Errorf("fields in the address: status %d", rec.Code)
	}
}

// The size limit of the form also applies while authorize reads it. authorize is called once, and is not called for a
// request from another site.
func TestAuthorizeReadsALimitedForm(t *testing.T) {
	g := newGroup(t)
	g.Get(orders)
	var calls int
	var err error
	p := newPage(t, g, WithActions(func(r *http.Request) (string, bool) {
		calls++
		err = r.ParseForm()
		return "alice", r.PostForm.Get("token") == "secret"
	}))
	trip := form(orders, "action", "trip", "why", "a test", "token", "secret")
	if w := post(t, p, trip, "Sec-Fetch-Site", "cross-site"); w.Code != http.StatusForbidden || calls != 0 {
		t.Errorf("cross-site: status %d after %d calls", w.Code, calls)
	}
	if w := post(t, p, trip); w.Code != http.StatusSeeOther || calls != 1 {
		t.Errorf("status %d after %d calls", w.Code, calls)
	}
	trip.Set("why", strings.Repeat("x", maxForm))
	w := post(t, p, trip)
	if tooLarge := new(http.MaxBytesError); w.Code != http.StatusForbidden || calls != 2 || !errors.As(err, &tooLarge) {
		t.Errorf("huge form: status %d after %d calls, authorize got %v", w.Code, calls, err)
	}
}

// Only those who may act see the forms.
func TestForms(t *testing.T) {
	g := newGroup(t)
	g.Get(orders)
	target := "breaker?key=" + encodeKey(orders)
	p := newPage(t, g, WithActions(byHeader))
	for name, tt := range map[string]struct {
		page *Page
		user string
		want bool
	}{
		"alice": {p, "alice", true}, "mallory": {p, "mallory", false}, "read-only": {newPage(t, g), "alice", false},
	} {
		body := get(t, tt.page, target, "Test-User", tt.user).Body.String()
		if got := strings.Contains(body, `action="act"`); got != tt.want {
			t.Errorf("%s: forms %v, want %v", name, got, tt.want)
		}
	}
}

// Each action is a line with its author, also those whose transition has no author.
func TestActionsAreLogged(t *testing.T) {
	var logged bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	g := newGroup(t)
	g.Get(orders)
	p := newPage(t, g, WithActions(byHeader), WithLogger(logger))
	for _, f := range []url.Values{
		form(orders, "action", "trip", "why", "bad deploy"),
		form(orders, "action", "shadow", "why", "to see", "ttl", "1h"),
		form(orders, "action", "reset"),
		form(orders, "action", "clear"),
		form(orders, "action", "trip"), // refused: it has no reason
	} {
		post(t, p, f)
	}
	key := `key="` + orders.String() + `"`
	want := `level=WARN msg="circuit breaker changed on its page" ` + key + ` action=trip by=alice why="bad deploy"
level=WARN msg="circuit breaker changed on its page" ` + key + ` action=shadow by=alice why="to see" ttl=1h0m0s
level=WARN msg="circuit breaker changed on its page" ` + key + ` action=reset by=alice
level=WARN msg="circuit breaker changed on its page" ` + key + ` action=clear by=alice
`
	if diff := cmp.Diff(logged.String(), want); diff != "" {
		t.Errorf("log (-got +want):\n%s", diff)
	}
	defer func() {
		if got, want := recover(), "statusz: WithLogger: the logger is nil"; got != want {
			t.Errorf("the panic is %v, want %s", got, want)
		}
	}()
	WithLogger(nil)
}

// A reason is as long as its characters, not their bytes: the form allows 500 of any script.
func TestReasonInAnyScript(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g, WithActions(byHeader), WithLogger(slog.New(slog.DiscardHandler)))
	why := strings.Repeat("障", 500)
	w := post(t, p, form(orders, "action", "force_open", "why", why, "ttl", "5m"))
	if w.Code != http.StatusNotFound {
		t.Fatalf("without a breaker: status %d, want 404", w.Code)
	}
	b := g.Get(orders)
	w = post(t, p, form(orders, "action", "force_open", "why", why, "ttl", "5m"))
	if w.Code != http.StatusSeeOther || b.Snapshot().Override.Why != why {
		t.Errorf("status %d %s, and the reason is %q", w.Code, w.Body, b.Snapshot().Override.Why)
	}
}

// An authorizer that panics lets nobody act. The server ends that request only, and the page works on.
func TestAuthorizerThatPanics(t *testing.T) {
	g := newGroup(t)
	g.Get(orders)
	p := newPage(t, g, WithActions(func(*http.Request) (string, bool) { panic("no session store") }))
	s := httptest.NewUnstartedServer(p)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	defer s.Close()
	body := form(orders, "action", "force_open", "why", "a test", "ttl", "5m")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/act", strings.NewReader(body.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, err := s.Client().Do(r); err == nil {
		resp.Body.Close()
		t.Errorf("status %d, want a closed connection", resp.StatusCode)
	}
	if o := g.Get(orders).Snapshot().Override; o.Mode != 0 {
		t.Errorf("the override is %+v, want none", o)
	}
	wantIn(t, get(t, p, "").Body.String(), orders.String())
}
