package statusz

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chromium returns the path of the browser. Without one the test is skipped, but fails in CI, which installs it.
func chromium(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	for _, name := range []string{"chromium", "chromium-headless-shell", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const text = "needs Chromium: apt-get install chromium"
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}

// tab is a tab of a browser. It records what goes wrong in it, and which hosts it contacts.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string        // guarded by mu: errors of scripts, of the console and of the policy
	hosts  map[string]bool // guarded by mu
}

// newTab starts a browser with one tab, for the duration of the test.
func newTab(t *testing.T) *tab {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.WindowSize(1280, 900),
		chromedp.NoSandbox) // root has none
	ctx, cancelTimeout := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute+*history)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, opts...)
	ctx, cancelTab := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser has ended
		cancelTab()
		cancelAllocator()
		cancelTimeout()
	})
	b := &tab{t: t, ctx: ctx, hosts: make(map[string]bool)}
	if err := chromedp.Listen(ctx, b.record); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *tab) record(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			b.errors = append(b.errors, "console: "+string(e.Type))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.errors = append(b.errors, e.Entry.Text)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && strings.HasPrefix(u.Scheme, "http") {
			b.hosts[u.Host] = true
		}
	}
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// eval returns the value of a JavaScript expression.
func eval[T any](b *tab, script string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// waitFor waits until a JavaScript expression is true. It evaluates the expression again and again, because the policy
// of the page forbids the scripts with which chromedp waits in the page. An error means that another page is loading.
func (b *tab) waitFor(script string) {
	b.t.Helper()
	var done bool
	var err error
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		done, err = chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+script+")"))
		if done && err == nil {
			return
		}
	}
	b.t.Fatalf("never true: %s (%v)\n%s", script, err, eval[string](b, "document.body.innerText"))
}

// open loads an address and waits until the page is live.
func (b *tab) open(address string) {
	b.t.Helper()
	b.run(chromedp.Navigate(address))
	b.waitFor(`document.getElementById("connection").textContent === "Live"`)
}

// colorScheme makes the browser prefer light or dark.
func (b *tab) colorScheme(scheme string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// phone makes the screen that of a phone.
func (b *tab) phone() {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(390, 844, chromedp.EmulateScale(1.5), chromedp.EmulateMobile))
}

// wantClean fails if anything went wrong in the tab, or if it contacted another host.
func (b *tab) wantClean(host string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.errors) > 0 {
		b.t.Errorf("errors in the browser: %q", b.errors)
	}
	for h := range b.hosts {
		if h != host {
			b.t.Errorf("the page contacts %s", h)
		}
	}
}
