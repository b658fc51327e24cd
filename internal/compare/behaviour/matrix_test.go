package behaviour

import (
	"context"
	"sync"
)

// workers is the number of cells that run at the same time.
const workers = 2

// A matrix has a verdict for each scenario, by its id, on each library, by its name.
type matrix map[string]map[string]verdict

// runMatrix runs every scenario on every library.
func runMatrix(ctx context.Context, binary string, libs []*library, rows []*scenario) (matrix, error) {
	type job struct {
		lib *library
		sc  *scenario
	}
	jobs := make(chan job)
	m := matrix{}
	var mu sync.Mutex
	var failed error
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for j := range jobs {
				v, err := runCell(ctx, binary, j.lib, j.sc, limit)
				mu.Lock()
				if err != nil && failed == nil {
					failed = err
				}
				if m[j.sc.id] == nil {
					m[j.sc.id] = map[string]verdict{}
				}
				m[j.sc.id][j.lib.name] = v
				mu.Unlock()
			}
		})
	}
	for _, sc := range rows {
		for _, lib := range libs {
			jobs <- job{lib, sc}
		}
	}
	close(jobs)
	all.Wait()
	return m, failed
}
