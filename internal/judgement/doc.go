// Package judgement holds the tests of what the breaker decides over minutes, hours and days. They simulate clients
// and backends in virtual time, with the production breaker, and hold the figures that the documentation promises:
// how often errors at random open a breaker, how many calls reach a dead backend, and how long a backend that has
// healed gets no calls.
//
// Without flags the tests are scaled down. `make judgement` runs them in full and prints the figures.
package judgement
