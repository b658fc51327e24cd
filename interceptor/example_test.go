package interceptor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcircuit/grpcircuit/breaker"
	"github.com/grpcircuit/grpcircuit/interceptor"
)

// target is a backend that refuses each connection, so that the examples need no network.
const target = "passthrough:///orders"

var connectionRefused = grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
})

func dial(opts ...grpc.DialOption) *grpc.ClientConn {
	opts = append(opts, connectionRefused, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		panic(err)
	}
	return conn
}

// With the dial options of a guard, the unary calls and the streams of a connection are guarded. FailingFor is
// negative, so that the second failure opens the breaker at once. By default, failures must last for one second.
func Example() {
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 2, FailingFor: -1, OpenFor: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := interceptor.New(group)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(target, append(guard.DialOptions(),
		connectionRefused,
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	client := health.NewHealthClient(conn)
	for range 3 {
		_, err := client.Check(context.Background(), &health.HealthCheckRequest{})
		fmt.Println(status.Code(err), interceptor.IsRejected(err))
	}
	for key, b := range group.All() {
		fmt.Println(key, b.State())
	}
	// Output:
	// Unavailable false
	// Unavailable false
	// Unavailable true
	// passthrough:///orders grpc.health.v1.Health/Check open
}

// A fallback answers rejected calls, and with OnFailure also failed calls. The trailer shows that a fallback answered.
func ExampleFallback() {
	guard, err := interceptor.New(nil, interceptor.WithFallback(
		interceptor.ForMethods(health.Health_Check_FullMethodName),
		interceptor.Fallback(func(
			_ context.Context, req *health.HealthCheckRequest, cause error,
		) (*health.HealthCheckResponse, error) {
			if req.GetService() == "payments" {
				return nil, cause // no answer: the caller gets the cause
			}
			return &health.HealthCheckResponse{Status: health.HealthCheckResponse_UNKNOWN}, nil
		}),
		interceptor.OnFailure(),
	))
	if err != nil {
		log.Fatal(err)
	}
	conn := dial(guard.DialOptions()...)
	defer conn.Close()

	client := health.NewHealthClient(conn)
	var trailer metadata.MD
	resp, err := client.Check(context.Background(), &health.HealthCheckRequest{}, grpc.Trailer(&trailer))
	fmt.Println(resp.GetStatus(), err, trailer.Get(interceptor.FallbackTrailer))
	_, err = client.Check(context.Background(), &health.HealthCheckRequest{Service: "payments"})
	fmt.Println(status.Code(err))
	// Output:
	// UNKNOWN <nil> [failed]
	// Unavailable
}

// The error of a rejection is a gRPC status, and has fields that describe the rejection.
func ExampleRejectedError() {
	group, err := breaker.NewGroup(breaker.Config{OpenFor: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := interceptor.New(group)
	if err != nil {
		log.Fatal(err)
	}
	conn := dial(guard.DialOptions()...)
	defer conn.Close()
	key := breaker.Key{Target: target, Service: "grpc.health.v1.Health", Method: "Check"}
	group.Get(key).Trip(context.Background(), "an example")

	_, err = health.NewHealthClient(conn).Check(context.Background(), &health.HealthCheckRequest{})
	fmt.Println(status.Code(err), errors.Is(err, breaker.ErrRejected))
	if rejected, ok := errors.AsType[*interceptor.RejectedError](err); ok {
		fmt.Println(rejected.Key.Method, rejected.State, rejected.Reason, rejected.RetryAfter() > 0)
	}
	// Output:
	// Unavailable true
	// Check open open true
}

// IsRejected distinguishes a rejection from a failure. It also finds a rejection that a remote hop returned. In that
// case the call may have run in part, and the server that answered is not at fault.
func ExampleIsRejected() {
	for _, err := range []error{
		nil,
		status.Error(codes.Unavailable, "connection refused"),
		fmt.Errorf("get order: %w", breaker.ErrRejected),
	} {
		switch {
		case err == nil:
			fmt.Println("answered")
		case interceptor.IsRejected(err):
			fmt.Println("rejected: not worth a retry before the breaker admits calls")
		default:
			fmt.Println("failed:", status.Code(err))
		}
	}
	// Output:
	// answered
	// failed: Unavailable
	// rejected: not worth a retry before the breaker admits calls
}

// A retry interceptor belongs outside the guard. Then each attempt has an outcome, and Retriable ends the retries once
// the breaker is open. FailingFor is negative, so that the second attempt opens the breaker, however soon it follows
// the first.
func ExampleRetriable() {
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 2, FailingFor: -1, OpenFor: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := interceptor.New(group)
	if err != nil {
		log.Fatal(err)
	}
	conn := dial(
		grpc.WithChainUnaryInterceptor(
			retry.UnaryClientInterceptor(
				retry.WithMax(5),
				retry.WithBackoff(retry.BackoffLinear(time.Millisecond)),
				retry.WithRetriable(interceptor.Retriable)),
			guard.Unary),
		grpc.WithChainStreamInterceptor(guard.Stream))
	defer conn.Close()

	_, err = health.NewHealthClient(conn).Check(context.Background(), &health.HealthCheckRequest{})
	fmt.Println("rejected:", interceptor.IsRejected(err))
	for _, b := range group.All() {
		s := b.Snapshot()
		fmt.Println("attempts:", s.Admitted, "rejections:", s.Rejections.Total())
	}
	// Output:
	// rejected: true
	// attempts: 2 rejections: 1
}

// A custom classifier handles some results, and calls DefaultClassifier for the rest.
func ExampleWithClassifier() {
	classify := func(ctx context.Context, r interceptor.Result) breaker.Outcome {
		if r.Code == codes.NotFound && r.Call.Method == "GetLeader" {
			return breaker.Failure // a cluster without a leader is down
		}
		return interceptor.DefaultClassifier(ctx, r)
	}
	guard, err := interceptor.New(nil, interceptor.WithClassifier(classify))
	if err != nil {
		log.Fatal(err)
	}
	noLeader := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		return status.Error(codes.NotFound, "no leader")
	}
	_ = guard.Unary(context.Background(), "/raft.Raft/GetLeader", nil, nil, nil, noLeader)
	_ = guard.Unary(context.Background(), "/raft.Raft/GetLog", nil, nil, nil, noLeader)
	for _, method := range []string{"GetLeader", "GetLog"} {
		b, _ := guard.Group().Lookup(breaker.Key{Service: "raft.Raft", Method: method})
		fmt.Println(method, "failures:", b.Snapshot().Failures)
	}
	// Output:
	// GetLeader failures: 1
	// GetLog failures: 0
}

// Tag and Bypass are options of one call.
func ExampleTag() {
	guard, err := interceptor.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	conn := dial(guard.DialOptions()...)
	defer conn.Close()

	client := health.NewHealthClient(conn)
	_, _ = client.Check(context.Background(), &health.HealthCheckRequest{}, interceptor.Tag("batch"))
	_, _ = client.Check(context.Background(), &health.HealthCheckRequest{}, interceptor.Bypass())
	for key, b := range guard.Group().All() {
		fmt.Println(key, "calls:", b.Snapshot().Admitted)
	}
	// Output: passthrough:///orders grpc.health.v1.Health/Check tag=batch calls: 1
}
