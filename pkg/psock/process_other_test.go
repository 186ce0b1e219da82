//go:build !linux && !darwin

package psock

import (
	"errors"
	"os"
	"testing"
)

func TestStartIsUnsupported(t *testing.T) {
	if _, err := Start(Spec{Args: []string{os.Args[0]}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Start returned %v, want one that wraps errors.ErrUnsupported", err)
	}
}
