package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cutEvery = 1500 * time.Millisecond
	outage   = 6 * time.Second
	// patience is the time that the client without a guard may take to recover once the backend is back.
	patience = 20 * time.Second
	// reserve is the delay by which a busy machine may slow one client more than the other.
	reserve = 3 * time.Second
)

// TestWatchLeaseAndLock runs the same program with and without a guard at the same time, through five cuts of all
// connections and one outage. It compares how long watch, keep-alive and lock do not work. With -short there is one cut
// and no outage.
func TestWatchLeaseAndLock(t *testing.T) {
	cuts, withOutage := 5, true
	if testing.Short() {
		cuts, withOutage = 1, false
	}

	guard, err := interceptor.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	rec := record(t, guard.Group())

	server := startServer(t)
	var w writer
	plain := start(t, "plain", server, cuts+1, &w)
	guarded := start(t, "guarded", server, cuts+1, &w, guard.DialOptions()...)
	programs := []*program{plain, guarded}

	var writing sync.WaitGroup
	ctx, stopWriting := context.WithCancel(t.Context())
	defer writing.Wait()
	defer stopWriting()
	direct := newClient(t, server)
	writing.Go(func() { w.run(ctx, t, direct) })
	started := time.Now()
	for _, p := range programs {
		for _, a := range []*activity{p.watch, p.lock} {
			if _, err := a.after(started, patience); err != nil {
				t.Fatalf("%s: did not start: %v", p.name, err)
			}
		}
	}

	var rows []row
	defer func() { report(t, rows, guarded, plain, guard.Group(), rec) }()
	for i := range cuts {
		for _, p := range programs {
			p.proxy.Cut()
		}
		cut := time.Now()
		for _, p := range programs {
			p.keepAliveFrom(ctx, t, cut, p.spares[i])
		}
		rows = append(rows, compare(t, fmt.Sprintf("cut %d", i+1), cut, 0, plain, guarded)...)
		pause(ctx, time.Until(cut.Add(cutEvery)))
	}
	if events := rec.all(); len(events) > 0 {
		t.Errorf("lost connections caused %d transitions of breakers, want none", len(events))
	}

	if withOutage {
		for _, p := range programs {
			p.proxy.Refuse()
		}
		cut := time.Now()
		for _, p := range programs {
			p.keepAliveFrom(ctx, t, cut, p.spares[cuts])
		}
		pause(ctx, time.Until(cut.Add(outage)))
		for _, p := range programs {
			p.proxy.Listen(t)
		}
		back := time.Now()
		rows = append(rows, compare(t, "outage", cut, back.Sub(cut), plain, guarded)...)
		for _, p := range programs {
			if _, err := p.renewal.after(back, sessionTTL); err != nil {
				t.Errorf("%s: the session's lease was not renewed after the outage: %v", p.name, err)
			}
		}
	}

	// All events must arrive. Events are ordered, so the last one arrives after all others.
	stopWriting()
	writing.Wait()
	last := w.beganAt(w.count() - 1)
	for _, p := range programs {
		if _, err := p.watch.after(last, patience); err != nil {
			t.Errorf("%s: the last event did not arrive: %v", p.name, err)
		}
		p.check(t.Context(), t, direct)
	}
	// The lock is still being taken, so a half-open breaker gets probes.
	if !rec.waitClosed(guard.Group(), breaker.Config{}.WithDefaults().ProbeTimeout+reserve) {
		t.Error("a breaker is still not closed")
	}
	for _, p := range programs {
		p.stop()
		p.running.Wait()
		if err := p.session.Close(); err != nil {
			t.Errorf("%s: close the session: %v", p.name, err)
		}
	}
}

// row is the time for which one activity did not work.
type row struct {
	when, what     string
	plain, guarded time.Duration
	outage         time.Duration // the part of it in which the backend was down
}

