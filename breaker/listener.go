package breaker

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
)

// listeners is who listens to the breakers of one home.
type listeners struct {
	heard atomic.Pointer[[]Listener] // published: what to tell, in order of registration

	mu  sync.Mutex
	all []*registration // guarded by mu; heard is made of it
}

type registration struct {
	listener Listener
	wanted   int // how many calls of listen ask for it
}

func (e *listeners) list() []Listener {
	if ls := e.heard.Load(); ls != nil {
		return *ls
	}
	return nil
}

// listen registers l, once however often it comes, and returns what takes this one wish back.
func (e *listeners) listen(l Listener) (stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.all, func(r *registration) bool { return same(r.listener, l) })
	if i < 0 {
		i = len(e.all)
		e.all = append(e.all, &registration{listener: l})
	}
	r := e.all[i]
	r.wanted++
	e.publish()
	return sync.OnceFunc(func() { e.unwant(r) })
}

func (e *listeners) unwant(r *registration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.wanted--; r.wanted == 0 {
		e.all = slices.DeleteFunc(e.all, func(have *registration) bool { return have == r })
		e.publish()
	}
}

// publish makes heard anew. Caller must hold e.mu.
func (e *listeners) publish() {
	ls := make([]Listener, len(e.all))
	for i, r := range e.all {
		ls[i] = r.listener
	}
	e.heard.Store(&ls)
}

// same is a == b without the panic where the type of one cannot be compared: such a listener is like no other.
func same(a, b Listener) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}
