package speed

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Peer is a library in the comparison.
type Peer struct {
	Name   string // as in the tables
	Module string // its path; the version comes from the build
	// Window describes what the closed breaker counts, in the configuration of Success.
	Window string
	// Note describes other differences between the library's work and that of the others.
	Note string
	// Lacks gives the reason why the library cannot do a work.
	Lacks map[Work]string
	// Apart gives the reason why the library's work is less than that of the others. Targets do not compare with it then.
	Apart map[Work]string
	// Cases are the works that the library can do.
	Cases []Case
	// Idle makes breaker number i of many and makes one call with it. The returned value keeps the breaker reachable.
	Idle func(i int) (keep any, err error)
}

// The names of the peers that the others are compared with.
const (
	Ours    = "grpcircuit"
	Floor   = "the floor"
	Nothing = "no breaker"
)

// Peers returns this library first, then the others, and last the floor and the function without a breaker.
func Peers() []Peer {
	return []Peer{
		grpcircuitPeer(), gobreakerPeer(), gobreakerFixedPeer(), failsafePeer(), cep21Peer(), mercariPeer(),
		gozeroPeer(), aegisPeer(), kratosPeer(),
		bytedancePeer(), bytedanceShardedPeer(), sentinelPeer(), eapachePeer(), rubyistPeer(),
		goresiliencePeer(), handyPeer(), hystrixPeer(),
		floorPeer(), nothingPeer(),
	}
}

// A Case is one work, done through one form of a library's API.
type Case struct {
	Work Work
	Form string
	New  func() (*Job, error)
}

// settings describes the breaker to make.
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

// Reasons for [Peer.Apart].
const (
	NotSliding  = "no sliding window: the counts are emptied at intervals"
	noClock     = "reads no clock: a goroutine or timer ends the open period"
	slidByTimer = "reads no clock: a goroutine or timer slides the window"
)

// A guard is a breaker behind one form of its API.
type guard struct {
	// wrap returns the guarded call of run.
	wrap func(run func() error) func() error
	// counted returns how many calls the breaker has counted. It is nil if the breaker keeps no total that is cheap to
	// read.
	counted func() uint64
	// close stops the goroutines and timers of the breaker. It may be nil.
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

// openForLong is so long that no benchmark reaches its end; openForShort is short enough to wait for.
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

// trip makes failing calls until one is rejected, and returns what that call returns. Some libraries count on another
// goroutine, so after some failures it sleeps between calls.
func trip(j *Job) (rejection error, err error) {
	const patience = 1000
	for n := range patience {
		if err := j.Fail(); err != errDown { //nolint:errorlint // the same value
			if err == nil {
				return nil, errors.New("a failing call returned no error")
			}
			return err, nil
		}
		if n > 4*minCalls {
			time.Sleep(time.Millisecond)
		}
	}
	return nil, fmt.Errorf("not open after %d failures", patience)
}

// takeSlots makes probes that hang until a call is rejected, so that all slots of the half-open breaker are taken.
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
	return nil, fmt.Errorf("%d probes in flight and none rejected", most)
}

// BenchmarkName returns the peer's part of the name of a benchmark. It has no slashes, which separate the parts, and no
// spaces, which separate the fields of a line.
func (p Peer) BenchmarkName() string { return benchmarkName(p.Name) }

// BenchmarkName returns the name of the case's benchmark below the one that runs it.
func (c Case) BenchmarkName(p Peer) string {
	return string(c.Work) + "/" + p.BenchmarkName() + "/" + benchmarkName(c.Form)
}

func benchmarkName(s string) string {
	return strings.NewReplacer(" ", "_", "/", "|", ",", "").Replace(s)
}
