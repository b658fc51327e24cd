package prombridge

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloadSeries are the series of WithPolicyReloads.
type reloadSeries struct {
	stats                func() (succeeded, failed uint64, lastSuccess time.Time)
	reloads, lastSuccess *prometheus.Desc
}

// addReloads adds the series of o.reloads.
func (c *collector) addReloads(o *options) error {
	r := &reloadSeries{
		stats:       o.reloads,
		reloads:     o.desc(reloadsName, reloadsHelp, "result"),
		lastSuccess: o.desc(lastReloadName, lastReloadHelp),
	}
	for _, desc := range []*prometheus.Desc{r.reloads, r.lastSuccess} {
		if err := desc.Err(); err != nil {
			return err
		}
		c.descs = append(c.descs, desc)
	}
	c.reloads = r
	return nil
}

func (r *reloadSeries) collect(ch chan<- prometheus.Metric) {
	succeeded, failed, last, ok := r.read()
	if !ok {
		return
	}
	ch <- prometheus.MustNewConstMetric(r.reloads, counter, float64(failed), "failure")
	ch <- prometheus.MustNewConstMetric(r.reloads, counter, float64(succeeded), "success")
	if !last.IsZero() {
		ch <- prometheus.MustNewConstMetric(r.lastSuccess, gauge, unixSeconds(last))
	}
}

// read calls stats. ok is false if it panicked. The panic would end the program, because a registry calls collectors on
// goroutines of its own. An invalid metric in its place would make the scrape fail for all collectors.
func (r *reloadSeries) read() (succeeded, failed uint64, last time.Time, ok bool) {
	defer func() { _ = recover() }()
	succeeded, failed, last = r.stats()
	return succeeded, failed, last, true
}
