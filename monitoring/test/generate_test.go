package test

import "encoding/json"

// This file generates the dashboard. The types have the fields of Grafana's JSON that the dashboard uses, in the schema
// of Grafana 10 and later (schemaVersion 39).

type dashboard struct {
	Title         string     `json:"title"`
	UID           string     `json:"uid"`
	Description   string     `json:"description"`
	Tags          []string   `json:"tags"`
	SchemaVersion int        `json:"schemaVersion"`
	Version       int        `json:"version"`
	Editable      bool       `json:"editable"`
	GraphTooltip  int        `json:"graphTooltip"` // 1: one crosshair for all panels
	Refresh       string     `json:"refresh"`
	Time          timeRange  `json:"time"`
	Templating    templating `json:"templating"`
	Panels        []*panel   `json:"panels"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type templating struct {
	List []templateVariable `json:"list"`
}

type templateVariable struct {
	Name       string         `json:"name"`
	Label      string         `json:"label"`
	Type       string         `json:"type"`
	Query      variableQuery  `json:"query"`
	Datasource *datasourceRef `json:"datasource,omitempty"`
	Refresh    int            `json:"refresh,omitempty"` // 2: when the time range changes
	Sort       int            `json:"sort,omitempty"`    // 1: by the alphabet
	Multi      bool           `json:"multi,omitempty"`
	IncludeAll bool           `json:"includeAll,omitempty"`
	// AllValue is a regexp that also matches the empty label of a key without this part. Grafana's default does not.
	AllValue string          `json:"allValue,omitempty"`
	Current  *variableOption `json:"current,omitempty"`
}

type variableOption struct {
	Text  string `json:"text"`
	Value string `json:"value"`
}

type datasourceRef struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int            `json:"id"`
	Type        string         `json:"type"`
	Title       string         `json:"title"`
	Description string         `json:"description,omitempty"`
	GridPos     gridPos        `json:"gridPos"`
	Datasource  *datasourceRef `json:"datasource,omitempty"`
	Targets     []target       `json:"targets,omitempty"`
	FieldConfig *fieldConfig   `json:"fieldConfig,omitempty"`
	Options     map[string]any `json:"options,omitempty"`
	// Transformations are those of a table.
	Transformations []transformation `json:"transformations,omitempty"`
	Collapsed       bool             `json:"collapsed,omitempty"`
	Panels          []*panel         `json:"panels,omitempty"` // of a collapsed row
}

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type target struct {
	RefID        string         `json:"refId"`
	Datasource   *datasourceRef `json:"datasource"`
	Expr         string         `json:"expr"`
	LegendFormat string         `json:"legendFormat,omitempty"`
	Instant      bool           `json:"instant,omitempty"`
	Range        bool           `json:"range,omitempty"`
	Format       string         `json:"format,omitempty"`
}

type fieldConfig struct {
	Defaults  fieldDefaults `json:"defaults"`
	Overrides []any         `json:"overrides"`
}

type fieldDefaults struct {
	Unit       string         `json:"unit,omitempty"`
	Min        *float64       `json:"min,omitempty"`
	Max        *float64       `json:"max,omitempty"`
	NoValue    string         `json:"noValue,omitempty"`
	Color      map[string]any `json:"color,omitempty"`
	Thresholds *thresholds    `json:"thresholds,omitempty"`
	Mappings   []mapping      `json:"mappings,omitempty"`
	Custom     map[string]any `json:"custom,omitempty"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"` // nil: from the lowest value on
}

type mapping struct {
	Type    string                  `json:"type"`
	Options map[string]mappedResult `json:"options"`
}

type mappedResult struct {
	Text  string `json:"text"`
	Color string `json:"color"`
	Index int    `json:"index"`
}

type transformation struct {
	ID      string         `json:"id"`
	Options map[string]any `json:"options"`
}

var prometheus = &datasourceRef{Type: "prometheus", UID: "${datasource}"}

