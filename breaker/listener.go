package breaker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// listener is called on each transition.
type listener struct {
	call func(context.Context, Event)
}

// listeners is the set of listeners that the breakers of a group share.
type listeners struct {
	current atomic.Pointer[[]*listener] // in order of registration; replaced, never changed

	mu sync.Mutex // serializes changes of current
}

func (ls *listeners) list() []*listener {
	if list := ls.current.Load(); list != nil {
		return *list
	}
	return nil
}

// add registers f and returns a function that removes it.
func (ls *listeners) add(f func(context.Context, Event)) (stop func()) {
	l := &listener{f}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	list := append(slices.Clip(ls.list()), l)
	ls.current.Store(&list)
	return sync.OnceFunc(func() { ls.remove(l) })
}

func (ls *listeners) remove(l *listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(ls.list()), func(have *listener) bool { return have == l })
	ls.current.Store(&list)
}
