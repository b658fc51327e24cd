package test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// A checker finds mistakes that Prometheus accepts, but that make an expression return no result: a metric, a label or
// a word that does not exist, and a join of series whose labels are never equal.
type checker struct {
	metrics map[string]metric
	wrong   []string
}

// check parses an expression. It returns the labels of the result, and the mistakes.
func check(metrics map[string]metric, text string) (set, []string) {
	expr, err := parser.ParseExpr(text)
	if err != nil {
		return nil, []string{err.Error()}
	}
	c := &checker{metrics: metrics}
	out := c.labels(expr)
	return out, c.wrong
}

func (c *checker) errorf(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// labels returns the labels that the result of e may have. It is nil for a scalar or a string.
func (c *checker) labels(e parser.Expr) set {
	switch e := e.(type) {
	case *parser.NumberLiteral, *parser.StringLiteral:
		return nil
	case *parser.ParenExpr:
		return c.labels(e.Expr)
	case *parser.UnaryExpr:
		return c.labels(e.Expr)
	case *parser.StepInvariantExpr:
		return c.labels(e.Expr)
	case *parser.SubqueryExpr:
		return c.labels(e.Expr)
	case *parser.MatrixSelector:
		return c.labels(e.VectorSelector)
	case *parser.VectorSelector:
		return c.selector(e)
	case *parser.Call:
		return c.call(e)
	case *parser.AggregateExpr:
		return c.aggregate(e)
	case *parser.BinaryExpr:
		return c.binary(e)
	default:
		c.errorf("the test does not know %T", e)
		return nil
	}
}

func (c *checker) selector(e *parser.VectorSelector) set {
	m, ok := c.metrics[e.Name]
	if e.Name == "" || !ok {
		c.errorf("there is no metric %q: %v", e.Name, e)
		return nil
	}
	for _, l := range e.LabelMatchers {
		if l.Name == labels.MetricName {
			continue
		}
		if !m.labels[l.Name] {
			c.errorf("%s has no label %s, only %v", e.Name, l.Name, m.labels)
		}
		words := m.values[l.Name]
		found := words == nil
		for word := range words {
			found = found || l.Matches(word) != (l.Type == labels.MatchNotEqual || l.Type == labels.MatchNotRegexp)
		}
		if !found {
			c.errorf("%s has no series for %v, only %v", e.Name, l, words)
		}
	}
	return m.labels
}

// call returns the labels of the first argument that has some.
func (c *checker) call(e *parser.Call) set {
	if e.Func.Name == "label_replace" || e.Func.Name == "label_join" || e.Func.Name == "absent" {
		c.errorf("the test does not know what %s does to labels", e.Func.Name)
	}
	var out set
	for _, arg := range e.Args {
		if l := c.labels(arg); out == nil {
			out = l
		}
	}
	if e.Func.Name == "histogram_quantile" {
		out = minus(out, newSet("le"))
	}
	return out
}

func (c *checker) aggregate(e *parser.AggregateExpr) set {
	in := c.labels(e.Expr)
	if e.Param != nil {
		c.labels(e.Param)
	}
	group := newSet(e.Grouping...)
	for name := range group {
		if !in[name] {
			c.errorf("%v of series with the labels %v has no label %s", e.Op, in, name)
		}
	}
	switch {
	case e.Op == parser.TOPK || e.Op == parser.BOTTOMK:
		return in
	case e.Without:
		return minus(in, group)
	}
	return group
}

func (c *checker) binary(e *parser.BinaryExpr) set {
	left, right := c.labels(e.LHS), c.labels(e.RHS)
	switch {
	case left == nil:
		return right
	case right == nil || e.VectorMatching == nil:
		return left
	}
	matching := newSet(e.VectorMatching.MatchingLabels...)
	if e.VectorMatching.On {
		for name := range matching {
			if !left[name] || !right[name] {
				c.errorf("%v on %s: the left side has the labels %v and the right side %v", e.Op, name, left, right)
			}
		}
		if e.Op.IsSetOperator() || e.VectorMatching.Card == parser.CardManyToOne {
			return left
		}
		return matching
	}
	for name := range matching {
		if !left[name] && !right[name] {
			c.errorf("%v ignoring %s: neither side has this label", e.Op, name)
		}
	}
	if l, r := minus(left, matching), minus(right, matching); !maps.Equal(l, r) {
		c.errorf("%v: the left side has the labels %v and the right side %v", e.Op, l, r)
	}
	if e.Op.IsSetOperator() {
		return left
	}
	return minus(left, matching)
}

func minus(a, b set) set {
	out := maps.Clone(a)
	maps.DeleteFunc(out, func(name string, _ bool) bool { return b[name] })
	return out
}

// The check must find the defects in a wrong expression. Otherwise it proves nothing that it finds none in the rules.
func TestChecks(t *testing.T) {
	metrics := goldenMetrics(t)
	key := newSet("job", "instance", "grpc_target", "grpc_service", "grpc_method", "tag")
	for _, tt := range []struct {
		expr  string
		want  set
		wrong []string
	}{
		{`sum without (state) (grpc_client_breaker_state{state=~"open|x"})`, key, nil},
		{`grpc_client_breaker_ready and ignoring (state) grpc_client_breaker_state{state!="open"}`, key, nil},
		{`sum by (job) (rate(grpc_client_breaker_calls_total[5m])) / 2`, newSet("job"), nil},
		{`histogram_quantile(0.9, sum by (le) (rate(grpc_client_breaker_call_duration_seconds_bucket[5m])))`, set{}, nil},
		{`rate(grpc_client_breaker_calls_total[5m]`, nil, []string{`1:41: parse error: unclosed left parenthesis`}},
		{`grpc_client_breaker_gone`, nil, []string{`there is no metric "grpc_client_breaker_gone": grpc_client_breaker_gone`}},
		{`grpc_client_breaker_overflow_total{tag="a"}`, nil, []string{
			`grpc_client_breaker_overflow_total has no label tag, only {instance, job}`,
		}},
		{`grpc_client_breaker_state{state="shut"}`, nil, []string{
			`grpc_client_breaker_state has no series for state="shut", only {closed, half_open, open}`,
		}},
		{`grpc_client_breaker_state{state!="shut"}`, nil, []string{
			`grpc_client_breaker_state has no series for state!="shut", only {closed, half_open, open}`,
		}},
		{`sum by (reason) (grpc_client_breaker_overflow_total)`, nil, []string{
			`sum of series with the labels {instance, job} has no label reason`,
		}},
		{`grpc_client_breaker_overflow_total and on (tag) grpc_client_breaker_ready`, nil, []string{
			`and on tag: the left side has the labels {instance, job} and the right side ` + key.String(),
		}},
		{`grpc_client_breaker_breakers - ignoring (tag) grpc_client_breaker_overflow_total`, nil, []string{
			`- ignoring tag: neither side has this label`,
		}},
		{`grpc_client_breaker_policy_reloads_total > grpc_client_breaker_overflow_total`, nil, []string{
			`>: the left side has the labels {instance, job, result} and the right side {instance, job}`,
		}},
	} {
		got, wrong := check(metrics, tt.expr)
		if diff := cmp.Diff(wrong, tt.wrong); diff != "" {
			t.Errorf("%s: mistakes (-got +want):\n%s", tt.expr, diff)
		}
		if tt.wrong == nil && !maps.Equal(got, tt.want) {
			t.Errorf("%s: got the labels %v, want %v", tt.expr, got, tt.want)
		}
	}
}
