//go:build !race

package test

// raceEnabled: the commands are built with the race detector when the tests are.
const raceEnabled = false
