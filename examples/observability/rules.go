package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// speedUp is how much faster the example's rules are than those in production: a minute becomes a second. Other
// numbers in expressions are not changed, so alerts that compare seconds or calls per hour differ.
const speedUp = 60

// ruleFiles are the files in monitoring/prometheus that the example loads.
var ruleFiles = []string{"rules.yaml", "alerts.yaml"}

// copyRules writes shortened copies of the rule files in the directory from to the directory to.
func copyRules(from, to string) error {
	for _, name := range ruleFiles {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return fmt.Errorf("%w; run this with `go -C examples/observability run .`, or see -rules", err)
		}
		short, err := shorten(text, speedUp)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(to, name), short, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// shorten divides all durations in a file of rules by factor: those in for, keep_firing_for and interval, and the
// windows and offsets in expr.
func shorten(text []byte, factor int) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if err := shortenNode(&doc, time.Duration(factor)); err != nil {
		return nil, err
	}
	return yaml.Marshal(&doc)
}

func shortenNode(n *yaml.Node, factor time.Duration) error {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			switch n.Content[i].Value {
			case "for", "keep_firing_for", "interval", "expr":
				if err := shortenValue(n.Content[i+1], factor); err != nil {
					return err
				}
			}
		}
	}
	for _, child := range n.Content {
		if err := shortenNode(child, factor); err != nil {
			return err
		}
	}
	return nil
}

// duration matches a duration of one unit, but not the end of a name such as rate5m. compound matches one of several
// units, such as 1h30m, which our rules do not use.
var (
	duration = regexp.MustCompile(`\b(\d+)([smhdw])\b`)
	compound = regexp.MustCompile(`\b\d+[smhdw]\d+(ms|[smhdw])`)
	units    = map[string]time.Duration{
		"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
	}
)

func shortenValue(n *yaml.Node, factor time.Duration) (err error) {
	if found := compound.FindString(n.Value); found != "" {
		return fmt.Errorf("line %d: cannot shorten the duration %s", n.Line, found)
	}
	n.Value = duration.ReplaceAllStringFunc(n.Value, func(d string) string {
		parts := duration.FindStringSubmatch(d)
		count, convErr := strconv.Atoi(parts[1])
		if convErr != nil {
			err = fmt.Errorf("line %d: %w", n.Line, convErr)
		}
		return promDuration(time.Duration(count) * units[parts[2]] / factor)
	})
	return err
}

// promDuration formats d for Prometheus, whose durations have no fractions.
func promDuration(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}
