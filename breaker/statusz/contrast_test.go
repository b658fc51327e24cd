package statusz

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Text has at least the contrast 4.5 with what is behind it, in light and dark (WCAG 2, level AA).
func TestContrast(t *testing.T) {
	css := string(assets["statusz.css"].body)
	light, dark, ok := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("the style has no dark colours")
	}
	dark, _, _ = strings.Cut(dark, "\n}\n")
	light, _, _ = strings.Cut(light, "}")
	variable := regexp.MustCompile(`--(\w+): #([0-9a-f]{3,6});`)
	for scheme, text := range map[string]string{"light": light, "dark": dark} {
		colours := make(map[string]float64) // luminance
		for _, m := range variable.FindAllStringSubmatch(text, -1) {
			colours[m[1]] = luminance(t, m[2])
		}
		for _, name := range []string{"fg", "dim", "link", "open", "half", "closed", "mode"} {
			for _, ground := range []string{"bg", "panel"} {
				a, b := colours[name], colours[ground]
				if got := (max(a, b) + 0.05) / (min(a, b) + 0.05); !(got >= 4.5) {
					t.Errorf("%s: the contrast of %s on %s is %.1f, want at least 4.5", scheme, name, ground, got)
				}
			}
		}
	}
}

// luminance returns the relative luminance of a colour such as fff or 1b1b1b.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}
