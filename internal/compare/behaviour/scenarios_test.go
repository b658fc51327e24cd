package behaviour

import "slices"

// libraries are the columns of the comparison, in the order of the report.
var libraries = []*library{
	grpcircuit, gobreakerFixed, gobreakerTwoStep, gobreakerRolling, failsafeGo,
	goZero, aegis, goResiliency, hystrixGo, handyBreaker, rubyist, bytedanceGopkg, sentinelGolang,
}

// A topic is a table of the report.
type topic struct {
	title     string
	scenarios []*scenario
}

// topics are the rows, in the order of the report.
var topics = []topic{
	{"Tripping", tripping},
	{"Open", opened},
	{"Half-open", halfOpened},
	{"Late results", lateResults},
	{"Listeners", listeners},
	{"Panics, concurrency, counts, keys", calls},
	{"Under load", load},
}

// grpcTopics are the rows for libraries with a gRPC client.
var grpcTopics = []topic{
	{"gRPC: unary calls", unaryCalls},
	{"gRPC: streams", streams},
}

var scenarios = slices.Concat(rows(topics), rows(grpcTopics))

func rows(topics []topic) (all []*scenario) {
	for _, t := range topics {
		all = slices.Concat(all, t.scenarios)
	}
	return all
}
