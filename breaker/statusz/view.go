package statusz

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"html/template"
	"io"
	"reflect"
	"strconv"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const maxPageSize = 500 // breakers on a page of HTML, if the parameter limit is larger

var templates = template.Must(template.ParseFS(static, "static/*.html"))

// pageView holds the values outside the live part.
type pageView struct {
	Version string // of the assets
	Name    string // of the program
	Title   string
	Detail  bool
	MayAct  bool
}

// listView is the live part of the list.
type listView struct {
	Live     string // address of the stream
	Title    string
	At       string
	Summary  string
	Totals   Totals
	Rates    string
	Group    breaker.GroupStats
	Query    string
	State    string
	States   any
	Matched  int
	Page     int
	Pages    int
	Prev     string // addresses; empty: none
	Next     string
	Rows     []rowView
	Unused   []string
	Filtered bool
}

// rowView is a breaker in the list.
type rowView struct {
	ID, DOM, Name  string
	Class, State   string
	Mode           string
	Ready          bool
	Policy         string
	Since, Opened  string
	Next, Override string
	Again          string // what opened it again since
	Rates          string
	Spark          *spark
	Transitions    []transitionView
}

// transitionView is one line of the last transitions. From is empty if only the override changed.
type transitionView struct{ At, To, From, Why string }

// detailView is the live part of the page of one breaker.
type detailView struct {
	Live    string
	Title   string
	At      string
	Summary string
	Gone    bool
	Row     rowView
	Parts   []field // of the key, in full
	Figures []field
	Config  []field
}

type field struct{ Name, Value, Note string }

// writeHTML writes a whole page. It is the page of one breaker if q names one, and otherwise the list. The forms are
// not in the fragment that viewers share, because not all viewers may act.
func (p *Page) writeHTML(w *bytes.Buffer, f *frame, q query, who *actor) error {
	v := pageView{
		Version: assetVersion, Name: printable(p.name, maxText), Title: f.title(), Detail: q.key != "", MayAct: who != nil,
	}
	if err := templates.ExecuteTemplate(w, "head", v); err != nil {
		return err
	}
	w.Write(p.fragment(f, q))
	if who != nil {
		form := struct{ ID, Who string }{q.key, printable(who.Name, maxText)}
		if err := templates.ExecuteTemplate(w, "actions", form); err != nil {
			return err
		}
	}
	return templates.ExecuteTemplate(w, "foot", v)
}

func (f *frame) title() string {
	return fmt.Sprintf("%d open, %d half-open", f.totals.Open, f.totals.HalfOpen)
}

// fragment returns the live part of a page.
func (p *Page) fragment(f *frame, q query) []byte {
	return f.rendered.of(q, func() []byte {
		var b bytes.Buffer
		render := p.renderList
		if q.key != "" {
			render = p.renderDetail
		}
		if err := render(&b, f, q); err != nil {
			return fmt.Appendf(nil, "<p>%s</p>", template.HTMLEscapeString(err.Error()))
		}
		return b.Bytes()
	})
}

func (p *Page) renderList(w io.Writer, f *frame, q query) error {
	rows := f.matching(q)
	part, page, pages := q.cut(rows)
	v := listView{
		Live: "live" + q.url(page), Title: f.title(), At: clockTime(f.at, f.at), Summary: f.totals.words(),
		Totals: f.totals, Rates: rateWords(f, f.totals.Rates), Group: f.group,
		Query: q.text, State: q.state, States: stateFilters[:],
		Matched: len(rows), Page: page, Pages: pages, Filtered: q.text != "" || q.state != "",
	}
	if page > 1 {
		v.Prev = q.url(page - 1)
	}
	if page < pages {
		v.Next = q.url(page + 1)
	}
	for _, r := range part {
		v.Rows = append(v.Rows, p.rowView(f, r, p.group.PolicyFor(r.Key), 3))
	}
	for _, rule := range f.unused {
		v.Unused = append(v.Unused, ruleName(rule))
	}
	return templates.ExecuteTemplate(w, "list", v)
}

func (p *Page) rowView(f *frame, r *row, policy breaker.Policy, transitions int) rowView {
	v := rowView{
		ID: encodeKey(r.Key), DOM: domID(r.Key), Name: keyName(r.Key),
		Class: r.State.String(), State: stateWord(r.State), Mode: modeWords(r.Mode), Ready: r.Ready,
		Policy: policyWords(policy), Since: sinceWords(f.at, r), Opened: openedWords(r), Next: nextWords(r),
		Again: reopenedWords(f.at, r), Override: overrideWords(r), Rates: rateWords(f, r.rates),
		Spark: p.sampler.history(f, r).sparkline(),
	}
	if r.Mode == breaker.Shadow {
		v.Class += " shadow"
	}
	for i, t := range p.transitions.of(r.Key) {
		if i == transitions {
			break
		}
		why := whyWords(t.Why, t.Cause)
		if i == 0 && transitions < keptTransitions && t.To == breaker.Open && t.Rule == r.Opened.Rule {
			why = "" // the row has it already
		}
		line := transitionView{At: clockTime(f.at, t.At), Why: why}
		if !t.OverrideChanged {
			line.From, line.To = stateWord(t.From), stateWord(t.To)
		}
		v.Transitions = append(v.Transitions, line)
	}
	return v
}

