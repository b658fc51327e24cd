package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/grpcircuit/grpcircuit/breaker"
)

var errDown = errors.New("backend is down")

func Example() {
	// With FailingFor: -1 the breaker opens at the third failure. By default, the failures must also last a second.
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 3, FailingFor: -1, OpenFor: time.Minute})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	orders := group.Get(breaker.Key{Service: "shop.Orders", Method: "Get"})
	for range 5 {
		err := orders.Do(ctx, func(context.Context) error { return errDown })
		fmt.Println(errors.Is(err, breaker.ErrRejected), orders.State())
	}
	// Output:
	// false closed
	// false closed
	// false open
	// true open
	// true open
}

// A call that is not one function acquires a permit, and reports through it when it is over.
func ExampleBreaker_Acquire() {
	b, err := breaker.New(breaker.Key{Target: "dns:///orders:443"}, breaker.Config{})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()

	call := func(status int) {
		permit, err := b.Acquire(ctx)
		if err != nil {
			fmt.Println("not called:", err)
			return
		}
		switch {
		case status == 429:
			// The backend asked for a delay of half a minute.
			permit.Report(ctx, breaker.Report{Outcome: breaker.Overload, RetryAfter: 30 * time.Second})
		case status >= 500:
			permit.Done(ctx, breaker.Failure)
		default:
			permit.Done(ctx, breaker.Success) // also 404, because the backend has answered
		}
	}
	for _, status := range []int{200, 404, 500, 429, 200} {
		call(status)
	}
	s := b.Snapshot()
	fmt.Println(s.State, s.Successes, s.Failures, s.Overloads)
	// Output: closed 3 1 1
}

func ExampleRejectedError() {
	b, err := breaker.New(breaker.Key{Service: "shop.Orders"}, breaker.Config{OpenFor: time.Hour, Jitter: -1})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	b.Trip(ctx, "maintenance")
	_, err = b.Acquire(ctx)
	if rejected, ok := errors.AsType[*breaker.RejectedError](err); ok {
		fmt.Println(err)
		fmt.Println("again in", rejected.RetryAfter().Round(time.Minute))
	}
	// Output:
	// circuit breaker open for shop.Orders: maintenance; next probe in 1h0m0s
	// again in 1h0m0s
}

// A rule sets the Config of the keys that it matches. All other keys have the group's Config.
func ExampleWithPolicy() {
	group, err := breaker.NewGroup(breaker.Config{ConsecutiveFailures: 2, FailingFor: -1}, breaker.WithPolicy(
		breaker.PolicyRule{
			Match:  breaker.Key{Service: "shop.Payments"},
			Config: breaker.Lenient(),
		},
		breaker.PolicyRule{
			Match:  breaker.Key{Service: "shop.Payments", Method: "Refund"},
			Config: breaker.Config{ConsecutiveFailures: 1},
		},
	))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	for _, key := range []breaker.Key{
		{Service: "shop.Orders", Method: "Get"},
		{Service: "shop.Payments", Method: "Charge"},
		{Service: "shop.Payments", Method: "Refund"},
	} {
		b := group.Get(key)
		failures := 0
		for ; b.State() == breaker.Closed; failures++ {
			_ = b.Do(ctx, func(context.Context) error { return errDown })
		}
		fmt.Println(key, "opens after", failures)
	}
	// Output:
	// shop.Orders/Get opens after 2
	// shop.Payments/Charge opens after 10
	// shop.Payments/Refund opens after 1
}

// An operator stops all calls to a backend for an hour. The breaker keeps its own state meanwhile.
func ExampleBreaker_SetOverride() {
	group, err := breaker.NewGroup(breaker.Config{})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	b := group.Get(breaker.Key{Service: "shop.Orders"})
	err = b.SetOverride(ctx, breaker.Override{
		Mode: breaker.ForceOpen, TTL: time.Hour, Why: "database migration", By: "ann",
	})
	if err != nil {
		panic(err)
	}
	s := b.Snapshot()
	fmt.Println(s.State, "instead of", s.Underlying, "because of", s.Override.Why)

	b.ClearOverride(ctx)
	fmt.Println(b.State())
	// Output:
	// open instead of closed because of database migration
	// closed
}

func ExampleWithListener() {
	cfg := breaker.Config{ConsecutiveFailures: 1}
	group, err := breaker.NewGroup(cfg, breaker.WithListener(func(_ context.Context, e breaker.Event) {
		fmt.Printf("%v: %v, was %v: %s\n", e.Key, e.To, e.From, e.Why)
	}))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	b := group.Get(breaker.Key{Method: "Get"})
	_ = b.Do(ctx, func(context.Context) error { return errDown })
	b.Reset(ctx)
	// Output:
	// /Get: open, was closed: 1 failure
	// /Get: closed, was open: reset
}

// A custom rule: the breaker opens if a third of the calls are overloads.
func ExampleWithTrip() {
	b, err := breaker.New(breaker.Key{}, breaker.Config{}, breaker.WithTrip(func(c breaker.Counts) bool {
		return c.Calls() >= 6 && 3*c.Overloads >= c.Calls()
	}))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	for i := range 6 {
		permit, err := b.Acquire(ctx)
		if err != nil {
			panic(err)
		}
		permit.Done(ctx, []breaker.Outcome{breaker.Success, breaker.Success, breaker.Overload}[i%3])
	}
	fmt.Println(b.State())
	// Output: open
}
