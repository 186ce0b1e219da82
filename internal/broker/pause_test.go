package broker

import (
	"testing"
	"time"
)

func TestPauseGrowsWithTheLook(t *testing.T) {
	for _, tc := range []struct{ pause, took, want time.Duration }{
		{idlePoll, time.Millisecond, idlePoll},
		{busyPoll, 10 * time.Millisecond, 40 * time.Millisecond},
		{busyPoll, 3 * time.Second, longestPause},
	} {
		if got := pauseAfter(tc.pause, tc.took); got != tc.want {
			t.Errorf("after a look of %s: %s, want %s", tc.took, got, tc.want)
		}
	}
}
