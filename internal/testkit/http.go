package testkit

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// Get asks for a URL and returns the whole answer.
func Get(t testing.TB, client *http.Client, url string) (status int, answer string) {
	t.Helper()
	return Ask(t, client, http.MethodGet, url, "")
}

// Ask sends a request whose body is JSON, and returns the whole answer.
func Ask(t testing.TB, client *http.Client, method, url, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
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
