package rpccode

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// The names are those that package codes reads.
func TestName(t *testing.T) {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		var got codes.Code
		if err := got.UnmarshalJSON([]byte(`"` + Name(uint32(code)) + `"`)); err != nil || got != code {
			t.Errorf("%d: the name %s means %d, %v", code, Name(uint32(code)), got, err)
		}
	}
	for code, want := range map[uint32]string{17: "CODE(17)", 1<<32 - 1: "CODE(4294967295)"} {
		if got := Name(code); got != want {
			t.Errorf("%d: got %s, want %s", code, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = strings.HasPrefix(Name(14), "U") }); n != 0 {
		t.Errorf("a defined code allocates %v times", n)
	}
}
