// Package statusz shows the circuit breakers of a program on a web page, for the person who is on call. It depends only
// on package breaker and the standard library.
//
//	page := statusz.Handler(group)
//	mux.Handle("/debug/breakers/", page)
//	server.RegisterOnShutdown(page.Close)
//
// The page shows whom the program calls, which breakers are open and why. So it belongs behind the same authentication
// as the other pages below /debug/; the example has a handler that asks for a password first.
//
// # What it shows
//
// The name of the program is on top ([WithName]), then totals. The list below has the worst breakers first: those that
// are open, then those that are forced open, the half-open ones, those that an override or the policy keeps from
// rejecting, and those with failures. For each breaker it shows
//
//   - the state as a word and a colour, whether a call would be admitted now (ready), and since when it is not closed;
//   - what began the outage (rule, counts and the last status code), what opened it again since, and when the next
//     probe may run;
//   - the calls of the last two minutes as a line each for successes, failures (overloads included) and rejections, and
//     the rates of the last ten seconds;
//   - the policy in force and the rule that it comes from;
//   - the override in force, with author, reason and the rest of its time;
//   - the last transitions, of the time since Handler was called.
//
// The page of one breaker has all counters, the parts of its key in full, and where each value of its policy comes
// from. Policy rules that no breaker has matched are listed, because they may be misspelt. The parameters q (words that
// the key contains) and state (open, half_open, closed, not_ready, override) filter on the server. Messages of backends
// are never shown: only codes, counts, and what people wrote in overrides and Trip.
//
// The page works without scripts. With them it is live, over server-sent events, and pauses while its tab is hidden. If
// nothing comes from the server for 8 s, the page says that it is not live, and it connects again. Middleware must pass
// Flush on, as [http.ResponseController] finds it. Otherwise the page gets an update only each few seconds.
//
// # JSON and text
//
// With format=json the answer is a [Report]; with format=text, or for curl, it is one line of totals and one line for
// each breaker. Both list all breakers that q and state select, unless the parameters limit and page cut the list. A
// single breaker is at breaker?key=ID, with the ID from the JSON.
//
//	curl -s 'http://localhost:8080/debug/breakers/?state=open'
//	curl -s 'http://localhost:8080/debug/breakers/?format=json&limit=10' | jq '.breakers[].snapshot.outage'
//
// # Actions
//
// The page is read-only, unless [WithActions] names who may act. Then the page of a breaker has forms to trip and reset
// it and to set and clear an override. Without a browser:
//
//	curl --data-urlencode key=ID -d action=force_open -d ttl=15m --data-urlencode why='bad deploy' …/debug/breakers/act
//
// The actions are trip (why), reset, force_open, force_closed and shadow (why and ttl; 0 is until cleared), and clear.
// Each action is a line of the log (see [WithLogger]). Trip and Reset are events of the group too.
//
// # Cost
//
// Without viewers the page costs about 50 ns for each transition, and runs nothing. While somebody looks,
// one goroutine takes one snapshot of all breakers each second, for all viewers together; viewers of the same list
// share its HTML too. Requests for the page, JSON and text share a snapshot that is less than a second old.
//
// For 10 000 breakers, one viewer costs about 26 ms of CPU time a second and 100 viewers of the same list cost 32 ms. A
// snapshot takes 10 MB, the history of two minutes 17 MB if all breakers are called, and the last transitions up to
// 6 MB. Each viewer receives about 35 kB a second. BenchmarkTick and TestHistoryMemory measure it.
package statusz
