package link_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/psock-runtime/psock-runtime/internal/link"
)

// message is any of the payloads that Decode knows.
type message interface {
	link.HelloMessage | link.WelcomeMessage | link.RejectMessage | link.StateMessage | link.ExitMessage | link.UsageMessage
}

func TestDecodeHello(t *testing.T) {
	t.Parallel()
	const who = `"version":1,"agent":"a","instance":"i"`
	long := strings.Repeat("x", 300)
	for _, test := range []struct {
		name, json string
		want       link.HelloMessage // zero: refused
	}{
		{"the least", `{` + who + `,"slots":1}`, link.HelloMessage{Version: 1, Agent: "a", Instance: "i", Slots: 1}},
		{"the last slot", `{` + who + `,"slot":1023,"slots":1024}`, link.HelloMessage{Version: 1, Agent: "a", Instance: "i", Slot: 1023, Slots: 1024}},
		{"unknown fields", `{` + who + `,"slots":1,"new":{}}`, link.HelloMessage{Version: 1, Agent: "a", Instance: "i", Slots: 1}},
		{
			"long names", `{"agent":"` + long + `","instance":"` + long + `","group":"` + long + `","build":"` + long + `","node":"` + long + `","r":"` + long + `","slots":1}`,
			link.HelloMessage{Agent: long[:253], Instance: long[:64], Group: long[:63], Build: long[:64], Node: long[:253], R: long[:32], Slots: 1},
		},
		{"control characters", `{"agent":"a\u001b[31m\n","instance":"i\u0000","slots":1}`, link.HelloMessage{Agent: "a [31m ", Instance: "i ", Slots: 1}},
		{"silence", `{` + who + `,"slots":1,"silence":26}`, link.HelloMessage{Version: 1, Agent: "a", Instance: "i", Slots: 1, Silence: 26}},
		{"negative silence", `{` + who + `,"slots":1,"silence":-1}`, link.HelloMessage{Version: 1, Agent: "a", Instance: "i", Slots: 1}},
		{"endless silence", `{` + who + `,"slots":1,"silence":1000000000000}`, link.HelloMessage{Version: 1, Agent: "a", Instance: "i", Slots: 1, Silence: 3600}},
		{"no slots", `{` + who + `}`, link.HelloMessage{}},
		{"too many slots", `{` + who + `,"slots":1025}`, link.HelloMessage{}},
		{"negative slots", `{` + who + `,"slots":-1}`, link.HelloMessage{}},
		{"negative slot", `{` + who + `,"slot":-1,"slots":1}`, link.HelloMessage{}},
		{"slot out of range", `{` + who + `,"slot":1,"slots":1}`, link.HelloMessage{}},
		{"no agent", `{"instance":"i","slots":1}`, link.HelloMessage{}},
		{"no instance", `{"agent":"a","slots":1}`, link.HelloMessage{}},
		{"null", `null`, link.HelloMessage{}},
		{"an array", `[]`, link.HelloMessage{}},
		{"a name that is a number", `{"agent":1}`, link.HelloMessage{}},
		{"a broken slot after a name", `{"agent":"a\u001b","slot":1e99}`, link.HelloMessage{}},
		{"no JSON", "\x1b[2J", link.HelloMessage{}},
		{"two values", `{` + who + `,"slots":1}{}`, link.HelloMessage{}},
		{"nothing", ``, link.HelloMessage{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			check(t, link.Hello, test.json, test.want, test.want == link.HelloMessage{})
		})
	}
}

// check decodes payload; a refused one leaves nothing behind.
func check[M message](t *testing.T, kind link.Type, payload string, wanted M, refused bool) {
	t.Helper()
	got, err := link.Decode[M](kind, []byte(payload))
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("got %+v, want %+v", got, wanted)
	}
	switch {
	case !refused && err != nil:
		t.Errorf("refused: %v", err)
	case refused && !errors.Is(err, link.ErrProtocol):
		t.Errorf("got error %v, want a protocol error", err)
	}
}

func TestDecodeText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 300) // 600 bytes, and the limit of 512 is between two runes
	emoji := strings.Repeat("€", 200)
	for _, test := range []struct{ name, sent, want string }{
		{"as it is", "exit code 1", "exit code 1"},
		{"umlauts", "Fehler in größe", "Fehler in größe"},
		{"empty", "", ""},
		{"line breaks", "a\r\nb\tc", "a  b c"},
		{"escape sequences", "\x1b[2Jgone\x07", " [2Jgone "},
		{"C1 controls and bidirectional overrides", "a\u0085b\u202ec", "a b c"},
		{"invalid UTF-8", "a\xffb\xc3", "a b "},
		{"the replacement character", "a\ufffdb", "a b"},
		{"too long", long, long[:512]},
		{"too long by the middle of a rune", emoji, emoji[:510]},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// Not json.Marshal, which would repair invalid UTF-8.
			quoted := quote(test.sent)
			check(t, link.Reject, `{"reason":`+quoted+`}`, link.RejectMessage{Reason: test.want}, false)
			check(t, link.State, `{"state":"failed","reason":`+quoted+`}`, link.StateMessage{State: link.Failed, Reason: test.want}, false)
			check(t, link.Exit, `{"cause":`+quoted+`,"lines":[`+quoted+`]}`, link.ExitMessage{Cause: test.want, Lines: []string{test.want}}, false)
			build := test.want
			if len(build) > 64 {
				build = strings.ToValidUTF8(build[:64], "")
			}
			check(t, link.Welcome, `{"build":`+quoted+`}`, link.WelcomeMessage{Build: build}, false)
		})
	}
}

