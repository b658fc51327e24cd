package statusz

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// hostileKeys holds what a caller might put into a key to break a page, a terminal or a format.
var hostileKeys = []breaker.Key{
	{},
	{Target: `<script>alert(1)</script>`},
	{Target: `" onmouseover="alert(1)`, Tag: `'`},
	{Service: "</div></main>", Method: "{{.}}&amp;"},
	{Tag: strings.Repeat("long ", 2048)},
	{Tag: "line\nanother\r\ndata: x\x00\x1b[31m\x7f"},
	{Tag: "\xff\xfe invalid \xc3"},
	{Tag: "\u202e right to left \u2066 \u200b zero width \ufeff"},
	{Tag: "\u009b31m C1, tag \U000e0041, soft hyphen \u00ad"},
	{Tag: "日本語 é"},
	{Target: "a", Service: "", Method: "b"},
	{Target: "javascript:alert(1)"},
}

func TestHostileKeys(t *testing.T) {
	g := newGroup(t)
	p := newPage(t, g)
	for _, k := range hostileKeys {
		g.Get(k).Trip(t.Context(), `<img src=x onerror="alert(1)">`+"\n\x1b")
	}
	plain := func(what, body string) {
		t.Helper()
		if !utf8.ValidString(body) {
			t.Errorf("%s: invalid UTF-8", what)
		}
		for _, r := range body {
			if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Errorf("%s: contains %U", what, r)
			}
		}
	}
	html := func(what, body string) {
		t.Helper()
		plain(what, body)
		for _, bad := range []string{"<script>", "<img", `" onmouseover`, "</div></main>"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s: contains %s", what, bad)
			}
		}
	}
	html("list", get(t, p, "").Body.String())
	if size := get(t, p, "").Body.Len(); size > 60_000 {
		t.Errorf("the list has %d bytes: is a long key cut?", size)
	}
	text := get(t, p, "?format=text").Body.String()
	plain("text", text)
	if lines := strings.Count(text, "\n"); lines != len(hostileKeys)+1 {
		t.Errorf("text has %d lines, want one for the totals and one each for %d breakers", lines, len(hostileKeys))
	}
	rep := getReport(t, p, "?format=json")
	raw := get(t, p, "?format=json").Body.String()
	plain("JSON", raw)
	if strings.ContainsAny(raw, "\r<>") {
		t.Error("the JSON contains what a terminal or a page would not take as text")
	}
	have := make(map[breaker.Key]bool)
	for _, b := range rep.Breakers {
		k, err := decodeKey(b.ID)
		if err != nil {
			t.Fatal(err)
		}
		have[k] = true
		if utf8.ValidString(k.Tag) && b.Snapshot.Key != k {
			t.Errorf("%.40q comes back from JSON as %.40q", k, b.Snapshot.Key)
		}
	}
	for _, k := range hostileKeys {
		if !have[k] {
			t.Errorf("%.40q: no such id in the JSON", k)
		}
		body := get(t, p, "breaker?key="+url.QueryEscape(encodeKey(k))).Body.String()
		html("page of a breaker", body)
		if k.Target != "" && !strings.Contains(body, "<dt>Target</dt>") {
			t.Errorf("%.40q: the target is not on its page", k)
		}
		if k.Tag == hostileKeys[4].Tag && !strings.Contains(body, k.Tag) {
			t.Error("the page of a breaker does not have its long key in full")
		}
	}
}

func TestPrintable(t *testing.T) {
	for _, tt := range []struct {
		in    string
		limit int
		want  string
	}{
		{"plain", 10, "plain"},
		{"plain", 3, "pla… (5 bytes)"},
		{"plain", -1, "plain"},
		{"日本語", 3, "日本語"},
		{"日本語", 2, "日本… (9 bytes)"},
		{"a\nb\x00\xff\x0f\u202e\u00a0", -1, `a\nb\x00\xff\x0f\u202e\u00a0`},
		{"\U000e0001", -1, `\U000e0001`},
		{"", 0, ""},
	} {
		if got := printable(tt.in, tt.limit); got != tt.want {
			t.Errorf("printable(%q, %d) is %q, want %q", tt.in, tt.limit, got, tt.want)
		}
	}
}

func FuzzKey(f *testing.F) {
	for _, k := range hostileKeys {
		f.Add(k.Target, k.Service, k.Method, k.Tag, encodeKey(k))
	}
	f.Add("", "", "", "", "gAAAAAA") // a length in two bytes
	f.Add("", "", "", "", "____________AQ")
	f.Fuzz(func(t *testing.T, target, service, method, tag, id string) {
		k := breaker.Key{Target: target, Service: service, Method: method, Tag: tag}
		encoded := encodeKey(k)
		if url.QueryEscape(encoded) != encoded {
			t.Errorf("the id %q needs escaping in a link", encoded)
		}
		if got, err := decodeKey(encoded); err != nil || got != k {
			t.Errorf("%q comes back as %q: %v", k, got, err)
		}
		if got, err := decodeKey(id); err == nil && encodeKey(got) != id {
			t.Errorf("two ids for %q: %q and %q", got, id, encodeKey(got))
		}
		name := keyName(k)
		if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("the name %q of %q does not print", name, k)
		}
	})
}

// With no query does the page panic, answer with invalid JSON, or write the text of a search without escaping it.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		"", "q=a&state=open", "page=-1", "format=json&limit=1", "key=DGRuczovLy9iOjQ0MwAAAA", "q=%00%ff<b>",
		"format=text&page=9", "key=DGRuczovLy9iOjQ0MwAAAA&format=json",
	} {
		f.Add(q, "text/html")
	}
	g := newGroup(f)
	for _, k := range hostileKeys {
		g.Get(k)
	}
	p := newPage(f, g)
	f.Fuzz(func(t *testing.T, rawQuery, accept string) {
		for _, target := range []string{"", "breaker"} {
			w := getRaw(t, p, target, rawQuery, accept)
			switch w.Code {
			case 200, 400, 404:
			default:
				t.Errorf("%q: status %d", rawQuery, w.Code)
			}
			if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%q: invalid JSON", rawQuery)
			}
			if w.Header().Get("Content-Type") == "text/html; charset=utf-8" && strings.Contains(w.Body.String(), "<script>") {
				t.Errorf("%q: not escaped", rawQuery)
			}
		}
	})
}
