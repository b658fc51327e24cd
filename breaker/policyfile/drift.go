package policyfile

import (
	"log/slog"
	"slices"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A fingerprint holds what a group reveals of its policy. If it changes, somebody else has called Group.Apply. It does
// not show a new Config of the group if a rule that matches every key sets the same fields.
type fingerprint struct {
	base  breaker.Config // of a key that no rule is likely to name
	rules []breaker.PolicyRule
}

func (f fingerprint) equal(other fingerprint) bool {
	return f.base == other.base && slices.Equal(f.rules, other.rules)
}

func groupFingerprint(g *breaker.Group) fingerprint {
	f := fingerprint{base: g.PolicyFor(breaker.Key{Tag: "\x00policyfile"}).Config}
	for _, info := range g.Policies() {
		f.rules = append(f.rules, info.Rule)
	}
	return f
}

// fingerprintOf returns the fingerprint of a group that file was applied to. It makes a new group, because somebody may
// have called Group.Apply on the real ones since.
func fingerprintOf(file *File) fingerprint {
	g, err := breaker.NewGroup(file.Config, breaker.WithPolicy(file.Rules...))
	if err != nil {
		return fingerprint{} // impossible, because the file was applied
	}
	return groupFingerprint(g)
}

// checkDrift warns if the policy of a group has changed since the last check.
func (w *Watcher) checkDrift() {
	for i, g := range w.groups {
		if now := groupFingerprint(g); !now.equal(w.policies[i]) {
			w.policies[i] = now
			w.log(slog.LevelWarn, "policy file: somebody has called Group.Apply for a group of this file; "+
				"that policy is in force until the file changes", "group", i)
		}
	}
}
