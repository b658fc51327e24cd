package behaviour

import (
	"testing"
)

var fakes []*library

// wantCell runs one cell and compares its verdict. An empty reason is any.
func wantCell(t *testing.T, lib *library, id string, want mark, reason string) {
	t.Helper()
	v, err := runCell(t.Context(), lib, findScenario(id))
	if err != nil {
		t.Fatal(err)
	}
	if v.Mark != want || reason != "" && v.Reason != reason {
		t.Errorf("%s on %s: %s (%s), want %s (%s)", id, lib.name, v.Mark, v.Reason, want, reason)
	}
}

func TestGrpcircuit(t *testing.T) {
	for _, l := range libraries {
		for _, sc := range scenarios {
			v, err := runCell(t.Context(), l, sc)
			t.Log(l.name, sc.id, v, err)
		}
	}
}
