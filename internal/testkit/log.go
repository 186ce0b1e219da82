package testkit

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// Logger is a logger of all levels, and what it has logged.
func Logger() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(core), logs
}
