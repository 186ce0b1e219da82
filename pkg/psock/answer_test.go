package psock

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// answerR reads files and compares them with what workCommand would have sent.
const answerR = `
args <- commandArgs(trailingOnly = TRUE)
for (file in args) {
  bytes <- readBin(file, "raw", 1e6)
  con <- rawConnection(bytes)
  got <- unserialize(con)
  stopifnot(length(readBin(con, "raw", 1)) == 0)
  close(con)
  message <- readBin(paste0(file, ".text"), "raw", 1e6)
  message <- rawToChar(message)
  Encoding(message) <- "UTF-8"
  zero <- proc.time()
  zero <- zero - zero
  value <- switch(sub(".*-", "", file), text = message,
    error = structure(message, class = c("snow-try-error", "try-error")),
    condition = structure(class = c("odd", "error", "condition"), list(message = message, call = NULL)))
  want <- list(type = "VALUE", value = value, success = !grepl("-error$", file), time = zero, tag = NULL)
  if (!identical(got, want)) { dput(got); dput(want); stop(file) }
  stopifnot(identical(Encoding(got$value[[1L]]), Encoding(message)), identical(nchar(got$value[[1L]]), nchar(message)))
}
cat("same\n")
`

func TestAnswersAreWhatAWorkerSends(t *testing.T) {
	dir := t.TempDir()
	messages := []struct{ in, want string }{
		{"", ""},
		{"3 of 4 workers are ready; waited 60s", "3 of 4 workers are ready; waited 60s"},
		{"Zeit überschritten: 3 von 4 ✓", "Zeit überschritten: 3 von 4 ✓"},
		{"nul \x00 and \xff", "nul \uFFFD and \uFFFD"},
		{strings.Repeat("é", 50<<10), strings.Repeat("é", 32<<10)},
		{"x" + strings.Repeat("é", 50<<10), "x" + strings.Repeat("é", 32<<10-1)},
	}
	args := []string{"--vanilla", "-e", answerR}
	for i, m := range messages {
		for _, xdr := range []bool{true, false} {
			for _, answer := range []struct {
				name    string
				append  func([]byte, string, bool) []byte
				success bool
			}{{"error", AppendError, false}, {"text", AppendText, true}, {"condition", func(dst []byte, message string, xdr bool) []byte {
				return AppendCondition(dst, message, []string{"odd", "error", "condition"}, xdr)
			}, true}} {
				file := filepath.Join(dir, fmt.Sprintf("%d-%t-%s", i, xdr, answer.name))
				data := answer.append([]byte("before"), m.in, xdr)
				data = bytes.TrimPrefix(data, []byte("before"))
				for name, content := range map[string][]byte{file: data, file + ".text": []byte(m.want)} {
					if err := os.WriteFile(name, content, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				args = append(args, file)
				var s Scanner
				n, done := s.Scan(data)
				got := s.Message()
				want := Message{Kind: KindValue, Bytes: int64(len(data)), XDR: xdr, Success: answer.success, Final: true}
				if answer.name == "text" && len(m.want) <= 32 {
					want.Text = m.want
				}
				if n != len(data) || !done || got != want || s.Elements() != 5 {
					t.Errorf("%s of %.40q: scanned %d of %d, %v: %+v", answer.name, m.in, n, len(data), done, got)
				}
			}
		}
	}
	cmd := exec.Command("Rscript", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "same\n" {
		t.Errorf("Rscript: %v\n%s", err, out)
	}
}

func TestErrorTextIsValid(t *testing.T) {
	for _, in := range []string{strings.Repeat("\x80", 80<<10), strings.Repeat("\xff\x00", 80<<10)} {
		if got := errorText(in); !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("%.10q: not valid", in)
		}
	}
}
