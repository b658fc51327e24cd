// Package labels turns the parts of breaker keys into label values. Both bridges use it, so a key has the same labels
// in Prometheus and in OpenTelemetry.
package labels

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode/utf8"
)

// MaxBytes is the length of the longest label value. A scrape repeats the labels of a breaker on about 25 lines, so a
// few keys of a megabyte would make scrapes fail. Common stores refuse labels of more than 2048 or 4096 bytes.
const MaxBytes = 1024

// Value returns the label value for s. It is valid UTF-8 and has at most MaxBytes bytes. Two different strings have
// different values, even if an attacker chooses them.
//
// A string is its own value if it is valid UTF-8, has at most MaxBytes bytes and does not look escaped. Backslashes
// alone do not change it. Any other string is escaped:
//
//   - \xff stands for an invalid byte, here 0xff.
//   - \\ stands for a backslash.
//   - \# and 32 hexadecimal digits at the end stand for the rest of a string that is too long. The digits are a hash of
//     the whole string.
//
// A string looks escaped if it has backslashes and each of them is part of one of these sequences, such as the text
// `\xff`. It is escaped again, to `\\xff`, because `\xff` is the value of the byte 0xff.
//
// Value depends on s alone. The alternative is to keep a text that looks escaped, and to add a suffix to the other
// string if a group holds both. But only a scrape has all keys of a group, and an event has one. The labels of an event
// and a metric would differ, and a breaker's labels would change when another breaker is added or removed.
func Value(s string) string {
	if len(s) <= MaxBytes && utf8.ValidString(s) && !looksEscaped(s) {
		return s
	}
	return escape(s)
}

// escapedForm matches every result of escape. An invalid byte is never below 0x80.
var escapedForm = regexp.MustCompile(`^(?:[^\\]|\\\\|\\x[89a-f][0-9a-f])*(?:\\#[0-9a-f]{32})?$`)

// looksEscaped reports whether s may be the result of escaping another string.
func looksEscaped(s string) bool {
	return strings.Contains(s, `\`) && escapedForm.MatchString(s)
}

// escape returns s in its escaped form. A result can be read in one way only, so no two strings have the same one. The
// hash is cryptographic, because nobody who chooses keys may be able to find two that collide.
func escape(s string) string {
	const hashed = 16 // bytes of the hash that are kept
	out := make([]byte, 0, min(len(s), MaxBytes)+len(`\xff`))
	cut := 0 // the longest prefix of out that leaves room for the hash and splits no sequence
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, `\x`...)
			out = hex.AppendEncode(out, []byte{s[i]})
		case r == '\\':
			out = append(out, `\\`...)
		default:
			out = append(out, s[i:i+n]...)
		}
		i += n
		if len(out) > MaxBytes {
			sum := sha256.Sum256([]byte(s))
			return string(hex.AppendEncode(append(out[:cut], `\#`...), sum[:hashed]))
		}
		if len(out) <= MaxBytes-len(`\#`)-hex.EncodedLen(hashed) {
			cut = len(out)
		}
	}
	return string(out)
}
