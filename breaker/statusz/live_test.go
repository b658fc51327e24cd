package statusz

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// viewer is a ResponseWriter that collects the events of a live stream.
type viewer struct {
	header http.Header
	cancel context.CancelFunc
	done   chan struct{} // closed when the handler has returned

	mu     sync.Mutex
	status int
	body   strings.Builder // guarded by mu
	broken bool            // guarded by mu: writes fail
}

func (v *viewer) Header() http.Header { return v.header }

func (v *viewer) WriteHeader(status int) { v.status = status }

func (v *viewer) Flush() {}

func (v *viewer) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.broken {
		return 0, errors.New("the client has gone")
	}
	return v.body.Write(b)
}

// take returns what was written since the last call.
func (v *viewer) take() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	defer v.body.Reset()
	return v.body.String()
}

// watch starts a viewer of target.
func watch(p *Page, target string) *viewer {
	ctx, cancel := context.WithCancel(context.Background())
	v := &viewer{header: make(http.Header), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		p.ServeHTTP(v, httptest.NewRequestWithContext(ctx, http.MethodGet, "/"+target, http.NoBody))
	}()
	return v
}

func (v *viewer) leave() {
	v.cancel()
	<-v.done
}

func (p *Page) sampleCount() uint64 {
	p.sampler.mu.Lock()
	defer p.sampler.mu.Unlock()
	return p.sampler.samples
}

// The page shows within a second that a breaker has opened, and sends nothing that has not changed.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		b := g.Get(orders)
		v := watch(p, "live")
		time.Sleep(10 * time.Millisecond)
		wantIn(t, v.take(), "event: update\ndata: <div id=\"live\"", `<b>0</b> open`)
		if got := v.header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("Content-Type is %q", got)
		}
		b.Trip(t.Context(), "a test")
		time.Sleep(time.Second)
		wantIn(t, v.take(), `<b>1</b> open`, "a test", `data-title="1 open, 0 half-open"`)
		v.leave()
		if g := p.sampler.stop; g != nil {
			t.Error("the sampler runs without a viewer")
		}
	})
}

// The text of a search can neither end an event nor begin a field of the stream.
func TestLiveWithLineBreaksInTheSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPage(t, newGroup(t))
		for _, text := range []string{"a\r\rdata: b", "a\n\ndata: b", "a\r\n\r\ndata: b", "a\rretry: 1\rid: b"} {
			v := watch(p, "live?q="+url.QueryEscape(text))
			time.Sleep(10 * time.Millisecond)
			got := v.take()
			v.leave()
			if strings.Contains(got, "\r") {
				t.Errorf("%q: a carriage return is in the stream", text)
			}
			event, rest, ended := strings.Cut(got, "\n\n")
			if !ended || rest != "" {
				t.Errorf("%q: the stream is not one event: %q follows", text, rest)
			}
			for i, line := range strings.Split(event, "\n") {
				if want := "data: "; i > 0 && !strings.HasPrefix(line, want) {
					t.Errorf("%q: a line of the event is %q", text, line)
				}
			}
			wantIn(t, event, "</table>", "</nav>\ndata: </div>")
		}
	})
}

func TestLiveOfOneBreakerKeepsTheStreamAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		g.Get(users)
		v := watch(p, "live?key="+encodeKey(users))
		time.Sleep(10 * time.Millisecond)
		wantIn(t, v.take(), `<h2 class="name">dns:///users:443</h2>`)
		g.Remove(users)
		time.Sleep(time.Second)
		wantIn(t, v.take(), "no breaker for this key any more")
		time.Sleep(keepAlive)
		if got, want := v.take(), "event: alive\ndata: 1\n\n"; got != want { // a comment would not reach the script
			t.Errorf("got %q, want %q", got, want)
		}
		v.leave()
	})
}

// 100 viewers cost as many snapshots as one viewer, one of each breaker a second, and share the HTML.
func TestViewersShareSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		g.Get(orders)
		var vs []*viewer
		for range 100 {
			vs = append(vs, watch(p, "live"))
		}
		time.Sleep(10 * time.Millisecond)
		before := p.sampleCount()
		for range 60 {
			get(t, p, "") // the page itself uses what the viewers have
			time.Sleep(time.Second)
		}
		if got := p.sampleCount() - before; got != 60 {
			t.Errorf("100 viewers: %d samples in 60 s, want 60", got)
		}
		if n := len(p.sampler.current().rendered.byQuery); n != 1 {
			t.Errorf("%d renderings of the same list, want 1", n)
		}
		for _, v := range vs {
			v.leave()
		}
		before = p.sampleCount()
		time.Sleep(time.Minute)
		if got := p.sampleCount() - before; got != 0 {
			t.Errorf("%d samples without a viewer, want none", got)
		}
	})
}