// domID returns a short id for the element of k. If two keys have the same id, the only effect is that the script may
// match the wrong rows.
func domID(k breaker.Key) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, encodeKey(k))
	return strconv.FormatUint(h.Sum64(), 36)
}

func (p *Page) renderDetail(w io.Writer, f *frame, q query) error {
	v := detailView{Live: "live" + q.url(1), At: clockTime(f.at, f.at)}
	key, err := decodeKey(q.key)
	if err != nil {
		return err
	}
	r := p.find(f, key)
	if r == nil {
		v.Gone, v.Title, v.Summary = true, "gone", "gone"
		return templates.ExecuteTemplate(w, "detail", v)
	}
	policy := p.group.PolicyFor(key)
	v.Row = p.rowView(f, r, policy, keptTransitions)
	v.Title = v.Row.State + ": " + v.Row.Name
	v.Summary = v.Row.State + " " + v.Row.Mode
	v.Parts = keyParts(key)
	v.Figures = figures(f, r)
	v.Config = configFields(policy)
	return templates.ExecuteTemplate(w, "detail", v)
}

// keyParts returns the parts of k in full, as quoted Go strings, which can show any bytes.
func keyParts(k breaker.Key) []field {
	var fs []field
	for _, part := range []field{
		{"Target", k.Target, ""}, {"Service", k.Service, ""}, {"Method", k.Method, ""}, {"Tag", k.Tag, ""},
	} {
		if part.Value != "" {
			part.Value = strconv.Quote(part.Value)
			fs = append(fs, part)
		}
	}
	return fs
}

// figures returns the counters for the page of one breaker.
func figures(f *frame, r *row) []field {
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	last := "never"
	if !r.LastFailure.IsZero() {
		last = clockTime(f.at, r.LastFailure)
	}
	cause := ""
	if r.LastCause != "" {
		cause = "last " + printable(r.LastCause, maxText)
	}
	began, counts := "no outage now", ""
	if o := r.Outage; o.Rule != 0 {
		began = clockTime(f.at, o.At)
		counts = fmt.Sprintf("%s rule; in the window %d failed, %d overloaded, %d slow of %d calls",
			o.Rule, o.Counts.Failures, o.Counts.Overloads, o.Counts.Slow, o.Counts.Calls())
	}
	opened, why := "never", ""
	if o := r.Opened; o.Rule != 0 {
		opened, why = clockTime(f.at, o.At), openingWords(o)
	}
	return []field{
		{"Outage began", began, counts},
		{"Last opened", opened, why},
		{"Calls in the window", n(r.Window.Calls()), fmt.Sprintf("%d failed, %d overloaded, %d slow; rules need %d calls",
			r.Window.Failures, r.Window.Overloads, r.Window.Slow, r.MinCalls)},
		{"Failure streak", n(r.Window.ConsecutiveFailures), ""},
		{"Last failure", last, cause},
		{"Admitted", n(r.Admitted), n(r.InFlight) + " in flight"},
		{"Succeeded", n(r.Successes), ""},
		{"Failed", n(r.Failures), n(r.Overloads) + " overloaded, " + n(r.SlowCalls) + " slow"},
		{"Ignored", n(r.Ignored), n(r.Late) + " late"},
		{"Rejected", n(r.Rejections.Total()), fmt.Sprintf("%d open, %d half-open, %d ramp, %d forced, %d concurrency",
			r.Rejections.Open, r.Rejections.HalfOpen, r.Rejections.Ramp, r.Rejections.Forced, r.Rejections.Concurrency)},
		{"Shadow would reject", n(r.ShadowRejections.Total()), n(r.ShadowTrips.Total()) + " shadow trips"},
		{"Trips", n(r.Trips.Total()), n(r.Recoveries) + " recoveries"},
		{"Probes", n(r.Probes.Success) + " succeeded", fmt.Sprintf("%d failed, %d ignored, %d lost",
			r.Probes.Failure, r.Probes.Ignored, r.Probes.Lost)},
		{"Failed recoveries", strconv.Itoa(r.FailedRecoveries), ""},
		{"Time not closed", r.NotClosed.Truncate(time.Second).String(), ""},
		{"Fallbacks", n(r.Fallbacks.Served) + " served", n(r.Fallbacks.Failed) + " failed"},
	}
}

// configFields returns the fields of a Config and where each value comes from.
func configFields(p breaker.Policy) []field {
	var fs []field
	v := reflect.ValueOf(p.Config)
	for i := range v.NumField() {
		name, value := v.Type().Field(i).Name, fmt.Sprint(v.Field(i).Interface())
		if f := v.Field(i); f.IsZero() || (f.CanInt() && f.Int() < 0) || (f.CanFloat() && f.Float() < 0) {
			value = "off"
		}
		fs = append(fs, field{name, value, p.Sources[name]})
	}
	return fs
}
