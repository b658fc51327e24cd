package statusz

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const (
	pageSize  = 50   // breakers on a page of HTML
	maxSearch = 1024 // bytes
)

// The values of the parameter state, besides none.
const (
	stateOpen     = "open"
	stateHalfOpen = "half_open"
	stateClosed   = "closed"
	stateNotReady = "not_ready"
	stateOverride = "override"
)

var stateFilters = [...]struct{ Value, Label string }{
	{"", "All states"},
	{stateOpen, "Open"},
	{stateHalfOpen, "Half-open"},
	{stateClosed, "Closed"},
	{stateNotReady, "Not ready"},
	{stateOverride, "With an override"},
}

// query holds the parameters of a request. It is comparable, and two requests with the same query get the same bytes.
type query struct {
	key   string // id of the breaker to show; empty: the list
	text  string
	state string
	page  int // from 1
	limit int // breakers on a page; 0: all
}

// parseQuery reads the parameters q, state, page and limit.
func parseQuery(v url.Values, limit int) (query, error) {
	q := query{text: strings.TrimSpace(v.Get("q")), state: v.Get("state"), page: 1, limit: limit}
	if len(q.text) > maxSearch {
		return q, fmt.Errorf("q has %d bytes, want at most %d", len(q.text), maxSearch)
	}
	switch q.state {
	case "", stateOpen, stateHalfOpen, stateClosed, stateNotReady, stateOverride:
	default:
		return q, fmt.Errorf("state is %q, want one of open, half_open, closed, not_ready and override", q.state)
	}
	for _, p := range []struct {
		name string
		to   *int
	}{{"page", &q.page}, {"limit", &q.limit}} {
		text := v.Get(p.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1_000_000 {
			return q, fmt.Errorf("%s is %q, want a number from 1 to 1000000", p.name, text)
		}
		*p.to = n
	}
	return q, nil
}

// url returns the relative address of a page of the same list.
func (q query) url(page int) string { return "?" + q.values(page).Encode() }

func (q query) values(page int) url.Values {
	v := make(url.Values)
	for name, value := range map[string]string{"key": q.key, "q": q.text, "state": q.state} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if page > 1 {
		v.Set("page", strconv.Itoa(page))
	}
	if q.limit > 0 && q.limit != pageSize {
		v.Set("limit", strconv.Itoa(q.limit))
	}
	return v
}

// words returns the words of the search, in lower case. A key must contain all of them, in any order: errors name the
// method before the target, and logs the target before the method. A full method name may begin with a slash.
func (q query) words() []string {
	words := strings.Fields(strings.ToLower(q.text))
	for i, word := range words {
		words[i] = strings.TrimPrefix(word, "/")
	}
	return words
}

func (q query) hasState(s *breaker.Snapshot) bool {
	switch q.state {
	case stateOpen:
		return s.State == breaker.Open
	case stateHalfOpen:
		return s.State == breaker.HalfOpen
	case stateClosed:
		return s.State == breaker.Closed
	case stateNotReady:
		return !s.Ready
	case stateOverride:
		return s.Override.Mode != 0
	}
	return true
}

// cut returns the rows of the page of q, the number of that page, and the number of pages. For a page beyond the last
// it returns the last, because the list may get shorter while a person reads it.
func (q query) cut(rows []*row) (part []*row, page, pages int) {
	if q.limit == 0 {
		return rows, 1, 1
	}
	pages = max(1, (len(rows)+q.limit-1)/q.limit)
	page = min(q.page, pages)
	return rows[(page-1)*q.limit : min(page*q.limit, len(rows))], page, pages
}

// format is the format of an answer.
type format int

const (
	formatHTML format = iota
	formatJSON
	formatText
)

// formatOf returns the format of the parameter format. Without it, the headers decide: browsers accept text/html.
func formatOf(r *http.Request) (format, error) {
	switch f := r.URL.Query().Get("format"); f {
	case "html":
		return formatHTML, nil
	case "json":
		return formatJSON, nil
	case "text":
		return formatText, nil
	case "":
	default:
		return formatHTML, fmt.Errorf("format is %q, want html, json or text", f)
	}
	accept, agent := r.Header.Get("Accept"), r.UserAgent()
	switch {
	case strings.Contains(accept, "text/html"):
		return formatHTML, nil
	case strings.Contains(accept, "application/json"):
		return formatJSON, nil
	case strings.Contains(accept, "text/plain"), strings.HasPrefix(agent, "curl/"), strings.HasPrefix(agent, "Wget/"):
		return formatText, nil
	}
	return formatHTML, nil
}
