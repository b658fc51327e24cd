// Package statusz tests package breaker/statusz in a real browser, headless Chromium. It is a separate module, so that
// the main module does not depend on the driver of the browser.
//
// This writes the screenshots of the documentation:
//
//	go test -run TestLooks . -args -screenshots ../../../docs/images -history 2m
package statusz
