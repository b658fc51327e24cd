package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// An alert is one active alert, as /api/v1/alerts returns it.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"` // pending or firing
	ActiveAt    time.Time         `json:"activeAt"`
}

// get calls Prometheus's HTTP API and stores the field data of the answer in into.
func (p *server) get(ctx context.Context, path string, params url.Values, into any) error {
	if err := p.alive(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path+"?"+params.Encode(), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query returns the value of each series of the result, by the value of the label. The label may be empty if
// the result is one series.
func (p *server) query(ctx context.Context, expr, label string) (map[string]float64, error) {
	var data struct {
		Result []struct {
			Metric map[string]string  `json:"metric"`
			Value  [2]json.RawMessage `json:"value"` // the time, and the value as a string
		} `json:"result"`
	}
	if err := p.get(ctx, "/api/v1/query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	values := make(map[string]float64)
	for _, r := range data.Result {
		var text string
		if err := json.Unmarshal(r.Value[1], &text); err != nil {
			return nil, fmt.Errorf("%s: %w", expr, err)
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", expr, err)
		}
		if _, dup := values[r.Metric[label]]; dup {
			return nil, fmt.Errorf("%s: two series with the label %s=%q", expr, label, r.Metric[label])
		}
		values[r.Metric[label]] = v
	}
	return values, nil
}

// alerts returns the active alerts, pending or firing.
func (p *server) alerts(ctx context.Context) ([]alert, error) {
	var data struct {
		Alerts []alert `json:"alerts"`
	}
	err := p.get(ctx, "/api/v1/alerts", nil, &data)
	return data.Alerts, err
}

// checkRules returns how many rules Prometheus has, and an error for each that it cannot evaluate.
func (p *server) checkRules(ctx context.Context) (n int, err error) {
	var data struct {
		Groups []struct {
			Rules []struct {
				Name      string `json:"name"`
				Health    string `json:"health"`
				LastError string `json:"lastError"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := p.get(ctx, "/api/v1/rules", nil, &data); err != nil {
		return 0, err
	}
	var errs []error
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				errs = append(errs, fmt.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError))
			}
		}
	}
	return n, errors.Join(errs...)
}

// scrapedAfter reports whether Prometheus has scraped the client at or after t.
func (p *server) scrapedAfter(ctx context.Context, t time.Time) (bool, error) {
	up, err := p.query(ctx, "up", "job")
	if err != nil || up["shop"] != 1 {
		return false, err
	}
	// The time of the sample. With an expression instead of a selector it would be the time of the query.
	at, err := p.query(ctx, "timestamp(up)", "job")
	return at["shop"] >= float64(t.UnixMicro())/1e6, err
}