const (
	// selectClient selects the series of a group, selectKey those of a breaker, and selectFleet the recording rules of the
	// level job_method.
	selectClient = `job=~"$job", instance=~"$instance"`
	selectFleet  = `job=~"$job", grpc_target=~"$target", grpc_service=~"$service", grpc_method=~"$method"`
	selectKey    = selectFleet + `, instance=~"$instance"`

	// legendKey names a breaker. A part that the key does not have is empty.
	legendKey = "{{instance}} {{grpc_target}} {{grpc_service}}/{{grpc_method}} {{tag}}"
	legendJob = "{{job}} {{grpc_target}} {{grpc_service}}/{{grpc_method}}"

	// stateNumber is 0 for closed, 1 for half-open and 2 for open.
	stateNumber = `sum without (state) (2 * grpc_client_breaker_state{state="open", ` + selectKey + `}) +
sum without (state) (grpc_client_breaker_state{state="half_open", ` + selectKey + `})`
)

// b returns a selector of a metric of a breaker.
func b(name string) string { return "grpc_client_breaker_" + name + "{" + selectKey + "}" }

// bWith is b with one more matcher.
func bWith(name, matcher string) string {
	return "grpc_client_breaker_" + name + "{" + matcher + ", " + selectKey + "}"
}

// c returns a selector of a metric of a group.
func c(name string) string { return "grpc_client_breaker_" + name + "{" + selectClient + "}" }

func query(refID, expr, legend string) target {
	return target{RefID: refID, Datasource: prometheus, Expr: expr, LegendFormat: legend, Range: true}
}

func instant(refID, expr string) target {
	return target{RefID: refID, Datasource: prometheus, Expr: expr, Instant: true, Format: "table"}
}

func number(v float64) *float64 { return &v }

// layout places panels from left to right, in lines of the same height.
type layout struct {
	panels  []*panel
	x, y, h int
}

func (l *layout) add(w, h int, p *panel) {
	if l.x+w > 24 {
		l.newLine()
	}
	p.ID = len(l.panels) + 1
	p.GridPos = gridPos{H: h, W: w, X: l.x, Y: l.y}
	if p.Type != "row" {
		p.Datasource = prometheus
	}
	l.x += w
	l.h = max(l.h, h)
	l.panels = append(l.panels, p)
}

func (l *layout) newLine() {
	l.y += l.h
	l.x, l.h = 0, 0
}

func (l *layout) row(title string) {
	l.newLine()
	l.add(24, 1, &panel{Type: "row", Title: title})
}

