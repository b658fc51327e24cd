package behaviour

import (
	"time"
)

var openState = []*scenario{
	{
		id: "O01", topic: "Open", title: "Rejects until the period is over, then asks again", rule: "B13",
		why:   "the backend gets the rest it was promised, and no more",
		needs: []feature{hasStates},
		run: func(c *cell) {
			b := c.make(want{openFor: 10 * time.Second})
			b.open()
			c.sleep(b.openFor - b.openFor/50)
			b.mustNot("a call before the open period was over")
			c.sleep(b.openFor/50 + soon(b.openFor) - b.openFor)
			b.must(success, "the call after the open period")
		},
	},
}
