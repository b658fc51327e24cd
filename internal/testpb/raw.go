package testpb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// A RawServer speaks HTTP/2 in memory and answers each request with its function. It does not implement gRPC.
type RawServer struct {
	listener *bufconn.Listener
	answer   RawAnswer
}

// A RawAnswer writes the response to a request. If it returns an error, the server closes the connection.
type RawAnswer func(f *http2.Framer, stream uint32) error

// StartRaw starts a RawServer that runs until the test ends.
func StartRaw(tb testing.TB, answer RawAnswer) *RawServer {
	tb.Helper()
	s := &RawServer{listener: bufconn.Listen(1 << 16), answer: answer}
	tb.Cleanup(func() { _ = s.listener.Close() })
	go func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *RawServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	f := http2.NewFramer(conn, conn)
	if f.WriteSettings() != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.HeadersFrame:
			err = s.answer(f, frame.StreamID)
		}
		if err != nil {
			return
		}
	}
}

// DialContext opens a connection to the server; it ignores the address. It can be used with [grpc.WithContextDialer].
func (s *RawServer) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	return s.listener.DialContext(ctx)
}

// Dial returns a gRPC connection to the server that is closed when tb ends.
func (s *RawServer) Dial(tb testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	cc, err := grpc.NewClient("passthrough:///bufconn", append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(s.DialContext))...)
	if err != nil {
		tb.Fatalf("testpb: dial: %v", err)
	}
	tb.Cleanup(func() { _ = cc.Close() })
	return cc
}

// Resets answers with RST_STREAM.
func Resets(code http2.ErrCode) RawAnswer {
	return func(f *http2.Framer, stream uint32) error { return f.WriteRSTStream(stream, code) }
}

// AnswersHTML answers like a proxy that finds no gRPC server.
func AnswersHTML(httpStatus string) RawAnswer {
	return func(f *http2.Framer, stream uint32) error {
		err := writeHeaders(f, stream, false, ":status", httpStatus, "content-type", "text/html")
		return errors.Join(err, f.WriteData(stream, true, []byte("<html>no such page</html>")))
	}
}

// ResetsAfterMessage answers with a header and one empty message, and then resets the stream.
func ResetsAfterMessage(code http2.ErrCode) RawAnswer {
	return func(f *http2.Framer, stream uint32) error {
		return errors.Join(
			writeHeaders(f, stream, false, ":status", "200", "content-type", "application/grpc"),
			f.WriteData(stream, false, make([]byte, 5)),
			f.WriteRSTStream(stream, code))
	}
}

func writeHeaders(f *http2.Framer, stream uint32, end bool, fields ...string) error {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	return f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end,
	})
}
