package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/internal/testpb"
)

// A backend is a gRPC server on 127.0.0.1 that can be set to fail.
type backend struct {
	name   string // as the client calls it
	addr   string
	script testpb.Server
	server *grpc.Server
}

func startBackend(name string) (*backend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{name: name, addr: l.Addr().String(), server: grpc.NewServer()}
	b.script.Register(b.server)
	go func() { _ = b.server.Serve(l) }()
	return b, nil
}

func (b *backend) stop() { b.server.Stop() }

// received returns the number of calls that reached the server.
func (b *backend) received() int { return b.script.Total() }

func (b *backend) fail() {
	b.script.Set(testpb.Script{OnUnary: func(context.Context, *testpb.Request) (*testpb.Response, error) {
		return nil, status.Error(codes.Unavailable, "the server is set to fail")
	}})
}

func (b *backend) heal() { b.script.Set(testpb.Script{}) }
