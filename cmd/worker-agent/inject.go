package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/psock-runtime/psock-runtime/internal/program"
)

// inject copies this program: the image that it comes in has no other program that
// could, and the image that it goes to may be any that has R.
type inject struct {
	Dir string `arg:"" help:"Directory to copy it into, as worker-agent; it must be there."`
}

// Run copies. The file is there whole or not at all.
func (i *inject) Run() error {
	target := filepath.Join(i.Dir, "worker-agent")
	if info, err := os.Stat(i.Dir); err != nil {
		return program.Configf("DIR: give a directory that is there: %w", err)
	} else if !info.IsDir() {
		return program.Configf("DIR: %s is no directory", i.Dir)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	defer self.Close()
	file, err := os.CreateTemp(i.Dir, ".worker-agent-")
	if err != nil {
		return fmt.Errorf("write to %s: %w", i.Dir, err)
	}
	defer os.Remove(file.Name()) // nothing is left there when all went well
	_, err = io.Copy(file, self)
	if err == nil {
		err = file.Chmod(0o755)
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), target)
	}
	if err != nil {
		return fmt.Errorf("copy this program to %s: %w", target, err)
	}
	return nil
}
