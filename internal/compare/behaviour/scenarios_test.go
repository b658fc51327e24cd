package behaviour

import "slices"

// libraries are the columns of the comparison, in the order of the report.
var libraries = []*library{
	grpcircuit, gobreakerFixed, gobreakerTwoStep, gobreakerRolling, failsafeGo,
	goZero, aegis, goResiliency, hystrixGo, handyBreaker, rubyist, bytedanceGopkg, sentinelGolang,
}

// scenarios are its rows.
var scenarios = slices.Concat(tripping, openState)
