package broker

import (
	"testing"
	"time"
)

func TestUnmetDemandIsExplained(t *testing.T) {
	for _, tc := range []struct {
		name string
		e    explanation
		want string
	}{
		{"nobody there", explanation{node: 1, waited: 60 * time.Second},
			"0 of 0 workers are ready; node 1 waited 1m0s for one; no worker agent is connected: start some, or see their logs"},
		{"too many asked for", explanation{ready: 3, total: 3, held: 3, node: 4, waited: 2 * time.Second},
			"3 of 3 workers are ready; node 4 waited 2s for one (3 in use by this cluster, 0 by others); start more workers or ask for at most 3"},
		{"others have them", explanation{ready: 2, total: 2, others: 2, node: 1, waited: 1500 * time.Millisecond},
			"2 of 2 workers are ready; node 1 waited 1.5s for one (0 in use by this cluster, 2 by others); start more workers or wait for the other sessions"},
		{"one is broken", explanation{ready: 1, total: 2, held: 1, node: 2, waited: time.Second, missing: []string{"pod/1 is failed: no R"}},
			"1 of 2 workers are ready; node 2 waited 1s for one (1 in use by this cluster, 0 by others); pod/1 is failed: no R"},
		{"as many as it may have", explanation{ready: 3, total: 5, held: 2, others: 1, node: 3, waited: time.Second, most: 2, missing: []string{"pod/1 is starting"}, scaling: "1 of 6 pods run"},
			"3 of 5 workers are ready; node 3 waited 1s for one (2 in use by this cluster, 1 by others); --session-workers is 2: ask for at most 2"},
		{"not yet as many", explanation{ready: 1, total: 1, held: 1, node: 2, waited: time.Second, most: 2},
			"1 of 1 workers are ready; node 2 waited 1s for one (1 in use by this cluster, 0 by others); start more workers or ask for at most 1"},
		{"R does not read", explanation{ready: 1, total: 1, held: 1, waited: time.Second, unread: 1},
			"1 of 1 workers are ready; a call waited 1s for one (1 in use by this cluster, 0 by others); R does not read what 1 of them have answered, and --journal-memory and --journal-disk have no room for it; start more workers or ask for at most 1"},
		{"state is set on them", explanation{ready: 4, total: 4, held: 4, waited: time.Minute, kept: 4},
			"4 of 4 workers are ready; a call waited 1m0s for one (4 in use by this cluster, 0 by others); 4 of them stay with nodes on which calls that are no futures, as of clusterEvalQ(), have set something; start more workers or ask for at most 4"},
		{"a lease", explanation{ready: 4, total: 5, held: 3, others: 1, wanted: 6, waited: time.Minute, missing: []string{"pod/1 is starting"}},
			"4 of 5 workers are ready; a lease of 6 waited 1m0s (3 reserved for it, 1 in use by others); pod/1 is starting"},
		{"a lease that is too large", explanation{ready: 4, total: 4, held: 3, others: 1, wanted: 6, waited: time.Minute},
			"4 of 4 workers are ready; a lease of 6 waited 1m0s (3 reserved for it, 1 in use by others); start more workers or ask for at most 3"},
		{"many are broken", explanation{total: 7, node: 1, waited: time.Second, missing: []string{"a", "b", "c", "d", "e", "f", "g"}},
			"0 of 7 workers are ready; node 1 waited 1s for one; a; b; c; d; e; and 2 more"},
		{"more are started", explanation{ready: 1, total: 3, held: 1, node: 2, waited: time.Minute, missing: []string{"pod/1 is installing"}, scaling: "1 of 6 pods run; FailedCreate: exceeded quota"},
			"1 of 3 workers are ready; node 2 waited 1m0s for one (1 in use by this cluster, 0 by others); pod/1 is installing; scaling: 1 of 6 pods run; FailedCreate: exceeded quota"},
	} {
		if got := explain(tc.e); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}
