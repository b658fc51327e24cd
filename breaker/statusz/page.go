package statusz

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Option configures [Handler]. The With functions of this package return options.
type Option interface{ apply(p *Page) }

type option func(p *Page)

func (f option) apply(p *Page) { f(p) }

// WithHistory keeps the sampler running from the start, so that the first viewer already sees the last two minutes. It
// costs one snapshot of all breakers each second, in a goroutine that ends at [Page.Close]. Default: the sampler runs
// only while there are viewers.
func WithHistory() Option { return option(func(p *Page) { p.keepHistory = true }) }

// WithName sets the name that the page has, in its heading and title, in the text and in JSON. A person on call has
// pages of many processes open, and each of them has other breakers. Default: the name of the program and of the host,
// such as "shop on pod-7".
func WithName(name string) Option { return option(func(p *Page) { p.name = name }) }

// WithActions lets people act on breakers: trip, reset, force open, force closed, shadow and clear. authorize reports
// whether the sender of the request may act, and returns the sender's name. The name becomes the author of overrides,
// and is added to the reason of Trip. authorize is called for each action. It is also called for each page of one
// breaker, which has the forms only if the sender may act. It must check a credential that it can verify, such as a
// session or a client certificate.
//
// Only POST requests act. [http.CrossOriginProtection] refuses requests from pages of other sites. If authorize returns
// an empty name, the request is refused too. A nil authorize panics. Default: the page is read-only.
func WithActions(authorize func(r *http.Request) (who string, ok bool)) Option {
	if authorize == nil {
		panic("statusz: WithActions: the function is nil")
	}
	return option(func(p *Page) { p.authorize = authorize })
}

// WithLogger sets the logger of actions. Each action is a line of level WARN with the key, the action, the author, the
// reason and the time to live. A nil logger panics. Default: slog.Default().
func WithLogger(logger *slog.Logger) Option {
	if logger == nil {
		panic("statusz: WithLogger: the logger is nil")
	}
	return option(func(p *Page) { p.logger = logger })
}

// A Page is an [http.Handler] that shows the breakers of a group. It is safe for concurrent use. It owns one goroutine
// while there are viewers, or until Close if it has [WithHistory]. It listens to the transitions of the group until
// Close. It must come from [Handler].
type Page struct {
	name        string
	logger      *slog.Logger // of actions; nil: slog.Default()
	group       *breaker.Group
	sampler     *sampler
	transitions transitions
	authorize   func(r *http.Request) (who string, ok bool) // nil: read-only
	keepHistory bool
	origin      *http.CrossOriginProtection

	done  chan struct{} // closed by Close
	close func()
}

// Handler returns the page of a group. Mount it at a path that ends in a slash, usually "/debug/breakers/". All its
// links are relative. A nil group and a nil option panic.
func Handler(group *breaker.Group, opts ...Option) *Page {
	if group == nil {
		panic("statusz: Handler: the group is nil")
	}
	p := &Page{
		name:        defaultName(),
		group:       group,
		sampler:     newSampler(group),
		transitions: transitions{byKey: make(map[breaker.Key]*recent)},
		origin:      http.NewCrossOriginProtection(),
		done:        make(chan struct{}),
	}
	for i, opt := range opts {
		if f, ok := opt.(option); opt == nil || (ok && f == nil) {
			panic(fmt.Sprintf("statusz: Handler: option %d is nil", i))
		}
		opt.apply(p)
	}
	unlisten := group.Listen(p.transitions.listen)
	if p.keepHistory {
		p.sampler.join()
	}
	p.close = sync.OnceFunc(func() {
		unlisten()
		close(p.done)
		if p.keepHistory {
			p.sampler.leave()
		}
		p.sampler.close()
	})
	return p
}

func defaultName() string {
	name := "this program"
	if len(os.Args) > 0 {
		name = filepath.Base(os.Args[0])
	}
	if host, err := os.Hostname(); err == nil {
		name += " on " + host
	}
	return name
}

// Close ends the live streams of all viewers and the history, and removes the listener from the group. It waits until
// the streams have ended. Without it, [http.Server.Shutdown] waits until the viewers disconnect:
//
//	server.RegisterOnShutdown(page.Close)
//
// A closed page still answers, without live updates. Close may be called more than once.
func (p *Page) Close() { p.close() }

