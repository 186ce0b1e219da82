//go:build e2e

package e2e

import "testing"

// TestOldest repeats on the oldest R, future and parallelly, those of Debian 12, what
// depends on them: sessions, losses, leases, pools that grow. All other tests
// are of the current ones.
func TestOldest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"InstallAndPlan":        TestInstallAndPlan,
		"DeletedWorkers":        TestDeletedWorkers,
		"IdleWorkersLost":       TestIdleWorkersLost,
		"WorkerContainerKilled": TestWorkerContainerKilled,
		"SchedulerSideLostBusy": TestSchedulerSideLostBusy,
		"FromZero":              TestFromZero,
		"ElasticSessions":       TestElasticSessions,
		"WorkerGroups":          TestWorkerGroups,
		"ForgottenLeases":       TestForgottenLeases,
		"MoreNodesThanWorkers":  TestMoreNodesThanWorkers,
		"ExtraPackages":         TestExtraPackages,
	} {
		t.Run(name, test)
	}
}
