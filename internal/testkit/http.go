package testkit

import (
	"io"
	"net/http"
	"testing"
)

// Get asks for a URL and returns the whole answer.
func Get(t testing.TB, client *http.Client, url string) (status int, body string) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}
