package labels

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestValue(t *testing.T) {
	long := strings.Repeat("m", MaxBytes)
	hash := `\#` + strings.Repeat("0f", 16)
	for _, tt := range []struct{ in, want string }{
		// These fit and do not look escaped.
		{"", ""},
		{"plain", "plain"},
		{"a/b", "a/b"},
		{"naïve", "naïve"},
		{"世界", "世界"},
		{"\uFFFD", "\uFFFD"}, // the result of decoding an invalid byte
		{"a\x00b", "a\x00b"},
		{long, long},
		{`\`, `\`},
		{`c\d`, `c\d`},
		{`DOMAIN\user`, `DOMAIN\user`},
		{`\\server\share`, `\\server\share`},
		{`\\ \~2 \#` + "\x00", `\\ \~2 \#` + "\x00"},
		{`\x41`, `\x41`}, // a valid byte is not escaped
		{`\xFF`, `\xFF`},
		{`\#` + "0f", `\#` + "0f"},
		{hash + "!", hash + "!"},

		// These are invalid.
		{"\xff", `\xff`},
		{"a\xc3\x28\x00b", `a\xc3(` + "\x00b"},
		{"a\xc3b\\c\x00", `a\xc3b\\c` + "\x00"},
		{"\xed\xa0\x80", `\xed\xa0\x80`}, // one half of a surrogate pair
		{"\xff" + `\xff`, `\xff\\xff`},
		{`\xff` + "\xff", `\\xff\xff`},

		// These look escaped.
		{`\xff`, `\\xff`},
		{`\\xff`, `\\\\xff`},
		{`\x80`, `\\x80`}, // the value of the lowest invalid byte
		{`\\`, `\\\\`},
		{`a\\` + "\n" + `b`, `a\\\\` + "\n" + `b`},
		{"m" + hash, `m\` + hash},
	} {
		if got := Value(tt.in); got != tt.want {
			t.Errorf("Value(%q): got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestEscape(t *testing.T) {
	long := strings.Repeat("m", MaxBytes)
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"a/b", "a/b"},
		{"世界", "世界"},
		{"\xff", `\xff`},
		{"a\xc3\x28\x00b", `a\xc3(` + "\x00b"},
		{"\xed\xa0\x80", `\xed\xa0\x80`},
		{"\uFFFD", "\uFFFD"},
		{`\xff`, `\\xff`},
		{`\`, `\\`},
		{long, long},
		{long + "m", long[:990] + `\#74d015c07e6510d2e6766d487fda84b0`},
		{long[:988] + "世世世世世世世世世世世世世", long[:988] + `\#`},
		{long[:989] + "\xff" + long, long[:989] + `\#`},
	} {
		got := escape(tt.in)
		want := tt.want
		if i := strings.Index(want, `\#`); i >= 0 && i+2 == len(want) && len(got) == len(want)+32 {
			want += got[len(want):] // this case does not test the hash
		}
		if got != want {
			t.Errorf("escape(%.40q…): got %q, want %q", tt.in, got, want)
		}
		if !utf8.ValidString(got) || len(got) > MaxBytes {
			t.Errorf("escape(%.40q…): %d bytes, valid: %v; want at most %d valid ones",
				tt.in, len(got), utf8.ValidString(got), MaxBytes)
		}
	}
}

// A string may have any length. Its value is bounded, and strings that differ have values that differ.
func TestValueIsBounded(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	seen := map[string]string{}
	for name, s := range map[string]string{
		"as long as allowed": strings.Repeat("m", MaxBytes),
		"a byte too long":    strings.Repeat("m", MaxBytes+1),
		"long":               long,
		"longer":             long + "é",
		"long and invalid":   strings.Repeat("\xff", MaxBytes),
		"backslashes":        strings.Repeat(`\`, MaxBytes),
	} {
		got := Value(s)
		if len(got) > MaxBytes || !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes, valid: %v; want at most %d", name, len(got), utf8.ValidString(got), MaxBytes)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same value", name, other)
		}
		seen[got] = name
	}
}

// pieces are parts of hostile strings: results of escaping, and input that needs it.
var pieces = []string{
	`\`, "x", "f", "\xff", "\xfe", `\xff`, `\\xff`, `\~2`, `\#`, `\#` + strings.Repeat("0f", 16),
	"世", "\uFFFD", "\x00", "a", "",
}

func hostile() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 5).Draw(t, "pieces"), "")
		n := rapid.SampledFrom([]int{0, 0, 0, MaxBytes / 4, MaxBytes, 1 << 16}).Draw(t, "times")
		return s + strings.Repeat(rapid.SampledFrom(pieces).Draw(t, "filler"), n)
	})
}

// An attacker who knows the values of all strings cannot choose one that takes the value of another.
func TestValuesOfDifferentStringsDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		strs := map[string]bool{}
		for _, s := range rapid.SliceOfN(hostile(), 1, 20).Draw(t, "strings") {
			for range 3 { // s, its value, and the value of that
				strs[s] = true
				s = Value(s)
			}
		}
		owner := make(map[string]string)
		for s := range strs {
			v := Value(s)
			if other, taken := owner[v]; taken {
				t.Fatalf("%q and %q have the same value %q", s, other, v)
			}
			owner[v] = s
			if !utf8.ValidString(v) || len(v) > MaxBytes {
				t.Fatalf("Value(%q) has %d bytes, valid: %v", s, len(v), utf8.ValidString(v))
			}
			plain := !strings.Contains(s, `\`)
			if fits := utf8.ValidString(s) && len(s) <= MaxBytes; fits && plain && v != s {
				t.Fatalf("Value(%q): got %q, want it unchanged", s, v)
			}
			if v != s && !looksEscaped(v) {
				t.Fatalf("Value(%q) is %q, which looksEscaped does not recognize", s, v)
			}
		}
	})
}

func TestValueOfPlainStringZeroAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Value("shop.v1.Orders") }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
