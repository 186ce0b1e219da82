package mtls

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// RegisterExpiry registers, as a metric of the named program, when the certificate in
// use expires. A scrape looks at the files as a handshake does: a certificate that
// was renewed shows before anybody connects.
func (m *Material) RegisterExpiry(register prometheus.Registerer, program string) {
	promauto.With(register).NewGaugeFunc(prometheus.GaugeOpts{
		Name: program + "_tls_certificate_expiry_timestamp_seconds",
		Help: "When the TLS certificate in use expires, in seconds since 1970.",
	}, func() float64 { return float64(m.NotAfter().Unix()) })
}
