// Package judgement holds the tests of what the breaker decides over minutes, hours and days. They simulate clients and
// backends in virtual time, with the production breaker. They check the figures in the documentation: how often random
// errors open a breaker, how many calls reach a dead backend, and how long a recovered backend gets no calls.
//
// Without flags the tests are scaled down. `make judgement` runs them in full and prints the figures.
package judgement