// quote is a JSON string of the bytes of s, valid or not.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if s[i] < ' ' {
			b.WriteString(`\u00` + string("0123456789abcdef"[s[i]>>4]) + string("0123456789abcdef"[s[i]&15]))
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String() + `"`
}

func TestDecodeStates(t *testing.T) {
	t.Parallel()
	for state, refused := range map[link.WorkerState]bool{
		link.Installing: false, link.Starting: false, link.Warm: false, link.Failed: false, link.Draining: false,
		"": true, "reserved": true, "bound": true, "Warm": true, "warm\n": true,
	} {
		wanted := link.StateMessage{State: state, PID: 7}
		payload, err := json.Marshal(wanted)
		if err != nil {
			t.Fatal(err)
		}
		if refused {
			wanted = link.StateMessage{}
		}
		check(t, link.State, string(payload), wanted, refused)
	}
}

func TestDecodeUsage(t *testing.T) {
	t.Parallel()
	for payload, wanted := range map[string]int64{
		`{"memoryBytes":0}`: 0, `{}`: 0, `{"memoryBytes":52428800}`: 50 << 20, `{"memoryBytes":9223372036854775807}`: 1<<63 - 1,
	} {
		check(t, link.Usage, payload, link.UsageMessage{MemoryBytes: wanted}, false)
	}
	for _, payload := range []string{`{"memoryBytes":-1}`, `{"memoryBytes":9223372036854775808}`, `{"memoryBytes":1.5}`, `{"memoryBytes":"1"}`, ``} {
		check(t, link.Usage, payload, link.UsageMessage{}, true)
	}
}

// Of many lines the last ones tell how it ended.
func TestDecodeLastLines(t *testing.T) {
	t.Parallel()
	payload := `{"lines":["` + strings.Repeat(`early","`, 30) + strings.Repeat(`late","`, 9) + `last"]}`
	got, err := link.Decode[link.ExitMessage](link.Exit, []byte(payload))
	if err != nil || len(got.Lines) != 10 || got.Lines[0] != "late" || got.Lines[9] != "last" {
		t.Fatalf("got %q, %v", got.Lines, err)
	}
}

// The error quotes what was sent, and is logged.
func TestDecodeErrorIsBounded(t *testing.T) {
	t.Parallel()
	_, err := link.Decode[link.HelloMessage](link.Hello, []byte(`{"slot":`+strings.Repeat("9", 16000)+`}`))
	if !errors.Is(err, link.ErrProtocol) || len(err.Error()) > 512 {
		t.Fatalf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"agent":"a\u001b","instance":"i","slot":0,"slots":1,"group":"g","build":"b"}`,
		`{"version":1,"build":"\u202e"}`, `{"reason":"x\n"}`, `{"state":"warm","reason":"\ud800","pid":1}`,
		`{"cause":"c","expected":true,"lines":["a","b\u0000"]}`, `{"memoryBytes":-1}`, `{"slots":1,"node":"n\n","r":"4.2.2"}`, `null`, `[1e999]`, "{\"reason\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if m, ok := fuzzOne[link.HelloMessage](t, link.Hello, payload); ok {
			if m.Agent == "" || m.Instance == "" || m.Slot < 0 || m.Slot >= m.Slots || m.Slots > 1024 {
				t.Errorf("accepted %+v", m)
			}
			fit(t, 253, m.Agent, m.Node)
			fit(t, 32, m.R)
			fit(t, 64, m.Instance, m.Build)
			fit(t, 63, m.Group)
		}
		if m, ok := fuzzOne[link.WelcomeMessage](t, link.Welcome, payload); ok {
			fit(t, 64, m.Build)
		}
		if m, ok := fuzzOne[link.RejectMessage](t, link.Reject, payload); ok {
			fit(t, 512, m.Reason)
		}
		if m, ok := fuzzOne[link.StateMessage](t, link.State, payload); ok {
			fit(t, 10, string(m.State))
			fit(t, 32, m.R)
			fit(t, 512, m.Reason)
		}
		if m, ok := fuzzOne[link.ExitMessage](t, link.Exit, payload); ok {
			fit(t, 512, m.Cause)
			fit(t, 512, m.Lines...)
			if len(m.Lines) > 20 {
				t.Errorf("%d lines", len(m.Lines))
			}
		}
		if m, ok := fuzzOne[link.UsageMessage](t, link.Usage, payload); ok && m.MemoryBytes < 0 {
			t.Errorf("accepted %+v", m)
		}
	})
}

// fuzzOne decodes payload; a refused one is a protocol error that can be logged and
// leaves nothing behind.
func fuzzOne[M message](t *testing.T, kind link.Type, payload []byte) (M, bool) {
	m, err := link.Decode[M](kind, payload)
	if err == nil {
		return m, true
	}
	fit(t, 512, err.Error())
	if !errors.Is(err, link.ErrProtocol) {
		t.Errorf("%v is no protocol error", err)
	}
	if !reflect.ValueOf(m).IsZero() {
		t.Errorf("refused, and yet %+v", m)
	}
	return m, false
}

// fit checks that texts can be put on one line of a log.
func fit(t *testing.T, limit int, texts ...string) {
	t.Helper()
	for _, s := range texts {
		unfit := func(r rune) bool { return !unicode.IsPrint(r) }
		if len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, unfit) {
			t.Errorf("%q is %d bytes, or not printable", s, len(s))
		}
	}
}
