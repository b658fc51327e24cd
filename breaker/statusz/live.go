package statusz

import (
	"bytes"
	"net/http"
	"sync"
	"time"
)

const (
	maxRenderings = 64               // HTML of one frame that is kept for other viewers, by query
	writeTimeout  = 10 * time.Second // for one update to one viewer
	keepAlive     = 5 * time.Second  // longest time without a write: the script reports a lost connection after 8 s
)

// renderings holds the HTML of a frame by query. Viewers of the same list share it.
type renderings struct {
	mu      sync.Mutex
	byQuery map[query]func() []byte // guarded by mu
}

// of returns the HTML of q. The first caller makes it, and other callers wait for it.
func (rs *renderings) of(q query, render func() []byte) []byte {
	rs.mu.Lock()
	html := rs.byQuery[q]
	if html == nil {
		html = sync.OnceValue(render)
		if rs.byQuery == nil {
			rs.byQuery = make(map[query]func() []byte)
		}
		if len(rs.byQuery) < maxRenderings {
			rs.byQuery[q] = html
		}
	}
	rs.mu.Unlock()
	return html()
}

// serveLive writes the stream of server-sent events. Each event is the HTML of the live part of the page.
func (p *Page) serveLive(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query(), pageSize)
	if id := r.URL.Query().Get("key"); err == nil && id != "" {
		_, err = decodeKey(id)
		q = query{key: id, page: 1}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	q.limit = min(q.limit, maxPageSize)
	if r.Method == http.MethodHead {
		return
	}
	if !p.sampler.join() {
		w.WriteHeader(http.StatusNoContent) // makes the browser stop reconnecting
		return
	}
	defer p.sampler.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")                 // otherwise nginx buffers the events
	w.Header().Set("Cache-Control", "no-store, no-transform") // otherwise a proxy that compresses buffers them
	p.stream(stream{w, http.NewResponseController(w)}, r.Context().Done(), q)
}

// stream writes an event for each frame in which something has changed, until the viewer disconnects or the page is
// closed.
func (p *Page) stream(s stream, gone <-chan struct{}, q query) {
	defer s.control.SetWriteDeadline(time.Time{}) //nolint:errcheck // not all servers have deadlines
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	f := p.sampler.current()
	var sent []byte
	for {
		html := p.fragment(f, q)
		if !bytes.Equal(html, sent) {
			if s.event(html) != nil {
				return
			}
			sent = html
			idle.Reset(keepAlive)
		}
		select {
		case <-f.next:
			f = p.sampler.current()
		case <-idle.C:
			if s.write([]byte("event: alive\ndata: 1\n\n")) != nil { // an event, because the script cannot see comments
				return
			}
		case <-gone:
			return
		case <-p.done:
			return
		}
	}
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// event writes html as one event. Each line of html is a data line. The text of a search may contain a carriage return.
// In the stream it ends a line too, and the rest of that line would be taken as another field. So event replaces it by
// a line feed, which means the same in HTML.
func (s stream) event(html []byte) error {
	if bytes.IndexByte(html, '\r') >= 0 {
		html = bytes.ReplaceAll(bytes.ReplaceAll(html, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	}
	buf := make([]byte, 0, len(html)+len(html)/16+32)
	buf = append(buf, "event: update\n"...)
	for line := range bytes.Lines(html) {
		buf = append(buf, "data: "...)
		buf = append(buf, bytes.TrimRight(line, "\n")...)
		buf = append(buf, '\n')
	}
	return s.write(append(buf, '\n'))
}

// write writes and flushes. The deadline replaces the server's WriteTimeout, which would end the stream, and bounds how
// long a viewer that does not read can hold its goroutine.
func (s stream) write(b []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.control.Flush()
}
