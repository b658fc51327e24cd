// Package statusz shows the circuit breakers of a program on a web page, for the person who is on call. It depends only
// on package breaker and the standard library.
//
//	page := statusz.Handler(group)
//	mux.Handle("/debug/breakers/", page)
//	server.RegisterOnShutdown(page.Close)
//
// The page shows which backends the program calls, which breakers are open, and why. So protect it with the same
// authentication as the other pages below /debug/. The example has a handler that requires a password.
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
//   - the calls of the last two minutes, with one line for successes, one for failures and overloads, and one for
//     rejections, and the rates of the last ten seconds (a rate needs two requests, so repeat a curl, or see
//     WithHistory);
//   - the policy in force and the rule that it comes from;
//   - the override in force, with author, reason and the time that is left;
//   - the last transitions since Handler was called.
//
// The page of one breaker has all counters, the parts of its key in full, and where each value of its policy comes
// from. The list also shows the policy rules that no breaker has matched, because they may be misspelt. The parameters
// q (words that the key contains) and state (open, half_open, closed, not_ready, override) filter the list on the
// server. Error messages of backends are never shown. The page shows only codes, counts, and the texts of overrides and
// of Trip.
//
// The page works without scripts. With them it is live, over server-sent events, and pauses while its tab is hidden.
// If nothing comes from the server for 8 s, the page says that it is not live, and after 15 s it connects again.
// Middleware must pass Flush on, as [http.ResponseController] finds it. Otherwise the page gets an update only each
// few seconds.
//
// # JSON and text
//
// With format=json the answer is a [Report]. With format=text, or for curl, it is one line of totals and one line for
// each breaker. Both list all breakers that q and state select, unless the parameters limit and page select a part. A
// single breaker is at breaker?key=ID, with the ID from the JSON.
//
//	curl -s 'http://localhost:8080/debug/breakers/?state=open'
//	curl -s 'http://localhost:8080/debug/breakers/?format=json&limit=10' | jq '.breakers[].snapshot.outage'
//
// # Actions
//
// The page is read-only without [WithActions]. With it, the page of a breaker has forms to trip and reset the breaker,
// and to set and clear an override. Without a browser:
//
//	curl --data-urlencode key=ID -d action=force_open -d ttl=15m --data-urlencode why='bad deploy' …/debug/breakers/act
//
// The actions are trip (with why), force_open, force_closed and shadow (with why and ttl; 0 means until cleared),
// reset, and clear. Each action writes a log line (see [WithLogger]). Trip and Reset are events of the group too.
//
// # Cost
//
// Without viewers the page has no goroutine, and costs about 50 ns for each transition. While there are viewers, one
// goroutine takes a snapshot of all breakers each second, for all viewers together. Viewers of the same list also share
// its HTML. Requests for the page, JSON and text share a snapshot that is less than a second old.
//
// For 10 000 breakers, one viewer costs about 26 ms of CPU time a second and 100 viewers of the same list cost 32 ms. A
// snapshot takes 10 MB, the history of two minutes 17 MB if all breakers are called, and the last transitions up to 6
// MB. Each viewer receives about 35 kB a second. BenchmarkTick and TestHistoryMemory measure these figures.
package statusz
