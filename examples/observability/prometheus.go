package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// errNoPrometheus means that Prometheus is not installed. Its text says how to install it.
var errNoPrometheus = errors.New(`this example needs the program prometheus, which is not on the PATH.
  Debian and Ubuntu:  apt-get install prometheus
  others:             https://prometheus.io/download/`)

// A server is a running Prometheus.
type server struct {
	url    string
	dir    string // its configuration, data and log
	cancel context.CancelFunc
	exited chan struct{} // closed after err is set
	err    error
}

// The intervals are short, so that each shortened window holds ten scrapes.
const config = `global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 500ms
rule_files: [rules.yaml, alerts.yaml]
scrape_configs:
- job_name: shop
  static_configs:
  - targets: [%q]
`

// startPrometheus starts Prometheus with shortened copies of the rules. It scrapes the client at the address target.
func startPrometheus(ctx context.Context, rules, target string) (_ *server, err error) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		return nil, errNoPrometheus
	}
	dir, err := os.MkdirTemp("", "grpcircuit-observability-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := copyRules(rules, dir); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, target), 0o600); err != nil {
		return nil, err
	}
	// Another process may take the free port before Prometheus does. So this tries again.
	for range 3 {
		var p *server
		if p, err = launch(ctx, program, dir); err == nil {
			return p, nil
		}
	}
	return nil, err
}

// launch starts the program once and waits until it is ready.
func launch(ctx context.Context, program, dir string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	runCtx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(runCtx, program, "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second // then it is killed
	dieWithParent(cmd)
	// Linux sends the signal of dieWithParent when the thread that started the process ends, not the program. So this
	// goroutine, which is that of main, keeps its thread until the program ends.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	p := &server{url: "http://" + addr, dir: dir, cancel: cancel, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	if err := until(ctx, 30*time.Second, "Prometheus to be ready", p.ready); err != nil {
		cancel()
		<-p.exited
		return nil, err
	}
	return p, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// stop ends Prometheus and removes its directory.
func (p *server) stop() {
	p.cancel()
	<-p.exited
	_ = os.RemoveAll(p.dir)
}

// alive returns an error with the end of the log if Prometheus has exited.
func (p *server) alive() error {
	select {
	case <-p.exited:
		log, _ := os.ReadFile(filepath.Join(p.dir, "log")) // no log, no excerpt
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		return fmt.Errorf("prometheus exited: %w\n%s", p.err, strings.Join(lines[max(0, len(lines)-5):], "\n"))
	default:
		return nil
	}
}

func (p *server) ready(ctx context.Context) (bool, error) {
	if err := p.alive(); err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/-/ready", http.NoBody)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil //nolint:nilerr // it does not listen yet
	}
	return resp.StatusCode == http.StatusOK, resp.Body.Close()
}

// until calls done five times a second until it returns true or an error.
func until(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("waited %v for %s", limit, what))
	defer cancel()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := done(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("waiting for %s: %w", what, err)
		case ok:
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
