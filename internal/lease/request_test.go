package lease

import (
	"strings"
	"testing"
)

func TestDecodeRequest(t *testing.T) {
	for body, want := range map[string]string{
		`{"workers":6,"group":"gpu","share":true,"label":"für Anna","returned":[11562]}`: "",
		`{}`:                   "",
		`{"workers":10000}`:    "",
		``:                     "it is empty",
		`[]`:                   "cannot unmarshal array",
		`{"workers":6`:         "unexpected EOF",
		`{"workers":6.5}`:      "cannot unmarshal number 6.5",
		`{"workers":"six"}`:    "cannot unmarshal string",
		`{"wrokers":6}`:        `unknown field "wrokers"`,
		`{"workers":6}{}`:      "something follows",
		`{"workers":-1}`:       "workers: -1, give 1 to 10000",
		`{"workers":10001}`:    "workers: 10001, give 1 to 10000",
		`{"group":"a\nb"}`:     "is no name of a worker group",
		`{"returned":[70000]}`: "cannot unmarshal number 70000",
		`{"label":"` + strings.Repeat("ü", 64) + `"}`:                    "",
		`{"label":"` + strings.Repeat("ü", 65) + `"}`:                    "label: give at most 64",
		`{"group":"` + strings.Repeat("g", 64) + `"}`:                    "is no name of a worker group",
		`{"returned":[1` + strings.Repeat(",1", 128) + `]}`:              "returned: 129 ports",
		`{"label":"\u0000"}`:                                             "label: give at most 64",
		`{"label":"` + string([]byte{0xff, 0xfe}) + `","workers":"six"}`: "cannot unmarshal string",
	} {
		_, err := DecodeRequest(strings.NewReader(body))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", body, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.60s: %v, want %s", body, err, want)
		}
	}
}

// Whatever comes in, what is taken is within the bounds, and an error is one line.
func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{`{"workers":6,"group":"gpu","share":true,"label":"x","returned":[11562]}`, `{}`, `{"workers":1e3}`, `[`, `{"label":"\ud800"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeRequest(strings.NewReader(string(body)))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the error is not one line: %q", err)
			}
			return
		}
		if r.Workers < 0 || r.Workers > MaxWorkers || len(r.Group) > maxGroup || len([]rune(r.Label)) > maxLabel ||
			len(r.Returned) > maxReturned || !printable(r.Label) || !printable(r.Group) {
			t.Errorf("took %+v", r)
		}
	})
}
