package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/grpcircuit/grpcircuit/internal/tcpproxy"
)

const (
	prefix = "events/"
	// sessionTTL is how long the session's lease lives without a keep-alive. The client sends one after each third of it.
	// Two thirds must be longer than the outage plus grpc's back-off plus the longest acceptable delay by the guard.
	sessionTTL = 24 * time.Second
	// lockLimit is the deadline of each attempt to take and release the lock. Without one, etcd's calls would wait for the
	// connection, and no call would fail in an outage.
	lockLimit = time.Second
)

// An activity records when something succeeded.
type activity struct {
	mu      sync.Mutex
	done    []success     // ordered by their ends
	changed chan struct{} // closed and replaced when done grows
}

type success struct{ began, ended time.Time }

func newActivity() *activity { return &activity{changed: make(chan struct{})} }

func (a *activity) note(began time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = append(a.done, success{began, time.Now()})
	close(a.changed)
	a.changed = make(chan struct{})
}

// after waits for the first success that began at since or later, and returns the time from since to its end. It
// returns an error if there is none within limit.
func (a *activity) after(since time.Time, limit time.Duration) (time.Duration, error) {
	timer := time.NewTimer(time.Until(since.Add(limit)))
	defer timer.Stop()
	for {
		a.mu.Lock()
		changed := a.changed
		for _, s := range a.done {
			if !s.began.Before(since) {
				a.mu.Unlock()
				return s.ended.Sub(since), nil
			}
		}
		a.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			return 0, fmt.Errorf("not back %v later", limit)
		}
	}
}

// A writer puts numbered events into etcd over a connection that is never cut.
type writer struct {
	mu    sync.Mutex
	began []time.Time // when the put of each event began
}

// run puts events until ctx is done.
func (w *writer) run(ctx context.Context, t *testing.T, client *clientv3.Client) {
	t.Helper()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		w.mu.Lock()
		n := len(w.began)
		w.began = append(w.began, time.Now())
		w.mu.Unlock()
		// Not ctx: if a put is cancelled, the writer does not know whether etcd has the event.
		if _, err := client.Put(context.WithoutCancel(ctx), prefix+strconv.Itoa(n), ""); err != nil {
			t.Errorf("put event %d: %v", n, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

func (w *writer) beganAt(n int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.began[n]
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.began)
}

// A program uses etcd: it watches, keeps a lease alive and takes locks.
type program struct {
	name    string
	proxy   *tcpproxy.Proxy
	client  *clientv3.Client
	session *concurrency.Session
	held    *concurrency.Mutex // taken at the start and never released
	spares  []clientv3.LeaseID // granted in advance; see keepAliveFrom

	watch     *activity // an event arrived; begins when its put began
	keepAlive *activity // the answer to the first keep-alive of a spare lease; begins when the connections were cut
	renewal   *activity // an answer to a keep-alive of the session's lease; its beginning is not known
	lock      *activity // the lock was taken and released

	stop    context.CancelFunc
	running sync.WaitGroup

	mu           sync.Mutex
	lockFailures map[string]int
}

// start starts a program that runs until its stop is called.
func start(t *testing.T, name, server string, disturbances int, w *writer, opts ...grpc.DialOption) *program {
	t.Helper()
	p := &program{
		name: name, proxy: tcpproxy.Start(t, server), lockFailures: make(map[string]int),
		watch: newActivity(), keepAlive: newActivity(), renewal: newActivity(), lock: newActivity(),
	}
	p.client = newClient(t, p.proxy.Addr, opts...)
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	t.Cleanup(func() {
		cancel()
		p.running.Wait()
	})

	var err error
	if p.session, err = concurrency.NewSession(p.client, concurrency.WithTTL(int(sessionTTL.Seconds()))); err != nil {
		t.Fatal(err)
	}
	p.held = concurrency.NewMutex(p.session, "held/"+name)
	if err := p.held.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	for range disturbances {
		lease, err := p.client.Grant(ctx, 120)
		if err != nil {
			t.Fatal(err)
		}
		p.spares = append(p.spares, lease.ID)
	}
	// The session also gets these answers, but does not expose them.
	renewals, err := p.client.KeepAlive(ctx, p.session.Lease())
	if err != nil {
		t.Fatal(err)
	}
	p.running.Go(func() {
		for range renewals {
			p.renewal.note(time.Now())
		}
	})
	events := p.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if first := <-events; !first.Created {
		t.Fatalf("%s: the first answer of the watch is %+v", name, first)
	}
	p.running.Go(func() { p.readEvents(ctx, t, events, w) })
	p.running.Go(func() { p.takeLocks(ctx) })
	return p
}

// readEvents fails the test if an event is lost, duplicated or out of order.
func (p *program) readEvents(ctx context.Context, t *testing.T, events clientv3.WatchChan, w *writer) {
	t.Helper()
	next := 0
	for response := range events {
		if err := response.Err(); err != nil && ctx.Err() == nil {
			t.Errorf("%s: watch: %v", p.name, err)
		}
		for _, e := range response.Events {
			n, err := strconv.Atoi(strings.TrimPrefix(string(e.Kv.Key), prefix))
			if err != nil || n != next {
				t.Errorf("%s: got event %q, want %d", p.name, e.Kv.Key, next)
			}
			next = n + 1
			p.watch.note(w.beganAt(n))
		}
	}
	if ctx.Err() == nil {
		t.Errorf("%s: the watch has ended after %d events", p.name, next)
	}
}

// takeLocks takes and releases a lock repeatedly.
func (p *program) takeLocks(ctx context.Context) {
	pace := time.NewTimer(0)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		if err := p.takeLock(ctx); err == nil {
			p.lock.note(began)
			pace.Reset(20 * time.Millisecond)
		} else {
			p.mu.Lock()
			p.lockFailures[kind(err)]++
			p.mu.Unlock()
			pace.Reset(100 * time.Millisecond)
		}
	}
}

func (p *program) takeLock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	m := concurrency.NewMutex(p.session, "again/"+p.name)
	if err := m.Lock(ctx); err != nil {
		return err
	}
	return m.Unlock(ctx)
}

