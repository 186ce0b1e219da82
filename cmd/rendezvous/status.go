package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/admin"
	"github.com/psock-runtime/psock-runtime/internal/api"
)

// status prints what a running rendezvous knows.
type status struct {
	APIAddress string `name:"api-address" help:"HOST:PORT of the rendezvous' loopback API." default:"127.0.0.1:7461" env:"RENDEZVOUS_API_ADDRESS" placeholder:"ADDRESS"`
	JSON       bool   `name:"json" help:"Print the state as JSON."`
}

// Validate checks what a look at the flags alone can tell.
func (s *status) Validate() error {
	if _, err := admin.Loopback(s.APIAddress); err != nil {
		return fmt.Errorf("--api-address: %w", err)
	}
	return nil
}

// Run asks and prints.
func (s *status) Run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := "http://" + s.APIAddress + "/v1/state"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("--api-address %q: %w", s.APIAddress, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no rendezvous answers at %s (is it running? see --api-address): %w", s.APIAddress, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	if s.JSON {
		_, err = io.Copy(out, response.Body)
		return err
	}
	var state api.State
	if err := json.NewDecoder(response.Body).Decode(&state); err != nil {
		return fmt.Errorf("%s answered something else than a state: %w", url, err)
	}
	return api.WriteTable(out, state, time.Now())
}
