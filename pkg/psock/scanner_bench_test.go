package psock

import (
	"bytes"
	"testing"
)

// benchmarkScan scans data, one message, in pieces of 64 KB. elements is how
// many there are in the message's list or vector.
func benchmarkScan(b *testing.B, data []byte, elements int) {
	b.Helper()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	var s Scanner
	for b.Loop() {
		done := false
		for at := 0; at < len(data); {
			var n int
			n, done = s.Scan(data[at:min(at+64<<10, len(data))])
			at += n
		}
		if !done {
			b.Fatal("no message ended", s.Opaque())
		}
	}
	b.ReportMetric(float64(elements)*float64(b.N)/b.Elapsed().Seconds(), "elements/s")
}

// BenchmarkScanBulk is a vector of doubles.
func BenchmarkScanBulk(b *testing.B) {
	const n = 8 << 20
	benchmarkScan(b, append(native(typeDouble, n), make([]byte, 8*n)...), n)
}

// BenchmarkScanList is a list of single integers.
func BenchmarkScanList(b *testing.B) {
	const n = 1 << 20
	benchmarkScan(b, append(native(typeList, 1, typeList, n), bytes.Repeat(native(typeInteger, 1, 7)[14:], n)...), n)
}

// BenchmarkScanRows is a list of named lists, with references to symbols.
func BenchmarkScanRows(b *testing.B) {
	const n = 1 << 18
	row := native(typeList|flagAttr, 2, typeInteger, 1, 7, typeDouble, 1, 0, 0,
		typePairlist|flagTag, 1<<8|typeReference, typeString, 2, typeChar, 0, typeChar, 0, typeNull)[14:]
	benchmarkScan(b, append(native(typeList, 1, typeList, n), bytes.Repeat(row, n)...), n)
}

// BenchmarkScanStrings is a vector of strings of eight bytes.
func BenchmarkScanStrings(b *testing.B) {
	const n = 1 << 20
	benchmarkScan(b, append(native(typeString, n), bytes.Repeat(native(typeChar, 8, 1, 2)[14:], n)...), n)
}