// stat is a number that is green at 0 and has color above.
func stat(title, description, color, unit string, q ...target) *panel {
	return &panel{
		Type: "stat", Title: title, Description: description, Targets: q,
		FieldConfig: &fieldConfig{
			Defaults: fieldDefaults{
				Unit: unit, NoValue: "0",
				Color: map[string]any{"mode": "thresholds"},
				Thresholds: &thresholds{Mode: "absolute", Steps: []step{
					{Color: "green"}, {Color: color, Value: number(0.000001)},
				}},
			},
			Overrides: []any{},
		},
		Options: map[string]any{
			"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "textMode": "auto",
			"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		},
	}
}

// graph draws lines, or areas on top of each other.
func graph(title, description, unit string, stacked bool, q ...target) *panel {
	custom := map[string]any{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
	if stacked {
		custom["fillOpacity"] = 60
		custom["stacking"] = map[string]any{"mode": "normal", "group": "A"}
	}
	defaults := fieldDefaults{
		Unit: unit, Min: number(0), Custom: custom, Color: map[string]any{"mode": "palette-classic-by-name"},
	}
	if unit == "percentunit" {
		defaults.Max = number(1)
	}
	return &panel{
		Type: "timeseries", Title: title, Description: description, Targets: q,
		FieldConfig: &fieldConfig{Defaults: defaults, Overrides: []any{}},
		Options: map[string]any{
			"legend":  map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
			"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
		},
	}
}

// timeline shows words over time, one line a series.
func timeline(title, description string, words []mappedResult, q ...target) *panel {
	options := make(map[string]mappedResult, len(words))
	for i, w := range words {
		w.Index = i
		options[string(rune('0'+i))] = w
	}
	return &panel{
		Type: "state-timeline", Title: title, Description: description, Targets: q,
		FieldConfig: &fieldConfig{
			Defaults: fieldDefaults{
				Color: map[string]any{"mode": "thresholds"}, Mappings: []mapping{{Type: "value", Options: options}},
				Thresholds: &thresholds{Mode: "absolute", Steps: []step{{Color: "green"}}},
				Custom:     map[string]any{"fillOpacity": 80, "lineWidth": 0},
			},
			Overrides: []any{},
		},
		Options: map[string]any{
			"mergeValues": true, "showValue": "never", "rowHeight": 0.9, "alignValue": "left",
			"legend":  map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": true},
			"tooltip": map[string]any{"mode": "single", "sort": "none"},
		},
	}
}

// table shows the labels of the series and their value. unit is the unit of the value.
func table(title, description, unit, value string, q target) *panel {
	order := make(map[string]any)
	for i, name := range []string{
		"job", "instance", "grpc_target", "grpc_service", "grpc_method", "tag", "mode", "Value",
	} {
		order[name] = i
	}
	return &panel{
		Type: "table", Title: title, Description: description, Targets: []target{q},
		FieldConfig: &fieldConfig{
			Defaults:  fieldDefaults{Unit: unit, NoValue: "none", Custom: map[string]any{"align": "auto", "filterable": true}},
			Overrides: []any{},
		},
		Options: map[string]any{
			"showHeader": true, "cellHeight": "sm",
			"sortBy": []any{map[string]any{"displayName": value, "desc": true}},
		},
		Transformations: []transformation{{ID: "organize", Options: map[string]any{
			"excludeByName": map[string]any{"Time": true, "__name__": true},
			"indexByName":   order,
			"renameByName":  map[string]any{"Value": value},
		}}},
	}
}

func newDashboard() *dashboard {
	var l layout

	l.row("Overview")
	l.add(4, 4, stat("Breakers", "Breakers that have series: those that are not idle.", "blue", "none",
		query("A", `count(`+b("ready")+`)`, "")))
	l.add(4, 4, stat("Outages now", "Breakers that are not closed. Those in shadow mode are not counted.", "red", "none",
		query("A", `count(`+b("outage_started_timestamp_seconds")+`)`, "")))
	l.add(4, 4, stat("Not ready", "Breakers that would reject a call now.", "red", "none",
		query("A", `count(`+b("ready")+` == 0)`, "")))
	l.add(4, 4, stat("Rejected calls", "Calls per second that were rejected, for any reason.", "red", "reqps",
		query("A", `sum(rate(`+b("rejections_total")+`[$__rate_interval]))`, "")))
	l.add(4, 4, stat("Probes", "Probes per second.", "blue", "reqps",
		query("A", `sum(rate(`+b("probes_total")+`[$__rate_interval]))`, "")))
	l.add(4, 4, stat("Forced or in shadow mode", "Breakers with an override, or with a policy that does not enforce.",
		"orange", "none", query("A", `count(`+b("override")+` == 1)`, "")))
	l.add(12, 8, graph("Breakers by state", "State over time, with overrides. Shadow mode changes the state too.", "none", true,
		query("A", `sum by (state) (`+b("state")+`)`, "{{state}}")))
	l.add(12, 8, graph("Rejected calls by reason", "Calls per second. In shadow mode no call is rejected.", "reqps", true,
		query("A", `sum by (reason) (rate(`+b("rejections_total")+`[$__rate_interval]))`, "{{reason}}")))
	l.add(12, 8, table("Outages now", "Breakers that are not closed, and since when. Those in shadow mode are not here.",
		"dateTimeAsIso", "Since", instant("A", b("outage_started_timestamp_seconds")+` * 1000`)))
	l.add(12, 8, table("Forced or in shadow mode",
		"The mode in force. The page /debug/breakers/ of the instance shows who set an override and why.",
		"none", "In force", instant("A", b("override")+` == 1`)))

	l.row("One breaker")
	l.add(12, 8, timeline("State", "The state of each selected breaker. Select one target, service and method.",
		[]mappedResult{{Text: "closed", Color: "green"}, {Text: "half-open", Color: "yellow"}, {Text: "open", Color: "red"}},
		query("A", stateNumber, legendKey)))
	l.add(12, 8, timeline("Ready", "Whether a call would be admitted.",
		[]mappedResult{{Text: "not ready", Color: "red"}, {Text: "ready", Color: "green"}},
		query("A", b("ready"), legendKey)))
	l.add(12, 8, graph("Calls by outcome", "Admitted calls per second that have ended, and rejected calls.", "reqps", true,
		query("A", `sum by (outcome) (rate(`+b("calls_total")+`[$__rate_interval]))`, "{{outcome}}"),
		query("B", `sum(rate(`+b("rejections_total")+`[$__rate_interval]))`, "rejected"),
		query("C", `sum(rate(`+b("late_results_total")+`[$__rate_interval]))`, "late")))
	l.add(12, 8, graph("Failure ratio",
		"From counters over 5 minutes, and that of the breaker's own window while it is closed and has MinCalls calls.",
		"percentunit", false,
		query("A", `breaker:grpc_client_breaker_failures:ratio_rate5m{`+selectKey+`}`, "5 minutes "+legendKey),
		query("B", b("failure_ratio"), "window "+legendKey)))
	l.add(12, 8, graph("Rejected calls by reason, each breaker", "Calls per second.", "reqps", true,
		query("A", `rate(`+b("rejections_total")+`[$__rate_interval]) > 0`, "{{reason}} "+legendKey)))
	l.add(12, 8, graph("Trips by rule", "How often a closed breaker opened. Trips in shadow mode have their own name.", "none",
		true,
		query("A", `sum by (rule) (increase(`+b("trips_total")+`[$__rate_interval]))`, "{{rule}}"),
		query("B", `sum by (rule) (increase(`+b("shadow_trips_total")+`[$__rate_interval]))`, "{{rule}} (shadow)")))
	l.add(12, 8, graph("Probes by result", "Probes per second. Lost probes did not end in ProbeTimeout.", "reqps", true,
		query("A", `sum by (result) (rate(`+b("probes_total")+`[$__rate_interval]))`, "{{result}}")))
	l.add(12, 8, graph("Calls in flight", "Admitted calls that have not ended.", "none", false,
		query("A", b("in_flight"), legendKey)))

	l.row("Fleet")
	l.add(12, 8, graph("Instances that reject", "Share of the calling instances that are in an outage.", "percentunit", false,
		query("A", `job_method:grpc_client_breaker_instances_rejecting:ratio{`+selectFleet+`}`, legendJob)))
	l.add(12, 8, graph("Share of rejected calls",
		"The burn rate alerts compare it with 1.44% (1 hour and 5 minutes) and 0.6% (6 hours and 30 minutes).",
		"percentunit", false,
		query("A", `job_method:grpc_client_breaker_rejections:ratio_rate5m{`+selectFleet+`}`, "5m "+legendJob),
		query("B", `job_method:grpc_client_breaker_rejections:ratio_rate1h{`+selectFleet+`}`, "1h "+legendJob),
		query("C", `job_method:grpc_client_breaker_rejections:ratio_rate6h{`+selectFleet+`}`, "6h "+legendJob)))
	l.add(12, 8, table("Top 10 of rejected calls", "Calls that were rejected in the selected time.", "short", "Rejected",
		instant("A", `topk(10, sum without (reason) (increase(`+b("rejections_total")+`[$__range])) > 0)`)))
	l.add(12, 8, table("Open for longest", "Share of the selected time in which the breaker was open or half-open.",
		"percentunit", "Not closed", instant("A", `topk(10, rate(`+b("open_seconds_total")+`[$__range]) > 0)`)))
	l.add(8, 8, graph("Shadow mode would reject", "Calls per second that were admitted only because of shadow mode.", "reqps",
		true,
		query("A", `sum by (job, grpc_target) (rate(`+b("shadow_rejections_total")+`[$__rate_interval]))`,
			"{{job}} {{grpc_target}}")))
	l.add(8, 8, graph("Fallbacks", "Fallbacks per second, by result.", "reqps", true,
		query("A", `sum by (result) (rate(`+b("fallbacks_total")+`[$__rate_interval]))`, "{{result}}")))
	l.add(8, 8, graph("Reloads of the policy file", "By result.", "none", true,
		query("A", `sum by (result) (increase(`+c("policy_reloads_total")+`[$__rate_interval]))`, "{{result}}")))
	l.add(8, 8, graph("Group too small", "Calls per second of keys that got the overflow breaker, and evicted breakers.",
		"reqps", false,
		query("A", `sum by (instance) (rate(`+c("overflow_total")+`[$__rate_interval]))`, "{{instance}} overflow"),
		query("B", `sum by (instance) (rate(`+c("evictions_total")+`[$__rate_interval]))`, "{{instance}} evictions")))
	l.add(8, 8, graph("Breakers of the group", "Idle breakers are included until their memory is freed.", "none", false,
		query("A", c("breakers"), "{{instance}}")))
	l.add(8, 8, graph("Unguarded calls", "Calls per second without a breaker, because the key function or the matcher panicked.",
		"reqps", false, query("A", `rate(`+c("unguarded_total")+`[$__rate_interval])`, "{{instance}}")))

	return &dashboard{
		Title: "gRPC circuit breakers", UID: "grpcircuit",
		Description: "Circuit breakers of gRPC clients, from the metrics of package prombridge of grpcircuit. It needs the " +
			"recording rules in monitoring/prometheus/rules.yaml.",
		Tags: []string{"grpc", "grpcircuit"}, SchemaVersion: 39, Version: 1, Editable: true, GraphTooltip: 1, Refresh: "30s",
		Time: timeRange{From: "now-1h", To: "now"},
		Templating: templating{List: []templateVariable{
			{Name: "datasource", Label: "Data source", Type: "datasource", Query: variableQuery{Query: "prometheus"}},
			labelVariable("job", "Job", "job", ``),
			labelVariable("instance", "Instance", "instance", `job=~"$job"`),
			labelVariable("target", "Target", "grpc_target", selectClient),
			labelVariable("service", "Service", "grpc_service", selectClient+`, grpc_target=~"$target"`),
			labelVariable("method", "Method", "grpc_method", selectClient+`, grpc_target=~"$target", grpc_service=~"$service"`),
		}},
		Panels: l.panels,
	}
}

// labelVariable is a variable with the values of a label, of which several may be selected. The default is all.
func labelVariable(name, title, label, selector string) templateVariable {
	return templateVariable{
		Name: name, Label: title, Type: "query", Datasource: prometheus,
		Query: variableQuery{
			Query: "label_values(grpc_client_breaker_ready{" + selector + "}, " + label + ")", RefID: "Prometheus" + title,
		},
		Refresh: 2, Sort: 1, Multi: true, IncludeAll: true, AllValue: ".*",
		Current: &variableOption{Text: "All", Value: "$__all"},
	}
}

// variableQuery is a string for a data source variable, and an object for a query of Prometheus.
type variableQuery struct {
	Query string `json:"query"`
	RefID string `json:"refId"`
}

// MarshalJSON implements json.Marshaler.
func (q variableQuery) MarshalJSON() ([]byte, error) {
	if q.RefID == "" {
		return json.Marshal(q.Query)
	}
	type plain variableQuery
	return json.Marshal(plain(q))
}

// UnmarshalJSON implements json.Unmarshaler.
func (q *variableQuery) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		return json.Unmarshal(text, &q.Query)
	}
	type plain variableQuery
	return json.Unmarshal(text, (*plain)(q))
}
