package statusz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grpcircuit/grpcircuit/breaker"
)

const (
	maxForm   = 1 << 20 // bytes; most of it is for long keys
	maxReason = 500     // runes; the form allows as many UTF-16 units, which are at least as many
)

// actor is a person who may act on breakers.
type actor struct{ Name string }

// actor returns the person who sent r, or nil if that person may not act.
func (p *Page) actor(r *http.Request) *actor {
	if p.authorize == nil {
		return nil
	}
	who, ok := p.authorize(r)
	if !ok || strings.TrimSpace(who) == "" {
		return nil
	}
	return &actor{who}
}

// serveAction runs one action. It checks everything that does not depend on the form before it reads the form.
func (p *Page) serveAction(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "an action is a POST")
		return
	}
	if p.authorize == nil {
		fail(w, http.StatusForbidden, "this page is read-only (WithActions)")
		return
	}
	if err := p.origin.Check(r); err != nil {
		fail(w, http.StatusForbidden, err.Error())
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm) // for authorize too, which may read a token from the form
	who := p.actor(r)
	if who == nil {
		fail(w, http.StatusForbidden, "you may not act on breakers")
		return
	}
	if err := r.ParseForm(); err != nil {
		fail(w, http.StatusBadRequest, "the form cannot be read: "+err.Error())
		return
	}
	a, err := parseAction(r.PostForm.Get)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	b, ok := p.group.Lookup(a.key)
	if !ok {
		fail(w, http.StatusNotFound, "there is no breaker for this key (any more): "+printable(a.key.String(), maxText))
		return
	}
	if err := a.run(r.Context(), b, who.Name); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	p.logAction(r.Context(), a, who.Name)
	p.sampler.refresh() // so that all pages show the change at once, also the one that the redirect leads to
	w.Header().Set("Location", "breaker?key="+encodeKey(a.key))
	w.WriteHeader(http.StatusSeeOther)
}

// logAction logs an action with its author. The author of a reset, or of clearing an override, is recorded nowhere
// else.
func (p *Page) logAction(ctx context.Context, a action, who string) {
	logger := p.logger
	if logger == nil {
		logger = slog.Default()
	}
	attrs := []slog.Attr{slog.Any("key", a.key), slog.String("action", a.name), slog.String("by", who)}
	if a.why != "" {
		attrs = append(attrs, slog.String("why", a.why))
	}
	if a.ttl > 0 {
		attrs = append(attrs, slog.Duration("ttl", a.ttl))
	}
	logger.LogAttrs(ctx, slog.LevelWarn, "circuit breaker changed on its page", attrs...)
}

// action is a change that a form requests.
type action struct {
	key  breaker.Key
	name string
	why  string
	ttl  time.Duration
}

// parseAction reads the fields key, action, why and ttl.
func parseAction(field func(string) string) (action, error) {
	a := action{name: field("action"), why: strings.TrimSpace(field("why"))}
	var err error
	if a.key, err = decodeKey(field("key")); err != nil {
		return a, err
	}
	switch a.name {
	case "reset", "clear":
		return a, nil
	case "trip", "force_open", "force_closed", "shadow":
	default:
		return a, fmt.Errorf("action is %q, want one of trip, reset, force_open, force_closed, shadow and clear", a.name)
	}
	if a.why == "" {
		return a, errors.New("why is empty, want a reason for the people who will ask")
	}
	if n := utf8.RuneCountInString(a.why); n > maxReason {
		return a, fmt.Errorf("why has %d characters, want at most %d", n, maxReason)
	}
	if a.name == "trip" {
		return a, nil
	}
	// An override without an end is dangerous, so a missing ttl is an error and does not mean 0.
	if a.ttl, err = time.ParseDuration(field("ttl")); err != nil {
		return a, fmt.Errorf("ttl is %q, want a duration such as 15m, or 0 for no end", field("ttl"))
	}
	return a, nil
}

// run performs the action on b, with who as the author.
func (a action) run(ctx context.Context, b *breaker.Breaker, who string) error {
	switch a.name {
	case "trip":
		b.Trip(ctx, a.why+" (by "+who+")")
	case "reset":
		b.Reset(ctx)
	case "clear":
		b.ClearOverride(ctx)
	default:
		mode := map[string]breaker.Mode{
			"force_open": breaker.ForceOpen, "force_closed": breaker.ForceClosed, "shadow": breaker.Shadow,
		}[a.name]
		return b.SetOverride(ctx, breaker.Override{Mode: mode, TTL: a.ttl, Why: a.why, By: who})
	}
	return nil
}