//go:embed static
var static embed.FS

// asset is an embedded file that the page refers to.
type asset struct {
	contentType string
	body        []byte
}

// assets are all embedded files, and a version of them that is part of their addresses.
var assets, assetVersion = func() (map[string]asset, string) {
	m := make(map[string]asset)
	sum := sha256.New()
	for name, contentType := range map[string]string{
		"statusz.css": "text/css; charset=utf-8",
		"statusz.js":  "text/javascript; charset=utf-8",
		"statusz.svg": "image/svg+xml",
	} {
		body, err := static.ReadFile("static/" + name)
		if err != nil {
			panic(err) // the build embeds it
		}
		m[name] = asset{contentType, body}
	}
	for _, name := range []string{"statusz.css", "statusz.js", "statusz.svg"} {
		sum.Write(m[name].body)
	}
	return m, hex.EncodeToString(sum.Sum(nil)[:6])
}()

// The page loads only its own script, style and icon, and other pages may not embed it.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP uses only the last element of the path, so that the page works below any prefix.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // not no-referrer: then the Origin of a form would be null
	h.Set("Cache-Control", "no-store")
	_, name := path.Split(r.URL.Path)
	if name == "act" {
		p.serveAction(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "only GET is allowed here")
		return
	}
	switch name {
	case "":
		p.serveList(w, r)
	case "breaker":
		p.serveBreaker(w, r)
	case "live":
		p.serveLive(w, r)
	default:
		a, ok := assets[name]
		if !ok {
			fail(w, http.StatusNotFound, "no such page; the handler must be mounted at a path that ends in a slash")
			return
		}
		h.Set("Content-Type", a.contentType)
		h.Set("Cache-Control", "private, max-age=86400")
		_, _ = w.Write(a.body)
	}
}

// fail writes an error as text. Unlike http.Error, it keeps the headers that are already set.
func fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte("statusz: " + text + "\n")) //nolint:gosec // it is text, and nosniff
}

func (p *Page) serveList(w http.ResponseWriter, r *http.Request) {
	f, err := formatOf(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	limit := 0
	if f == formatHTML {
		limit = pageSize
	}
	q, err := parseQuery(r.URL.Query(), limit)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	var body bytes.Buffer
	frame := p.sampler.current()
	switch f {
	case formatJSON:
		err = p.writeJSON(&body, frame, q)
	case formatText:
		err = p.writeText(&body, frame, q)
	case formatHTML:
		q.limit = min(q.limit, maxPageSize)
		err = p.writeHTML(&body, frame, q, nil)
	}
	p.send(w, f, &body, err)
}

func (p *Page) serveBreaker(w http.ResponseWriter, r *http.Request) {
	f, err := formatOf(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	id := r.URL.Query().Get("key")
	key, err := decodeKey(id)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	frame := p.sampler.current()
	found := p.find(frame, key)
	if found == nil {
		fail(w, http.StatusNotFound, "there is no breaker for this key (any more): "+printable(key.String(), maxText))
		return
	}
	var body bytes.Buffer
	switch f {
	case formatJSON:
		err = p.writeBreakerJSON(&body, frame, found)
	case formatText:
		body.WriteString(p.line(frame, found))
	case formatHTML:
		err = p.writeHTML(&body, frame, query{key: id, page: 1}, p.actor(r))
	}
	p.send(w, f, &body, err)
}

// find returns the breaker of k from f. If it is not in f, because it is idle or new, find takes a snapshot now. It
// returns nil if there is no such breaker.
func (p *Page) find(f *frame, k breaker.Key) *row {
	if r := f.find(k); r != nil {
		return r
	}
	b, ok := p.group.Lookup(k)
	if !ok {
		return nil
	}
	r := &row{Snapshot: b.Snapshot()}
	r.Key = k // as in sample
	return r
}

func (p *Page) send(w http.ResponseWriter, f format, body *bytes.Buffer, err error) {
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Add("Vary", "Accept, User-Agent")
	w.Header().Set("Content-Type", [...]string{
		formatHTML: "text/html; charset=utf-8",
		formatJSON: "application/json",
		formatText: "text/plain; charset=utf-8",
	}[f])
	_, _ = body.WriteTo(w) // an error means that the client has disconnected
}
