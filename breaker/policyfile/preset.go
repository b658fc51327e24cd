package policyfile

import "github.com/grpcircuit/grpcircuit/breaker"

// builtin has the presets of package breaker. A file may not define presets with these names.
var builtin = map[string]breaker.Config{
	"conservative": breaker.Conservative(),
	"balanced":     breaker.Balanced(),
	"aggressive":   breaker.Aggressive(),
	"lenient":      breaker.Lenient(),
}

// builtinNames are the names of builtin in the order of the documentation.
var builtinNames = []string{"conservative", "balanced", "aggressive", "lenient"}

// complete returns c with a value for each field except Enforcement, so that a rule with this preset inherits only
// Enforcement. Fields that are zero get their defaults. Fields without a default are switched off.
func complete(c breaker.Config) breaker.Config {
	own := c.Enforcement
	c = c.WithDefaults()
	c.Enforcement = own
	return c.Inherit(breaker.Conservative()) // only fields without a default are zero by now, and they are off in it
}
