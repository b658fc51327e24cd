package speed

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	sentinel "github.com/alibaba/sentinel-golang/api"
	"github.com/alibaba/sentinel-golang/core/circuitbreaker"
	"github.com/alibaba/sentinel-golang/core/config"
	"github.com/alibaba/sentinel-golang/logging"
)

func sentinelPeer() Peer {
	return Peer{
		Name: "alibaba/sentinel-golang", Module: "github.com/alibaba/sentinel-golang",
		Window: "sliding, 10 steps",
		Note: "a rule engine: each call passes its whole default chain, of which the breaker is one part; " +
			"it also keeps a window of counts for each resource",
		Lacks: map[Work]string{
			Consecutive: "no such rule",
			Unary:       "the adapter is a separate module, and the proxy has no version of it",
			UnaryOpen:   "the adapter is a separate module, and the proxy has no version of it",
		},
		Cases: cases("Entry, Exit", sentinelEntry, Success, OnePercent, Open, HalfOpen),
		Idle: func(i int) (any, error) {
			name := "idle" + strconv.Itoa(i)
			if err := (settings{openFor: openForLong}).sentinel(name); err != nil {
				return nil, err
			}
			entry, block := sentinel.Entry(name)
			if block != nil {
				return nil, block
			}
			entry.Exit()
			return nil, nil
		},
	}
}

var (
	// sentinelReady starts the library without its default collectors and log files.
	sentinelReady = sync.OnceValue(func() error {
		cfg := config.NewDefaultConfig()
		cfg.Sentinel.Log.Logger = silent{}
		cfg.Sentinel.Log.Metric.FlushIntervalSec = 0
		cfg.Sentinel.Stat.System = config.SystemStatConfig{}
		return sentinel.InitWithConfig(cfg)
	})
	// sentinelNames makes the names of the breakers unique, because the library keeps them in maps forever.
	sentinelNames atomic.Int64
)

func (s settings) sentinel(name string) error {
	if err := sentinelReady(); err != nil {
		return err
	}
	_, err := circuitbreaker.LoadRulesOfResource(name, []*circuitbreaker.Rule{{
		Resource: name, Strategy: circuitbreaker.ErrorRatio, RetryTimeoutMs: uint32(s.openFor / time.Millisecond),
		MinRequestAmount: minCalls, StatIntervalMs: uint32(window / time.Millisecond), StatSlidingWindowBucketCount: 10,
		Threshold: ratio,
	}})
	return err
}

func sentinelEntry(s settings) (*guard, error) {
	name := "bench" + strconv.FormatInt(sentinelNames.Add(1), 10)
	if err := s.sentinel(name); err != nil {
		return nil, err
	}
	wrap := func(run func() error) func() error {
		return func() error {
			entry, block := sentinel.Entry(name)
			if block != nil {
				return errRejected
			}
			err := run()
			if err != nil {
				sentinel.TraceError(entry, err)
			}
			entry.Exit()
			return err
		}
	}
	return &guard{wrap: wrap}, nil
}

// silent is a logger that discards everything.
type silent struct{}

var _ logging.Logger = silent{}

func (silent) Debug(string, ...any)        {}
func (silent) DebugEnabled() bool          { return false }
func (silent) Info(string, ...any)         {}
func (silent) InfoEnabled() bool           { return false }
func (silent) Warn(string, ...any)         {}
func (silent) WarnEnabled() bool           { return false }
func (silent) Error(error, string, ...any) {}
func (silent) ErrorEnabled() bool          { return false }
