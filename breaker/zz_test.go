package breaker
import ("testing";"testing/synctest";"time")
func TestZZ(t *testing.T){ synctest.Test(t, func(t *testing.T){
 b := mustNew(t, Config{Jitter:-1})
 b.Trip(t.Context(),"x")
 time.Sleep(5*time.Second)
 b.mu.Lock(); c:=b.cold.Load(); b.mu.Unlock()
 p:=acquire(t,b)
 t.Logf("%+v %v", c.leases, p.lease)
 p.Done(t.Context(), Success)
 t.Logf("%+v %+v", c.leases, b.phase.Load().half)
 p,err:=b.Acquire(t.Context())
 t.Log(p.lease,err)
})}
