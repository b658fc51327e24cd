package policyfile

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/grpcircuit/grpcircuit/breaker"
)

// A WatchOption configures Watch. The With functions return options.
type WatchOption func(*watchOptions) error

type watchOptions struct {
	groups   []*breaker.Group
	callback func(Reload)
	logger   *slog.Logger
}

// WithGroups adds groups that the file is applied to. It may be given more than once. A nil group is an error. Default:
// none, the file is only read and reported.
func WithGroups(groups ...*breaker.Group) WatchOption {
	return func(o *watchOptions) error {
		for i, g := range groups {
			if g == nil {
				return fmt.Errorf("WithGroups: group %d is nil", i)
			}
		}
		o.groups = append(o.groups, groups...)
		return nil
	}
}

// WithCallback sets a function that is called after each reload, whether it succeeded or not. It is not called for the
// first load by Watch. It runs on the goroutine of the watcher, so the next reload waits for it. A panic in f is
// logged. f must not call Watcher.Close. A nil f is an error. Default: none.
func WithCallback(f func(Reload)) WatchOption {
	return func(o *watchOptions) error {
		if f == nil {
			return errors.New("WithCallback: the function is nil")
		}
		o.callback = f
		return nil
	}
}

// WithLogger sets the logger for reloads. A success is a line of level INFO, and a failure one of level ERROR. A call
// of Group.Apply by somebody else is a line of level WARN. A nil logger is an error. Default: slog.Default().
func WithLogger(logger *slog.Logger) WatchOption {
	return func(o *watchOptions) error {
		if logger == nil {
			return errors.New("WithLogger: the logger is nil")
		}
		o.logger = logger
		return nil
	}
}
