package policyfile

import "strings"

// nearest returns the candidate that word was probably meant to be, or "".
func nearest(word string, candidates []string) string {
	w := fold(word)
	limit := max(1, min(3, len(w)/3))
	best, least := "", limit+1
	for _, c := range candidates {
		f := fold(c)
		d := least
		if max(len(w)-len(f), len(f)-len(w)) < least { // otherwise the distance is not less
			d = distance(w, f)
		}
		if len(w) >= 4 && len(f) >= 4 && (strings.HasPrefix(w, f) || strings.HasPrefix(f, w)) {
			d = min(d, limit) // openForSeconds
		}
		if d < least {
			best, least = c, d
		}
	}
	return best
}

// fold makes the spellings open_for, open-for, OpenFor and openFor equal.
func fold(name string) string { return strings.ToLower(separators.Replace(name)) }

var separators = strings.NewReplacer("_", "", "-", "", " ", "")

// maxWord bounds the work of distance. All names are much shorter.
const maxWord = 64

// distance returns how many letters must be added, removed, replaced or swapped with their neighbor to turn a into b.
func distance(a, b string) int {
	if len(a) > maxWord || len(b) > maxWord {
		return max(len(a), len(b))
	}
	var rows [3][maxWord + 1]int // the last two rows, and the one that is being computed
	for j := range len(b) + 1 {
		rows[1][j] = j
	}
	for i := range len(a) {
		rows[2][0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(rows[1][j+1]+1, rows[2][j]+1, rows[1][j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, rows[0][j-1]+1)
			}
			rows[2][j+1] = d
		}
		rows[0], rows[1] = rows[1], rows[2]
	}
	return rows[1][len(b)]
}
