package prombridge

import (
	"crypto/sha256"
	"encoding/hex"
	"unicode/utf8"
)

// maxLabel is how many bytes a label may have. Every breaker has its labels on some 40 lines of a scrape, so a few keys of a
// megabyte would be enough to make scrapes fail; and the usual stores refuse labels beyond 2048 or 4096 bytes.
const maxLabel = 1024

// escape makes a label of s. No two strings make the same one, as a label reads in one way only: \\ is a backslash, \xff an
// invalid byte, all else stands for itself; and \# at the end is followed by a hash of s, whose rest was cut off. The hash
// is a cryptographic one because whoever makes up keys must not be able to find two that collide.
func escape(s string) string {
	const hashed = 16 // bytes of the hash
	out := make([]byte, 0, min(len(s), maxLabel)+len(`\xff`))
	cut := 0 // the most of out that leaves room for the hash and tears nothing apart
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
		if len(out) > maxLabel {
			sum := sha256.Sum256([]byte(s))
			return string(hex.AppendEncode(append(out[:cut], `\#`...), sum[:hashed]))
		}
		if len(out) <= maxLabel-len(`\#`)-hex.EncodedLen(hashed) {
			cut = len(out)
		}
	}
	return string(out)
}
