package statusz

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// Links, forms and JSON contain the id of a key: base64url of its four parts, each with its length in front. Every key
// has exactly one id, whatever bytes it holds, and each id has one key.

var errBadID = errors.New("the key is not an id that this page has made")

// encodeKey returns the id of k.
func encodeKey(k breaker.Key) string {
	parts := [...]string{k.Target, k.Service, k.Method, k.Tag}
	raw := make([]byte, 0, len(k.Target)+len(k.Service)+len(k.Method)+len(k.Tag)+2*len(parts))
	for _, p := range parts {
		raw = binary.AppendUvarint(raw, uint64(len(p)))
		raw = append(raw, p...)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// decodeKey returns the key of an id.
func decodeKey(id string) (breaker.Key, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil {
		return breaker.Key{}, errBadID
	}
	var parts [4]string
	for i := range parts {
		size, n := binary.Uvarint(raw)
		if n <= 0 || size > uint64(len(raw)-n) {
			return breaker.Key{}, errBadID
		}
		parts[i] = string(raw[n : n+int(size)])
		raw = raw[n+int(size):]
	}
	k := breaker.Key{Target: parts[0], Service: parts[1], Method: parts[2], Tag: parts[3]}
	if len(raw) > 0 || encodeKey(k) != id { // a length in more bytes than it needs, or base64 with line breaks
		return breaker.Key{}, errBadID
	}
	return k, nil
}

const (
	maxName = 160 // runes of a key in a list
	maxText = 300 // runes of other text, such as the reason of an override
)

// keyName returns the key for a list: printable, and cut if it is long.
func keyName(k breaker.Key) string { return printable(k.String(), maxName) }

// printable escapes everything in s that does not print or would change the direction of text. It cuts s after limit
// runes and then adds its length. A negative limit means no limit.
func printable(s string, limit int) string {
	if isPlain(s) && (limit < 0 || len(s) <= limit) {
		return s
	}
	var b strings.Builder
	runes := 0
	for rest := s; rest != ""; runes++ {
		if runes == limit {
			b.WriteString("… (" + strconv.Itoa(len(s)) + " bytes)")
			break
		}
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(rest[0])|0x100, 16)[1:])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		rest = rest[size:]
	}
	return b.String()
}

// isPlain reports whether s has nothing to escape, for the common case of ASCII.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// cmpKeys orders keys without building strings.
func cmpKeys(a, b breaker.Key) int {
	return cmp.Or(strings.Compare(a.Target, b.Target), strings.Compare(a.Service, b.Service),
		strings.Compare(a.Method, b.Method), strings.Compare(a.Tag, b.Tag))
}
