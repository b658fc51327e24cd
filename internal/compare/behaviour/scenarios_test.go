package behaviour

import "slices"

// libraries are the columns of the comparison, in the order of the report.
var libraries = []*library{
	grpcircuit, gobreakerFixed, gobreakerTwoStep, gobreakerRolling, failsafeGo,
	goZero, aegis, goResiliency, hystrixGo, handyBreaker, rubyist, bytedanceGopkg, sentinelGolang, cep21Circuit,
	mercariBreaker,
	goresilienceRunner,
}

// A topic is a table of the report.
type topic struct {
	title     string
	scenarios []*scenario
	// steps makes it run in the binary whose clock can be set.
	steps bool
}

// topics are the rows, in the order of the report.
var topics = []topic{
	{title: "Tripping", scenarios: tripping},
	{title: "Open", scenarios: opened},
	{title: "Half-open", scenarios: halfOpened},
	{title: "Late results", scenarios: lateResults},
	{title: "The clock", scenarios: clock, steps: true},
	{title: "Listeners", scenarios: listeners},
	{title: "Panics, concurrency, counts, keys", scenarios: calls},
	{title: "Under load", scenarios: load},
	{title: "Healthy and recovered backends", scenarios: judgement},
}

var scenarios = slices.Concat(rows(topics), rows(grpcTopics))

func rows(topics []topic) (all []*scenario) {
	for _, t := range topics {
		all = slices.Concat(all, t.scenarios)
	}
	return all
}
