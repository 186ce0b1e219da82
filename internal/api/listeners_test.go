package api_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/psock-runtime/psock-runtime/internal/api"
	"github.com/psock-runtime/psock-runtime/internal/broker"
)

// announcer notes what is announced, and when that ends.
type announcer struct {
	said, retracted chan string
	err             error
}

func (a *announcer) source() api.Source {
	return api.Source{
		PeerUID: asUser, UIDs: []uint32{user},
		Announce: func(x broker.Announcement) (func(), error) {
			if a.err != nil {
				return nil, a.err
			}
			text := fmt.Sprintf("%d %s %s %d %s", x.UID, x.Session, x.Cluster, x.Port, x.Intent)
			a.said <- text
			return func() { a.retracted <- text }, nil
		},
	}
}

func newAnnouncer() *announcer {
	return &announcer{said: make(chan string, 1), retracted: make(chan string, 1)}
}

// An announcement lasts until its byte comes, though others have the connection, or until the
// connection ends.
func TestAnnouncementLastsAsLongAsItsConnection(t *testing.T) {
	a := newAnnouncer()
	server := httptest.NewServer(api.Handler(a.source()))
	defer server.Close()
	i := 0
	for query, want := range map[string]string{
		"session=7-1&cluster=2&port=11562&intent=futures": "1000 7-1 2 11562 futures",
		"session=7-1&cluster=2&port=11562&intent=workers": "1000 7-1 2 11562 workers",
		"session=7-1&cluster=3&intent=own":                "1000 7-1 3 0 own",
		"session=7-1&cluster=3&port=1&intent=own":         "1000 7-1 3 1 own",
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		// As the site profile asks.
		fmt.Fprintf(conn, "POST /v1/listeners?%s HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n", query)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", query, response.Status)
		}
		if got := <-a.said; got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
		select {
		case text := <-a.retracted:
			t.Errorf("%s: %s is retracted although its connection lasts", query, text)
		default:
		}
		if i++; i%2 == 0 {
			conn.Close()
		} else if _, err := conn.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if got := <-a.retracted; got != want {
			t.Errorf("%s: %q is retracted, want %q", query, got, want)
		}
		conn.Close()
	}
}

func TestRefusedAnnouncements(t *testing.T) {
	for query, want := range map[string]struct {
		status int
		text   string
	}{
		"":          {http.StatusBadRequest, "session: 0 bytes, give a name of 1 to 100"},
		"session=7": {http.StatusBadRequest, "cluster: 0 bytes, give a name of 1 to 100"},
		"session=7&cluster=" + strings.Repeat("x", 101):   {http.StatusBadRequest, "cluster: 101 bytes, give a name of 1 to 100"},
		"session=7&cluster=1":                             {http.StatusBadRequest, `intent: "", give one of workers, futures, own`},
		"session=7&cluster=1&intent=all":                  {http.StatusBadRequest, `intent: "all", give one of workers, futures, own`},
		"session=7&cluster=1&intent=workers":              {http.StatusBadRequest, `port: "" is not a port number`},
		"session=7&cluster=1&intent=own&port=0":           {http.StatusBadRequest, `port: "0" is not a port number`},
		"session=7&cluster=1&intent=futures&port=70000":   {http.StatusBadRequest, `port: "70000" is not a port number`},
		"session=7&cluster=1&intent=workers&port=11562&x": {http.StatusTooManyRequests, broker.ErrAnnouncements.Error()},
	} {
		a := newAnnouncer()
		a.err = broker.ErrAnnouncements
		recorder := httptest.NewRecorder()
		request := fromLoopback(http.MethodPost, "/v1/listeners?"+query)
		request.ContentLength = 1
		api.Handler(a.source()).ServeHTTP(recorder, request)
		if got := strings.TrimSpace(recorder.Body.String()); recorder.Code != want.status || got != want.text {
			t.Errorf("%.60s: %d %q, want %+v", query, recorder.Code, got, want)
		}
	}
	stranger := newAnnouncer().source()
	stranger.UIDs = nil
	for length, want := range map[int64]int{1: http.StatusForbidden, 0: http.StatusBadRequest, 2: http.StatusBadRequest, -1: http.StatusBadRequest} {
		request := fromLoopback(http.MethodPost, "/v1/listeners?session=7&cluster=1&intent=own")
		request.ContentLength = length
		recorder := httptest.NewRecorder()
		api.Handler(stranger).ServeHTTP(recorder, request)
		if recorder.Code != want {
			t.Errorf("of a stranger, with a body of %d bytes: %d, want %d", length, recorder.Code, want)
		}
	}
}

// Whatever is asked, nothing is announced but what the words allow.
func FuzzListeners(f *testing.F) {
	f.Add("session=7-1&cluster=2&port=11562&intent=futures")
	f.Add("session=%00&cluster=2&port=-1&intent=own")
	f.Add("session=7;cluster=2&port=0x1F&intent=OWN")
	f.Fuzz(func(t *testing.T, query string) {
		source := newAnnouncer().source()
		source.Announce = func(a broker.Announcement) (func(), error) {
			if a.UID != user || a.Session == "" || a.Cluster == "" || len(a.Session)+len(a.Cluster) > 200 || a.Port == 0 && a.Intent != broker.ForOwn {
				t.Errorf("%q announces %+v", query, a)
			}
			return nil, broker.ErrAnnouncements
		}
		request := fromLoopback(http.MethodPost, "/v1/listeners")
		request.URL.RawQuery, request.ContentLength = query, 1
		recorder := httptest.NewRecorder()
		api.Handler(source).ServeHTTP(recorder, request)
		if recorder.Code == http.StatusOK {
			t.Errorf("%q: 200 although nothing was announced", query)
		}
	})
}
