package statusz

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Version is the version of the JSON that a [Page] writes. It changes when a field is removed or its meaning changes,
// but not when a field is added.
const Version = 1

// Report is the page as JSON. Durations are nanoseconds, and times are RFC 3339.
type Report struct {
	Version int                  `json:"version"` // Version
	Program string               `json:"program"` // of WithName
	At      time.Time            `json:"at"`      // of the snapshots, at most a second ago
	Totals  Totals               `json:"totals"`
	Group   breaker.GroupStats   `json:"group"`
	Unused  []breaker.PolicyRule `json:"unusedRules"` // rules that no breaker has matched: they may be misspelt
	Matched int                  `json:"matched"`     // breakers that q and state select
	Page    int                  `json:"page"`
	Pages   int                  `json:"pages"`
	// Breakers are those of the page, the worst first.
	Breakers []BreakerReport `json:"breakers"`
}

// BreakerReport is one breaker in a [Report].
type BreakerReport struct {
	// ID identifies the key in links and forms. The key in Snapshot is not enough for that, because JSON replaces invalid
	// UTF-8.
	ID       string           `json:"id"`
	Name     string           `json:"name"` // the key for people: escaped, and cut if it is long
	Snapshot breaker.Snapshot `json:"snapshot"`
	Rates    Rates            `json:"rates"`  // see [Totals] for when they are known
	Policy   PolicyOrigin     `json:"policy"` // of Snapshot.Config
	// Transitions are the last five since the page was made, the newest first.
	Transitions []Transition `json:"transitions"`
	// History is only in the report of one breaker.
	History *History `json:"history,omitempty"`
}

// PolicyOrigin names where the Config of a breaker comes from, see [breaker.Group.PolicyFor].
type PolicyOrigin struct {
	Rule int    `json:"rule"` // index of the rule; -1: the Config of the group
	Name string `json:"name,omitempty"`
	// Sources is only in the report of one breaker.
	Sources map[string]string `json:"sources,omitempty"`
}

// writeJSON writes the breakers that q selects.
func (p *Page) writeJSON(w io.Writer, f *frame, q query) error {
	rows := f.matching(q)
	part, page, pages := q.cut(rows)
	rep := f.report(p.name, len(rows), page, pages)
	for _, r := range part {
		rep.Breakers = append(rep.Breakers, p.breakerReport(r))
	}
	return encodeJSON(w, rep)
}

// writeBreakerJSON writes one breaker, with the fields that the list leaves out.
func (p *Page) writeBreakerJSON(w io.Writer, f *frame, r *row) error {
	rep := f.report(p.name, 1, 1, 1)
	b := p.breakerReport(r)
	b.History = p.sampler.history(f, r)
	b.Policy.Sources = p.group.PolicyFor(r.Key).Sources
	rep.Breakers = append(rep.Breakers, b)
	return encodeJSON(w, rep)
}

// encodeJSON writes rep. It also escapes characters that package json leaves as they are and that have an effect in a
// terminal: DEL, the control characters from U+0080 on, and those that change the direction of text. In JSON they can
// only be in strings.
func encodeJSON(w io.Writer, rep Report) error {
	text, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	done := 0
	for i := 0; i < len(text); {
		if text[i] < 0x7f {
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if unicode.In(r, unicode.Cc, unicode.Cf) {
			b.Write(text[done:i])
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, "\\u%04x", unit)
			}
			done = i + size
		}
		i += size
	}
	b.Write(text[done:])
	b.WriteByte('\n')
	_, err = b.WriteTo(w)
	return err
}

func (f *frame) report(program string, matched, page, pages int) Report {
	return Report{
		Version: Version, Program: program, At: f.at.Round(0), Totals: f.totals, Group: f.group,
		Unused:  append([]breaker.PolicyRule{}, f.unused...), // [] rather than null
		Matched: matched, Page: page, Pages: pages, Breakers: []BreakerReport{},
	}
}

func (p *Page) breakerReport(r *row) BreakerReport {
	policy := p.group.PolicyFor(r.Key)
	return BreakerReport{
		ID: encodeKey(r.Key), Name: keyName(r.Key), Snapshot: r.Snapshot, Rates: r.rates,
		Policy:      PolicyOrigin{Rule: policy.Rule, Name: policy.Name},
		Transitions: append([]Transition{}, p.transitions.of(r.Key)...),
	}
}

// maxUnused is how many rules that match nothing the text lists. A platform's file has many rules for other programs,
// and the breakers must not be off the screen.
const maxUnused = 3

// writeText writes a line of totals and one line for each breaker that q selects.
func (p *Page) writeText(w io.Writer, f *frame, q query) error {
	rows := f.matching(q)
	part, page, pages := q.cut(rows)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, %s: %s", printable(p.name, maxText), f.at.UTC().Format(time.RFC3339), f.totals.words())
	if !f.clock.measured() {
		b.WriteString("; rates are not measured yet, repeat the request")
	}
	b.WriteByte('\n')
	for _, rule := range f.unused[:min(len(f.unused), maxUnused)] {
		fmt.Fprintf(&b, "# matches nothing: %s\n", ruleName(rule))
	}
	if more := len(f.unused) - maxUnused; more > 0 {
		fmt.Fprintf(&b, "# matches nothing: %d more policy rules, see format=json\n", more)
	}
	if len(rows) != len(f.rows) || pages > 1 {
		fmt.Fprintf(&b, "# %d match, page %d of %d\n", len(rows), page, pages)
	}
	for _, r := range part {
		b.WriteString(p.line(f, r))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line describes a breaker in one line.
func (p *Page) line(f *frame, r *row) string {
	var facts []string
	if !r.Ready {
		facts = append(facts, "not ready")
	}
	words := []string{
		sinceWords(f.at, r), openedWords(r), reopenedWords(f.at, r), nextWords(r), overrideWords(r), r.rates.words(),
	}
	for _, fact := range words {
		if fact != "" {
			facts = append(facts, fact)
		}
	}
	facts = append(facts, policyWords(p.group.PolicyFor(r.Key)))
	return fmt.Sprintf("%-9s  %s  %s\n", stateWord(r.State), keyName(r.Key), strings.Join(facts, "; "))
}
