package discovery

import (
	"net"
	"strings"
	"time"
)

type settings struct {
	resolver Resolver
	interval time.Duration
	report   func(error)
	kinds    []Kind
}

func newSettings(options []Option) settings {
	s := settings{resolver: net.DefaultResolver, interval: DefaultInterval, report: func(error) {}}
	for _, option := range options {
		option(&s)
	}
	return s
}

// forms are the specifications that Parse takes, as its error shows them.
func (s settings) forms() []string {
	forms := []string{"dns:NAME:PORT", "srv:_SERVICE._PROTO.NAME", "static:HOST:PORT,..."}
	for _, kind := range s.kinds {
		forms = append(forms, kind.Form)
	}
	return forms
}

// Option changes what Parse knows, or how the source that it returns works.
type Option func(*settings)

// WithResolver sets who resolves names for a DNS source, net.DefaultResolver otherwise.
func WithResolver(r Resolver) Option { return func(s *settings) { s.resolver = r } }

// WithInterval sets how long a DNS source waits between lookups that succeed,
// give or take a fifth, and at most between those that fail.
func WithInterval(d time.Duration) Option { return func(s *settings) { s.interval = d } }

// WithReport has report called with the error of each lookup that failed; the
// source keeps the last set meanwhile, and tries again. report is never called
// twice at a time.
func WithReport(report func(error)) Option { return func(s *settings) { s.report = report } }

// Kind is a kind of source beside those of this package.
type Kind struct {
	// Form is what its specifications look like, such as kubernetes:SERVICE:PORT. The
	// word before the first colon tells this kind from others, and is not one of
	// Parse's own: static, dns, srv.
	Form string
	// Parse returns the source that a specification of this kind names. The source calls
	// report, which is not nil, as [WithReport] says.
	Parse func(spec string, report func(error)) (Source, error)
}

func (k Kind) name() string {
	name, _, _ := strings.Cut(k.Form, ":")
	return name
}

// WithKind has [Parse] know one more kind of source.
func WithKind(k Kind) Option { return func(s *settings) { s.kinds = append(s.kinds, k) } }
