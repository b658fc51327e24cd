package policyfile

import "github.com/grpcircuit/grpcircuit/breaker"

// builtin has the presets of package breaker. A file may not define others with these names.
var builtin = map[string]breaker.Config{
	"conservative": breaker.Conservative(),
	"balanced":     breaker.Balanced(),
	"aggressive":   breaker.Aggressive(),
	"lenient":      breaker.Lenient(),
}

// builtinNames are the names of builtin in the order of the documentation.
var builtinNames = []string{"conservative", "balanced", "aggressive", "lenient"}

// complete returns c with a value for each field but Enforcement, so that a rule with it inherits nothing else. Fields
// that are zero have their defaults. Those without a default are off.
func complete(c breaker.Config) breaker.Config {
	own := c.Enforcement
	c = c.WithDefaults()
	c.Enforcement = own
	return c.Inherit(breaker.Conservative()) // a field without a default is off in it, and so are all that are zero here
}
