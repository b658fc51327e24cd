package policyfile

import "time"

const (
	// settleAfter is how long no notice may come before the file is read: a replacement causes several notices.
	settleAfter = 50 * time.Millisecond
	// settleAtMost is how long notices can delay reading. A directory may be busy with other files.
	settleAtMost = 250 * time.Millisecond
	// confirmAfter is how long a file must be broken or missing before that is reported.
	confirmAfter = 300 * time.Millisecond
	// pollEvery is how often the file is read without a notice, and pollBlind if there can be none.
	pollEvery = 2 * time.Second
	pollBlind = 500 * time.Millisecond
)

// A schedule says when the file is read next. The zero schedule says at once.
type schedule struct {
	first, last time.Time // notices since the last check; zero if there were none
	poll        time.Time // the next check without a notice
}

// notice records that the operating system has reported a change.
func (s *schedule) notice(now time.Time) {
	if s.first.IsZero() {
		s.first = now
	}
	s.last = now
}

// checked records that the file was read. blind means that there are no notices. broken is since when the file has been
// broken without being reported; zero if it is not.
func (s *schedule) checked(now time.Time, blind bool, broken time.Time) {
	s.first, s.last = time.Time{}, time.Time{}
	s.poll = now.Add(pollEvery)
	if blind {
		s.poll = now.Add(pollBlind)
	}
	if !broken.IsZero() {
		s.poll = broken.Add(confirmAfter)
	}
}

// next returns when to read the file.
func (s *schedule) next() time.Time {
	next := s.poll
	if s.first.IsZero() {
		return next
	}
	for _, t := range [...]time.Time{s.last.Add(settleAfter), s.first.Add(settleAtMost)} {
		if t.Before(next) {
			next = t
		}
	}
	return next
}
