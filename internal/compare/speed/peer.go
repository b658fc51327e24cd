package speed

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Peer is a library.
type Peer struct {
	Name   string // as in the tables
	Module string // its path; the version comes from the build
	// Window says what the closed breaker keeps to judge by, in the configuration of Success.
	Window string
	// Note says in which other way the library does less or more than others.
	Note string
	// Lacks says why a work is not there.
	Lacks map[Work]string
	// Apart says why a work that is there is less work than others do. The peer is no yardstick for it then.
	Apart map[Work]string
	// Cases are the works that it can do.
	Cases []Case
	// Idle makes the breaker number i of many and sends one call through it. What it returns keeps the breaker alive.
	Idle func(i int) (keep any, err error)
}

// The names of those among the peers that the others are compared with.
const (
	Ours    = "grpcircuit"
	Floor   = "the floor"
	Nothing = "no breaker"
)

// Peers returns this library first, then the others, and last the floor and no breaker at all.
func Peers() []Peer {
	return []Peer{
		grpcircuitPeer(), gobreakerPeer(), gobreakerFixedPeer(), failsafePeer(), cep21Peer(), mercariPeer(), gozeroPeer(), aegisPeer(), kratosPeer(),
		bytedancePeer(), bytedanceShardedPeer(), sentinelPeer(), eapachePeer(), rubyistPeer(), goresiliencePeer(), handyPeer(), hystrixPeer(),
		floorPeer(), nothingPeer(),
	}
}

// Case is one work, done through one form of a library's API.
type Case struct {
	Work Work
	Form string
	New  func() (*Job, error)
}

// settings is what a breaker is to be made for.
type settings struct {
	work    Work
	openFor time.Duration // how long it is to stay open
}

const (
	window         = 10 * time.Second
	ratio          = 0.5
	minCalls       = 20
	consecutiveMax = 5
)

// Reasons to stand apart.
const (
	NotSliding  = "no sliding window: the counts are emptied now and then"
	noClock     = "reads no clock: something of its own ends the open period"
	slidByTimer = "reads no clock: something of its own slides the window"
)

// guard is a breaker behind one form of its API.
type guard struct {
	// wrap returns the guarded call of run.
	wrap func(run func() error) func() error
	// counted returns how many calls the breaker has counted, where it keeps a total that is cheap to ask for. It may be nil.
	counted func() uint64
	// close stops what the breaker has running. It may be nil.
	close func()
}

// cases returns the works that a form can do.
func cases(form string, newGuard func(settings) (*guard, error), works ...Work) []Case {
	var cs []Case
	for _, w := range works {
		cs = append(cs, Case{Work: w, Form: form, New: func() (*Job, error) {
			j, err := newJob(w, newGuard)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", form, w, err)
			}
			return j, nil
		}})
	}
	return cs
}

// Long enough that no benchmark sees the end of it, and short enough to wait for it.
const (
	openForLong  = time.Hour
	openForShort = 10 * time.Millisecond
)

func newJob(w Work, newGuard func(settings) (*guard, error)) (*Job, error) {
	s := settings{work: w, openFor: openForLong}
	if w == HalfOpen {
		s.openFor = openForShort
	}
	g, err := newGuard(s)
	if err != nil {
		return nil, err
	}
	j := &Job{Work: w, Call: g.wrap(succeed), Fail: g.wrap(fail), guard: g}
	if g.close != nil {
		j.closes = append(j.closes, g.close)
	}
	if w.Rejects() {
		j.Want, err = trip(j)
	}
	if w == HalfOpen && err == nil {
		time.Sleep(2 * openForShort)
		j.Want, err = takeSlots(j)
	}
	if err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// trip lets calls fail until one is rejected, and returns what a rejected call returns. Some libraries count on another
// goroutine, so after a while it gives them time.
func trip(j *Job) (rejection error, err error) {
	const patience = 1000
	for n := range patience {
		if err := j.Fail(); err != errDown { //nolint:errorlint // the very same value
			if err == nil {
				return nil, errors.New("a call that fails returned no error")
			}
			return err, nil
		}
		if n > 4*minCalls {
			time.Sleep(time.Millisecond)
		}
	}
	return nil, fmt.Errorf("not open after %d failures", patience)
}

// takeSlots has probes hang until one is rejected: every slot of the half-open breaker is out.
func takeSlots(j *Job) (rejection error, err error) {
	const most = 100
	release := make(chan struct{})
	done := make(chan error, most)
	j.closes = slices.Insert(j.closes, 0, func() { close(release) })
	for range most {
		running := make(chan struct{})
		probe := j.guard.wrap(func() error {
			close(running)
			<-release
			return nil
		})
		go func() { done <- probe() }()
		select {
		case <-running:
		case err := <-done:
			return err, nil
		}
	}
	return nil, fmt.Errorf("%d probes out and still none rejected", most)
}

// BenchmarkName is how the peer's part in the name of a benchmark reads. Slashes part levels there, and blanks fields.
func (p Peer) BenchmarkName() string { return benchmarkName(p.Name) }

// BenchmarkName is the name of the case's benchmark below the one that runs it.
func (c Case) BenchmarkName(p Peer) string {
	return string(c.Work) + "/" + p.BenchmarkName() + "/" + benchmarkName(c.Form)
}

func benchmarkName(s string) string {
	return strings.NewReplacer(" ", "_", "/", "|", ",", "").Replace(s)
}
