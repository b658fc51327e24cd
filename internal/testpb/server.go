package testpb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
)

// Script defines how a [Server] answers calls. For a nil function the method has a default: Unary, Bidi and Ping echo,
// ServerStream sends as many responses as the count of the request, and ClientStream answers with the number of
// requests at the end of the stream.
//
// The functions run on the goroutine of the call, many at a time.
type Script struct {
	OnUnary        func(context.Context, *Request) (*Response, error)
	OnClientStream func(grpc.ClientStreamingServer[Request, Response]) error
	OnServerStream func(*Request, grpc.ServerStreamingServer[Response]) error
	OnBidi         func(grpc.BidiStreamingServer[Request, Response]) error
	OnPing         func(context.Context, *Request) (*Response, error)
}

// Server implements the services Test and Other according to its [Script] and counts the calls that reach it. The zero
// value is ready to use and has the default script. Its methods are safe for concurrent use. It must not be copied.
type Server struct {
	UnimplementedTestServer
	UnimplementedOtherServer

	// One pointer to the whole script, so that a call never sees parts of two scripts.
	script atomic.Pointer[Script]

	unary, clientStream, serverStream, bidi, ping atomic.Int64
}

// Register registers both services with r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	RegisterTestServer(r, s)
	RegisterOtherServer(r, s)
}

// Set replaces the whole script. A nil function means the default of its method. Calls that have begun keep their
// script.
func (s *Server) Set(script Script) { s.script.Store(&script) }

// Received returns the number of calls of method that reached the server. The method is a full name, such as
// [Test_Unary_FullMethodName]. A call counts when its handler starts, before the script runs. Received panics if there
// is no such method, because a test with a misspelt name would otherwise read zero and might pass.
func (s *Server) Received(method string) int {
	switch method {
	case Test_Unary_FullMethodName:
		return int(s.unary.Load())
	case Test_ClientStream_FullMethodName:
		return int(s.clientStream.Load())
	case Test_ServerStream_FullMethodName:
		return int(s.serverStream.Load())
	case Test_Bidi_FullMethodName:
		return int(s.bidi.Load())
	case Other_Ping_FullMethodName:
		return int(s.ping.Load())
	}
	panic(fmt.Sprintf("testpb: no method %q", method))
}

// Total returns the number of calls that reached the server, over all methods.
func (s *Server) Total() int {
	return int(s.unary.Load() + s.clientStream.Load() + s.serverStream.Load() + s.bidi.Load() + s.ping.Load())
}

// Unary implements [TestServer].
func (s *Server) Unary(ctx context.Context, req *Request) (*Response, error) {
	s.unary.Add(1)
	if on := s.current().OnUnary; on != nil {
		return on(ctx, req)
	}
	return echo(req), nil
}

// ClientStream implements [TestServer].
func (s *Server) ClientStream(stream grpc.ClientStreamingServer[Request, Response]) error {
	s.clientStream.Add(1)
	if on := s.current().OnClientStream; on != nil {
		return on(stream)
	}
	var n int32
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&Response{Count: n})
		}
		if err != nil {
			return err
		}
		n++
	}
}

// ServerStream implements [TestServer].
func (s *Server) ServerStream(req *Request, stream grpc.ServerStreamingServer[Response]) error {
	s.serverStream.Add(1)
	if on := s.current().OnServerStream; on != nil {
		return on(req, stream)
	}
	for i := range req.GetCount() {
		resp := echo(req)
		resp.Count = i + 1
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	return nil
}

// Bidi implements [TestServer].
func (s *Server) Bidi(stream grpc.BidiStreamingServer[Request, Response]) error {
	s.bidi.Add(1)
	if on := s.current().OnBidi; on != nil {
		return on(stream)
	}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(echo(req)); err != nil {
			return err
		}
	}
}

// Ping implements [OtherServer].
func (s *Server) Ping(ctx context.Context, req *Request) (*Response, error) {
	s.ping.Add(1)
	if on := s.current().OnPing; on != nil {
		return on(ctx, req)
	}
	return echo(req), nil
}

func (s *Server) current() Script {
	if script := s.script.Load(); script != nil {
		return *script
	}
	return Script{}
}

func echo(req *Request) *Response {
	return &Response{Text: req.GetText(), Payload: req.GetPayload(), Count: req.GetCount()}
}
