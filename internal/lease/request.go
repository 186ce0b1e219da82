package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxRequest is how many bytes a request may have.
	MaxRequest = 4 << 10
	// MaxWorkers is how many workers one lease may ask for.
	MaxWorkers  = 10000
	maxGroup    = 63 // of a Kubernetes label
	maxLabel    = 64
	maxReturned = 128 // R's connections
)

// Request is what a session asks for.
type Request struct {
	// Workers is the number of nodes of its cluster; 0: as many workers as there are.
	Workers int `json:"workers"`
	// Group is the worker group, "" for any.
	Group string `json:"group"`
	// Share: the nodes take turns on whatever workers there are.
	Share bool `json:"share"`
	// Label is shown to people.
	Label string `json:"label"`
	// Returned are the ports of clusters that the session has just given up: their
	// workers count as free.
	Returned []uint16 `json:"returned"`
}

// DecodeRequest reads a Request. A field that it does not know is an error: the
// session would get something else than what it asked for.
func DecodeRequest(body io.Reader) (Request, error) {
	var r Request
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return Request{}, fmt.Errorf("the request is not a JSON object such as {\"workers\":6}: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Request{}, errors.New("something follows the request's JSON object")
	}
	return r, r.validate()
}

func (r Request) validate() error {
	switch {
	case r.Workers < 0 || r.Workers > MaxWorkers:
		return fmt.Errorf("workers: %d, give 1 to %d, or 0 for as many as there are", r.Workers, MaxWorkers)
	case len(r.Group) > maxGroup || !printable(r.Group):
		return fmt.Errorf("group: %.80q is no name of a worker group", r.Group)
	case utf8.RuneCountInString(r.Label) > maxLabel || !printable(r.Label):
		return fmt.Errorf("label: give at most %d printable characters", maxLabel)
	case len(r.Returned) > maxReturned:
		return fmt.Errorf("returned: %d ports, give at most %d", len(r.Returned), maxReturned)
	}
	return nil
}

// printable: it may go into a log, a table and an R session.
func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