// compare waits until both programs work again, and fails the test if the guarded one takes much longer. A cut must not
// open a breaker, so only the reserve is allowed. In an outage a breaker may open, and may then delay the program by
// its longest open period, including jitter.
func compare(t *testing.T, when string, since time.Time, away time.Duration, plain, guarded *program) (rows []row) {
	t.Helper()
	cfg := breaker.Config{}.WithDefaults()
	slack := reserve
	if away > 0 {
		slack += time.Duration(float64(cfg.MaxOpenFor) * (1 + cfg.Jitter))
	}
	for _, a := range []struct {
		what string
		of   func(*program) *activity
	}{
		{"watch", func(p *program) *activity { return p.watch }},
		{"keep-alive", func(p *program) *activity { return p.keepAlive }},
		{"lock", func(p *program) *activity { return p.lock }},
	} {
		r := row{when: when, what: a.what, outage: away}
		var err error
		if r.plain, err = a.of(plain).after(since, away+patience); err != nil {
			t.Fatalf("%s: %s without a guard: %v", when, a.what, err)
		}
		if r.guarded, err = a.of(guarded).after(since, r.plain+slack); err != nil {
			t.Fatalf("%s: %s with a guard: %v; without one it was away for %v", when, a.what, err, r.plain)
		}
		rows = append(rows, r)
	}
	return rows
}

// report logs the measurements.
func report(t *testing.T, rows []row, guarded, plain *program, group *breaker.Group, rec *recorder) {
	t.Helper()
	var text strings.Builder
	tab := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "\ttime away:\twithout guard\twith guard\tdifference\tbackend away\t")
	for _, r := range rows {
		fmt.Fprintf(tab, "%s\t%s\t%v\t%v\t%+d ms\t%v\t\n", r.when, r.what, r.plain.Round(time.Millisecond),
			r.guarded.Round(time.Millisecond), (r.guarded - r.plain).Milliseconds(), r.outage.Round(time.Millisecond))
	}
	tab.Flush()
	fmt.Fprintln(tab, "breaker\tstate\tadmitted\tsuccesses\tfailures\tignored\tlate\trejected\ttrips\t")
	for key, b := range group.All() {
		s := b.Snapshot()
		fmt.Fprintf(tab, "%s\t%v\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", key.Method, s.State, s.Admitted, s.Successes,
			s.Failures, s.Ignored, s.Late, s.Rejections.Total(), s.Trips.Total())
	}
	tab.Flush()
	for _, e := range rec.all() {
		fmt.Fprintf(&text, "%6.3f s  %s: %v to %v %s, open for %v\n", e.At.Sub(rec.began).Seconds(), e.Key.Method, e.From,
			e.To, e.Why, e.OpenFor.Round(time.Millisecond))
	}
	for _, p := range []*program{plain, guarded} {
		p.mu.Lock()
		fmt.Fprintf(&text, "%s: the lock failed: %v\n", p.name, p.lockFailures)
		p.mu.Unlock()
	}
	t.Logf("after %.1f s:\n%s", time.Since(rec.began).Seconds(), text.String())
}

// A recorder records the transitions of a group.
type recorder struct {
	began time.Time

	mu      sync.Mutex
	events  []breaker.Event
	changed chan struct{} // closed and replaced when events grows
}

func record(t *testing.T, g *breaker.Group) *recorder {
	t.Helper()
	r := &recorder{began: time.Now(), changed: make(chan struct{})}
	t.Cleanup(g.Listen(r.Transition))
	return r
}

// Transition is a listener.
func (r *recorder) Transition(_ context.Context, e breaker.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) all() []breaker.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]breaker.Event(nil), r.events...)
}

// waitClosed reports whether all breakers are closed within limit.
func (r *recorder) waitClosed(g *breaker.Group, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		closed := true
		for _, b := range g.All() {
			closed = closed && b.State() == breaker.Closed
		}
		if closed {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

// pause waits for d between two cuts.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// kind classifies an error of a lock for counting.
func kind(err error) string {
	switch {
	case interceptor.IsRejected(err):
		return "rejected by the breaker"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	default:
		return err.Error()
	}
}

// startServer runs an etcd of one member and returns its address.
func startServer(t *testing.T) (addr string) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.UnsafeNoFsync = true // the test never reads the data after a crash
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	loopback := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = loopback, loopback
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = loopback, loopback
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		t.Fatal(err)
	case <-t.Context().Done():
		t.Fatal("etcd did not start")
	}
	return etcd.Clients[0].Addr().String()
}
