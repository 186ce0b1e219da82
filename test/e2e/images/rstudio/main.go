// Command init stands in for rocker/rstudio's /init, which cannot be had where the
// tests run. It does what matters to the chart: the environment of the container goes
// to R sessions by way of Renviron.site, the scripts of /etc/cont-init.d run, and port
// 8787 has a page that wants user rstudio's PASSWORD.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// hidden are the variables that do not reach R sessions.
var hidden = []string{"HOME", "PASSWORD", "RSTUDIO_VERSION", "BATCH_USER_CREATION"}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := environment(); err != nil {
		return err
	}
	scripts, err := filepath.Glob("/etc/cont-init.d/*")
	if err != nil {
		return err
	}
	for _, script := range scripts {
		cmd := exec.CommandContext(ctx, script)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", script, err)
		}
	}
	server := &http.Server{Addr: ":8787", Handler: http.HandlerFunc(page), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// environment writes the container's variables where R sessions read them.
func environment() error {
	home, err := exec.Command("R", "RHOME").Output()
	if err != nil {
		return fmt.Errorf("ask R for its home: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(strings.TrimSpace(string(home)), "etc/Renviron.site"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if !slices.Contains(hidden, name) {
			fmt.Fprintf(file, "%s=%s\n", name, value)
		}
	}
	return file.Close()
}

func page(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("username") == "rstudio" && r.FormValue("password") == os.Getenv("PASSWORD") && r.FormValue("password") != "" {
		fmt.Fprintln(w, "Welcome to RStudio")
		return
	}
	fmt.Fprintln(w, "Sign in to RStudio")
}