// keepAliveFrom keeps a spare lease alive from now on, to measure when the stream that all leases share works again.
// etcd's client sends the first keep-alive of a lease as soon as it can, and the next ones after each third of its TTL.
// The session's keep-alives are too rare for this measurement.
func (p *program) keepAliveFrom(ctx context.Context, t *testing.T, cut time.Time, lease clientv3.LeaseID) {
	t.Helper()
	answers, err := p.client.KeepAlive(ctx, lease)
	if err != nil {
		t.Errorf("%s: keep-alive: %v", p.name, err)
		return
	}
	p.running.Go(func() {
		if _, ok := <-answers; ok {
			p.keepAlive.note(cut)
		} else if ctx.Err() == nil {
			t.Errorf("%s: the client has given up a lease", p.name)
		}
		for range answers { // the client requires that answers are read to the end
		}
	})
}

// check fails the test unless the session's lease is alive and the lock that was taken at the start is still held. Its
// client has no guard, because a half-open breaker may reject the call, and that would show nothing of lease and lock.
func (p *program) check(ctx context.Context, t *testing.T, direct *clientv3.Client) {
	t.Helper()
	select {
	case <-p.session.Done():
		t.Errorf("%s: the session is over", p.name)
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ttl, err := direct.TimeToLive(ctx, p.session.Lease())
	switch {
	case err != nil:
		t.Errorf("%s: the session's lease: %v", p.name, err)
	case ttl.TTL <= 0:
		t.Errorf("%s: the session's lease has expired", p.name)
	}
	if owner, err := direct.Txn(ctx).If(p.held.IsOwner()).Commit(); err != nil || !owner.Succeeded {
		t.Errorf("%s: the lock that was taken at the beginning is lost (%v)", p.name, err)
	}
}

func newClient(t *testing.T, addr string, opts ...grpc.DialOption) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{addr}, DialOptions: opts, Logger: zap.NewNop(),
		DialTimeout: patience, // the client also drops a lease whose first keep-alive has no answer within this time
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return client
}
