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

// WithGroups gives the groups that the file is applied to. If it is given more than once, the groups add up. A nil
// group is an error. Default: none, the file is only read and reported.
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

// WithCallback gives a function that is called after each reload, successful or not, but not for the file that Watch
// loads itself. The calls come one after the other, on the goroutine of the watcher: reloads wait for it. A panic is
// logged. It must not call Watcher.Close. A nil f is an error. Default: none.
func WithCallback(f func(Reload)) WatchOption {
	return func(o *watchOptions) error {
		if f == nil {
			return errors.New("WithCallback: the function is nil")
		}
		o.callback = f
		return nil
	}
}

// WithLogger gives the logger for reloads: a line of level INFO for each success, ERROR for each failure, and WARN if
// somebody calls Group.Apply beside the file. A nil logger is an error. Default: slog.Default().
func WithLogger(logger *slog.Logger) WatchOption {
	return func(o *watchOptions) error {
		if logger == nil {
			return errors.New("WithLogger: the logger is nil")
		}
		o.logger = logger
		return nil
	}
}
