package test
import ("testing"
"github.com/prometheus/prometheus/promql/parser")
func TestX(t *testing.T){ e,err:=parser.ParseExpr(`rate(a{b="c"}[5m])`); t.Log(e,err)}
