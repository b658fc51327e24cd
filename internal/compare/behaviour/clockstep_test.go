//go:build clockstep

package behaviour

import "time"

// Only the binary of buildPatched contains this file, because only there time.WallStep exists.
var _ = func() bool {
	stepClock = func(d time.Duration) { time.WallStep += int64(d / time.Second) }
	return true
}()

// That binary is built without a cache. Without gRPC this takes a third of the time.
var (
	grpcLibraries []*library
	grpcTopics    []topic
)

type grpcClient struct{}
