package speed

import (
	"slices"
	"testing"
)

// TestEveryCase runs each benchmark's work some times, with the check that the benchmark makes, so that none of them rots.
func TestEveryCase(t *testing.T) {
	for _, p := range Peers() {
		for _, c := range p.Cases {
			t.Run(p.Name+"/"+string(c.Work)+"/"+c.Form, func(t *testing.T) {
				j, err := c.New()
				if err != nil {
					t.Fatal(err)
				}
				defer j.Close()
				const calls = 200
				if err := j.Check(calls, loop(j, 0, times(calls))); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func times(n int) func() bool {
	return func() bool {
		n--
		return n >= 0
	}
}

// TestEveryWork makes sure that what a library cannot do has a reason, and that nothing has both.
func TestEveryWork(t *testing.T) {
	for _, p := range Peers() {
		for _, w := range Works {
			has := slices.ContainsFunc(p.Cases, func(c Case) bool { return c.Work == w })
			if _, lacks := p.Lacks[w]; has && lacks {
				t.Errorf("%s has %s, and a reason why not", p.Name, w)
			}
		}
	}
}
