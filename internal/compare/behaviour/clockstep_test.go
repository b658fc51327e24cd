//go:build clockstep

package behaviour

import "time"

// This file is part of the binary that buildPatched makes: time.WallStep is to be had there only.
var _ = func() bool {
	stepClock = func(d time.Duration) { time.WallStep += int64(d / time.Second) }
	return true
}()

// That binary is built from nothing, and without gRPC it takes a third of the time.
var (
	grpcLibraries []*library
	grpcTopics    []topic
)

type grpcClient struct{}
