package policyfile

import "time"

const (
	// settleAfter is the time without a notice after which the file is read. A replacement of the file causes several
	// notices.
	settleAfter = 50 * time.Millisecond
	// settleAtMost is the longest time for which notices can delay reading. Other files in the directory may cause notices
	// all the time.
	settleAtMost = 250 * time.Millisecond
	// confirmAfter is how long a file must be broken or missing before that is reported.
	confirmAfter = 300 * time.Millisecond
	// pollEvery is the time between two reads without a notice. pollBlind replaces it if there are no notices.
	pollEvery = 2 * time.Second
	pollBlind = 500 * time.Millisecond
)

// A schedule determines when the file is read next. The zero schedule means at once.
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

// checked records that the file was read. blind means that notices may be missing. broken is the time since which the
// file has been broken without a report; it is zero if the file is not broken or has been reported.
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
