package relay_test

import (
	"bytes"
	"io"
	"testing"
)

// BenchmarkUp is a large object from the session to the worker, over loopback: of any bytes, and
// of text that has many of those that begin a message.
func BenchmarkUp(b *testing.B) {
	for name, data := range map[string][]byte{"noise": noise(b, 16<<20), "text": bytes.Repeat([]byte("12 MB\n"), 16<<20/6)} {
		b.Run(name, func(b *testing.B) {
			s, sent := start(b, &worker{forgets: true}, nil), 0
			exec := call("EXEC", data)
			b.SetBytes(int64(len(exec)))
			b.ReportAllocs()
			for b.Loop() {
				s.write(b, exec)
				sent += len(exec)
				s.worker.await(b, sent)
			}
		})
	}
}

// BenchmarkDown is a large object from the worker to the session, over loopback.
func BenchmarkDown(b *testing.B) {
	s := start(b, &worker{}, nil)
	exec := call("EXEC", make([]byte, 16<<20))
	b.SetBytes(int64(len(exec)))
	b.ReportAllocs()
	buffer := make([]byte, 256<<10)
	read := make(chan error, 1)
	for b.Loop() {
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(s.r, int64(len(exec)))}, buffer)
			read <- err
		}()
		for rest := exec; len(rest) > 0; {
			n := min(len(rest), 128<<10)
			s.Data(rest[:n])
			rest = rest[n:]
		}
		if err := <-read; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoundTrip is a small call and its answer.
func BenchmarkRoundTrip(b *testing.B) {
	s, sent := start(b, &worker{forgets: true}, nil), 0
	exec, good := call("EXEC", []byte("x")), answer(b)
	b.ReportAllocs()
	for b.Loop() {
		s.write(b, exec)
		sent += len(exec)
		s.worker.await(b, sent)
		s.Data(good)
		if got := s.read(b, len(good)); !bytes.Equal(got, good) {
			b.Fatal("another answer")
		}
	}
}