// The first viewer after a long time does not get an old snapshot.
func TestFirstViewerSeesTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		b := g.Get(orders)
		get(t, p, "")
		time.Sleep(time.Minute)
		b.Trip(t.Context(), "a test")
		p.sampler.join() // its goroutine has not run yet
		defer p.sampler.leave()
		wantIn(t, get(t, p, "").Body.String(), "<b>1</b> open")
	})
}

// Many requests for pages do not cause more snapshots.
func TestRequestsShareSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPage(t, newGroup(t))
		for range 100 {
			get(t, p, "?format=json")
			get(t, p, "")
			time.Sleep(100 * time.Millisecond)
		}
		if got := p.sampleCount(); got != 10 {
			t.Errorf("%d samples in 10 s, want 10", got)
		}
	})
}

func TestClientThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := newPage(t, g)
		v := watch(p, "live")
		time.Sleep(10 * time.Millisecond)
		v.mu.Lock()
		v.broken = true
		v.mu.Unlock()
		g.Get(orders).Trip(t.Context(), "a test")
		<-v.done // without a panic
	})
}

// The sampler drops the history of a breaker when the breaker is removed.
func TestEntriesOfRemovedBreakers(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g)
	for i := range 10 {
		g.Get(manyKey(i))
		p.sampler.refresh()
		g.Remove(manyKey(i))
	}
	p.sampler.refresh()
	if n := len(p.sampler.entries); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// Close ends the streams, and makes browsers stop reconnecting.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		p := Handler(g, WithHistory())
		v := watch(p, "live")
		time.Sleep(3 * time.Second)
		p.Close()
		p.Close()
		<-v.done
		if w := get(t, p, "live"); w.Code != http.StatusNoContent {
			t.Errorf("live after Close: status %d, want 204", w.Code)
		}
		if w := get(t, p, ""); w.Code != http.StatusOK {
			t.Errorf("page after Close: status %d, want 200", w.Code)
		}
		g.Get(orders).Trip(t.Context(), "a test")
		if got := p.transitions.of(orders); got != nil {
			t.Errorf("transitions after Close: %v", got)
		}
	})
}

// The same over TCP: a server with timeouts, and a Shutdown that does not wait for viewers.
func TestLiveOverTCP(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) { testLiveOverTCP(t, http2) })
	}
}

func testLiveOverTCP(t *testing.T, http2 bool) {
	t.Helper()
	g := newGroup(t)
	p := newPage(t, g)
	s := httptest.NewUnstartedServer(p)
	s.Config.WriteTimeout = 300 * time.Millisecond
	s.Config.ReadTimeout = 300 * time.Millisecond
	s.Config.RegisterOnShutdown(p.Close)
	if s.EnableHTTP2 = http2; http2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	defer s.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/live", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(r)
	for tries := 1; err != nil && tries < 20; tries++ { // on a busy machine the handshake takes longer than the timeouts
		resp, err = s.Client().Do(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !strings.HasSuffix(t.Name(), resp.Proto) {
		t.Fatalf("the protocol is %s", resp.Proto)
	}
	lines := bufio.NewScanner(resp.Body)
	updated := false
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, "<b>0</b> open"):
			g.Get(orders).Trip(t.Context(), "a test")
		case strings.Contains(line, "<b>1</b> open"): // a second later, which is longer than the timeouts
			updated = true
			if err := s.Config.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream broke: %v", err)
	}
	if !updated {
		t.Error("the update did not come")
	}
}

func TestViewersComeAndGoConcurrentSafe(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 20 {
				v := watch(p, "live?q=orders")
				g.Get(orders).Trip(t.Context(), "a test")
				get(t, p, "?format=json")
				get(t, p, "breaker?key="+encodeKey(orders))
				if i%2 == 0 {
					p.sampler.refresh()
				}
				g.Get(orders).Reset(t.Context())
				v.leave()
			}
		})
	}
	wg.Wait()
}

func TestTransitionsAreBounded(t *testing.T) {
	ts := transitions{byKey: make(map[breaker.Key]*recent)}
	for i := range maxTransitions + 100 {
		ts.listen(t.Context(), breaker.Event{Key: breaker.Key{Tag: string(rune(i + 1))}, Why: "a"})
	}
	if n := len(ts.byKey); n != maxTransitions {
		t.Errorf("%d keys, want %d", n, maxTransitions)
	}
	for i := range 12 {
		ts.listen(t.Context(), breaker.Event{Key: orders, Why: string(rune('a' + i))})
	}
	var got strings.Builder
	for _, tr := range ts.of(orders) {
		got.WriteString(tr.Why)
	}
	if got.String() != "lkjih" {
		t.Errorf("transitions are %q, want the newest five first", got.String())
	}
}
