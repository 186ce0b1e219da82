//go:build race

package pid1

func init() { raceEnabled = true }
