// Minimal is a client of grpc's health service with a guard, Prometheus metrics and logs. Copy this file to begin.
//
//	go run ./examples/minimal     # calls a server in this program, which fails for two seconds, and ends
//	go run ./examples/minimal -target localhost:50051 -metrics 127.0.0.1:9090 -for 1h
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
	"github.com/grpcircuit/grpcircuit/prombridge"
)

func main() {
	target := flag.String("target", "", "server to call; empty: one in this program, which fails for two seconds")
	metrics := flag.String("metrics", "127.0.0.1:0", "address where to serve /metrics")
	duration := flag.Duration("for", 4*time.Second, "how long to make calls")
	flag.Parse()
	// The breakers. This Config has the defaults. A program that does not end after seconds needs no LogEvery.
	group := must(breaker.NewGroup(breaker.Config{},
		breaker.LogTransitions(slog.Default(), breaker.LogEvery(10*time.Millisecond))))
	guard := must(interceptor.New(group))
	prometheus.MustRegister(prombridge.NewCollector(group))
	listener := must(net.Listen("tcp", *metrics))
	slog.Info("serving metrics", "url", "http://"+listener.Addr().String()+"/metrics")
	go func() { log.Fatal(http.Serve(listener, promhttp.Handler())) }()
	if *target == "" {
		*target = serve()
	}
	conn := must(grpc.NewClient(*target, append(guard.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...))
	client := grpc_health_v1.NewHealthClient(conn)
	for end := time.Now().Add(*duration); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // each call needs a deadline
		reply, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		cancel()
		slog.Info("call", "status", reply.GetStatus(), "rejected", interceptor.IsRejected(err), "err", fmt.Sprint(err))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

// serve starts a health server. After half a second it fails for two seconds.
func serve() (addr string) {
	began := time.Now()
	fail := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if t := time.Since(began); t > time.Second/2 && t < 5*time.Second/2 {
			return nil, status.Error(codes.Unavailable, "the server is down")
		}
		return handler(ctx, req)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(fail))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { log.Fatal(server.Serve(listener)) }()
	return listener.Addr().String()
}
