package otelbridge

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// A key may be as long as anybody likes; what leaves the process is not, and keys that differ stay apart.
func TestTextIsBounded(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	seen := map[string]string{}
	for name, s := range map[string]string{
		"as long as it may be": strings.Repeat("m", maxText), "a byte too long": strings.Repeat("m", maxText+1),
		"long": long, "longer": long + "é", "long and invalid": strings.Repeat("\xff", maxText), "backslashes": strings.Repeat(`\`, maxText),
	} {
		got := text(s)
		if len(got) > maxText || !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes, valid: %v; want %d at most", name, len(got), utf8.ValidString(got), maxText)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s become the same text", name, other)
		}
		seen[got] = name
	}
	if got := text(strings.Repeat("m", maxText)); got != strings.Repeat("m", maxText) {
		t.Errorf("a text that fits was changed: %q", got)
	}
}
