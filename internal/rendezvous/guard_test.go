package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/link"
	"github.com/psock-runtime/psock-runtime/internal/mtls"
	"github.com/psock-runtime/psock-runtime/internal/pods"
	"github.com/psock-runtime/psock-runtime/internal/pool"
	"github.com/psock-runtime/psock-runtime/internal/testkit"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// anywhere does not wrap a listener.
func anywhere(l net.Listener) net.Listener { return l }

// sides makes a CA, and with it certificates whose workers have each of the names.
func sides(t *testing.T, names ...string) (server *tls.Config, clients []*tls.Config) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := mtls.Generate(dir, mtls.GenerateOptions{WorkerName: name}); err != nil {
			t.Fatal(err)
		}
		// The next one takes its place, and would be taken over.
		own := filepath.Join(t.TempDir(), mtls.WorkerDir)
		if err := os.CopyFS(own, os.DirFS(filepath.Join(dir, mtls.WorkerDir))); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, testkit.ClientTLS(t, own))
		if server == nil {
			server = testkit.ServerTLS(t, filepath.Join(dir, mtls.RendezvousDir))
		}
	}
	return server, clients
}

// knock says hello and returns why it is refused, "" if it is not.
func (s *system) knock(t *testing.T, client *tls.Config, hello link.HelloMessage) string {
	t.Helper()
	conn := s.link(t, client)
	if err := conn.Send(link.Hello, hello); err != nil {
		t.Fatal(err)
	}
	frame, err := conn.Next()
	if err != nil {
		t.Fatal(err)
	}
	switch frame.Type {
	case link.Welcome:
		return ""
	case link.Reject:
		reject, err := link.Decode[link.RejectMessage](frame.Type, frame.Payload)
		if err != nil {
			t.Fatal(err)
		}
		return reject.Reason
	default:
		t.Fatalf("got %s", frame.Type)
		return ""
	}
}

// warnings are the refusals that were logged for everybody to see.
func (s *system) warnings() int {
	return s.logs.FilterLevelExact(zapcore.WarnLevel).FilterMessage("connection refused").Len()
}

// A certificate of the CA that is not for the name is no agent's, and its owner hears what
// is missing. It is logged once, however often it comes.
func TestCertificateWithoutTheName(t *testing.T) {
	t.Parallel()
	server, clients := sides(t, "worker", "web", "worker.example.com")
	for name, client := range map[string]*tls.Config{"worker": clients[0], "web": clients[1], "worker.example.com": clients[2]} {
		for _, asked := range []string{"worker", "web"} {
			t.Run(name+" for "+asked, func(t *testing.T) {
				t.Parallel()
				s := startWith(t, Config{TLS: server, WorkerName: asked}, nil, nil, anywhere)
				const knocks = 3
				for range knocks {
					why := s.knock(t, client, agentHello("a"))
					if name == asked && why != "" {
						t.Errorf("it is refused: %s", why)
					}
					want := fmt.Sprintf("has the DNS names %q and lacks %q, which agents need", []string{name}, asked)
					if name != asked && !strings.Contains(why, want) {
						t.Errorf("it is told %q, want %q", why, want)
					}
				}
				if name == asked {
					return
				}
				s.eventually(t, "the refusals to be counted", func() bool { return s.refused(t, refusedName) == knocks })
				if n := s.warnings(); n != 1 || s.refusals(t) != knocks || len(s.pool.Workers()) != 0 {
					t.Errorf("%d lines, %g refusals, workers %+v", n, s.refusals(t), s.pool.Workers())
				}
			})
		}
	}
}

// One client does not fill the pool under the name of one slot, nor take another's name.
func TestOneClientOneSlot(t *testing.T) {
	t.Parallel()
	server, client := testkit.Certificates(t)
	s := startWith(t, Config{TLS: server}, nil, func(c *pool.Config) { c.TakeoverLimit = time.Nanosecond }, anywhere)
	s.join(t, client, "a")
	const more = 20
	for i := range more {
		hello := agentHello("a")
		hello.Slot, hello.Slots = i+1, more+1
		if i%2 == 1 {
			hello = agentHello("a")
			hello.Instance = fmt.Sprint(i)
		}
		if why := s.knock(t, client, hello); why == "" {
			t.Errorf("%+v is let in", hello)
		}
	}
	s.eventually(t, "the refusals to be counted", func() bool { return s.refused(t, refusedSlot) == more })
	if n := s.warnings(); n != 1 || len(s.pool.Workers()) != 1 {
		t.Errorf("%d lines, workers %+v", n, s.pool.Workers())
	}
}

// An agent has to be in the pod that it names. The API server tells of pods called pod-a
// and pod-b, of the group default, with the address 127.0.0.1.
func TestAgentsOfPods(t *testing.T) {
	t.Parallel()
	stranger, group := agentHello("stranger"), agentHello("pod-a")
	group.Group = "gpu"
	for _, tc := range []struct {
		check     AgentCheck
		host      string
		hello     link.HelloMessage
		want, why string // "": it is let in
	}{
		{"", "127.0.0.1", stranger, refusedPod, `is called "stranger"`},
		{"", "127.0.0.1", group, refusedPod, `pod pod-a is of the group "default" by its label "group", its agent of "gpu"`},
		{"", "127.0.0.2", agentHello("pod-b"), refusedPod, "pod pod-b has the addresses [127.0.0.1], its agent connects from 127.0.0.2"},
		{CheckName, "127.0.0.2", stranger, refusedPod, `is called "stranger"`},
		{CheckName, "127.0.0.2", agentHello("pod-b"), "", ""},
		{CheckNone, "127.0.0.2", stranger, "", ""},
	} {
		t.Run(string(tc.check)+" "+tc.hello.Agent+" "+tc.hello.Group, func(t *testing.T) {
			t.Parallel()
			config, server := configuration(t, nowhere), podServer(t)
			config.AgentCheck = tc.check
			watchers := make(chan *pods.Watcher, 1)
			config.Pods = func(metrics *pods.Metrics) (*pods.Watcher, error) {
				w, err := pods.New(pods.Config{Log: zap.NewNop(), Metrics: metrics, API: &rest.Config{Host: server.URL}, Namespace: "ns", Selector: labels.Everything()})
				watchers <- w
				return w, err
			}
			client, _ := serve(t, config)
			testkit.Receive(t, testkit.Receive(t, watchers, "the watch").Current(), "the pods")
			s := &system{listener: config.Agents}
			s.join(t, nil, "pod-a").Close()
			conn, err := link.Dial(context.Background(), relayed(t, tc.host, config.Agents), nil, link.Timing{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Send(link.Hello, tc.hello); err != nil {
				t.Fatal(err)
			}
			frame, err := conn.Next()
			if err != nil {
				t.Fatal(err)
			}
			admin := "http://" + config.Admin.Addr().String() + "/metrics"
			if tc.want == "" {
				if frame.Type != link.Welcome {
					t.Fatalf("got %s %s", frame.Type, frame.Payload)
				}
				return
			}
			reject, err := link.Decode[link.RejectMessage](frame.Type, frame.Payload)
			if err != nil || frame.Type != link.Reject || !strings.Contains(reject.Reason, tc.why) {
				t.Errorf("got %s, %q, %v; want %q", frame.Type, reject.Reason, err, tc.why)
			}
			await(t, client, admin, fmt.Sprintf(`rendezvous_refused_connections_total{reason=%q} 1`, tc.want))
		})
	}
}

// relayed is an address at which connections go on to listener from host, as through a NAT.
func relayed(t *testing.T, host string, listener net.Listener) string {
	t.Helper()
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { relay.Close(); running.Wait() })
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	running.Go(func() {
		near, err := relay.Accept()
		if err != nil {
			return
		}
		defer near.Close()
		far, err := dialer.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		running.Go(func() {
			_, _ = io.Copy(far, near)
			far.Close()
		})
		_, _ = io.Copy(near, far)
	})
	return relay.Addr().String()
}

// watched is a watch of the test's, which does not answer at first.
type watched struct {
	mu      sync.Mutex
	current chan struct{}
	pods    map[string]string // their groups, by name; all are at 127.0.0.1
}

func newWatched(pods ...string) *watched {
	w := &watched{current: make(chan struct{}), pods: make(map[string]string)}
	for _, pod := range pods {
		w.pods[pod] = "default"
	}
	return w
}

func (w *watched) Current() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

// answer has the watch see these pods, too.
func (w *watched) answer(pods ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pod := range pods {
		w.pods[pod] = "default"
	}
	close(w.current)
}

// fail has it answer no more.
func (w *watched) fail() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = make(chan struct{})
}

func (w *watched) Verify(_ context.Context, claim pods.Claim) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	group, known := w.pods[claim.Name]
	switch {
	case !known:
		return fmt.Errorf("%w: no such pod", pods.ErrNotKnown)
	case group != claim.Group || claim.From != netip.MustParseAddr("127.0.0.1"):
		return errors.New("another pod")
	}
	return nil
}

const noSuchPod = "not known: no such pod"

// unchecked are the warnings that agents are let in without a look at their pods.
func (s *system) unchecked() int {
	return s.logs.FilterLevelExact(zapcore.WarnLevel).FilterMessageSnippet("by certificate alone").Len()
}

// While the API server does not answer the certificate alone counts. When it does, those
// that are in no pod have to leave, and the others notice nothing.
func TestPodsAreNotKnownYet(t *testing.T) {
	t.Parallel()
	watch := newWatched()
	s := startWith(t, Config{}, watch, nil, anywhere)
	s.join(t, nil, "gone").Close()
	honest, stranger := s.join(t, nil, "pod-a"), s.join(t, nil, "stranger")
	s.eventually(t, "one to have left", func() bool { return len(s.pool.Workers()) == 2 })
	s.eventually(t, "the warning", func() bool { return s.unchecked() == 1 })
	watch.answer("pod-a")
	if _, err := stranger.Next(); err == nil {
		t.Error("the stranger goes on")
	}
	s.eventually(t, "the stranger to be counted", func() bool { return s.refused(t, refusedPod) == 1 })
	s.eventually(t, "it to be gone", func() bool { return len(s.pool.Workers()) == 1 })
	if s.pool.Workers()[0].Agent != "pod-a" || s.warnings() != 1 || s.unchecked() != 1 {
		t.Errorf("%+v, %d lines, %d of the outage", s.pool.Workers(), s.warnings(), s.unchecked())
	}
	if why := s.knock(t, nil, agentHello("stranger")); why != noSuchPod {
		t.Errorf("%q", why)
	}
	if err := honest.Send(link.State, link.StateMessage{State: link.Warm}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the honest one's worker", func() bool { return s.count(pool.Warm) == 1 })
}

// The same for an outage later on: of pods that are not known then. Who contradicts what is
// known is refused as ever.
func TestPodsAreNotKnownAnyMore(t *testing.T) {
	t.Parallel()
	watch := newWatched("pod-b")
	s := startWith(t, Config{}, watch, nil, anywhere)
	watch.answer()
	s.join(t, nil, "pod-b").Close()
	if why := s.knock(t, nil, agentHello("pod-a")); why != noSuchPod {
		t.Fatalf("before the outage: %q", why)
	}
	watch.fail()
	contradicts := agentHello("pod-b")
	contradicts.Group = "gpu"
	if why := s.knock(t, nil, contradicts); why != "another pod" {
		t.Errorf("of another group: %q", why)
	}
	s.join(t, nil, "pod-b").Close()
	honest := s.join(t, nil, "pod-a")
	stranger := s.join(t, nil, "stranger")
	s.eventually(t, "pod-b to have left", func() bool { return len(s.pool.Workers()) == 2 })
	s.eventually(t, "the warning", func() bool { return s.unchecked() == 1 })
	watch.answer("pod-a")
	if _, err := stranger.Next(); err == nil {
		t.Error("the stranger goes on")
	}
	s.eventually(t, "the stranger to be gone", func() bool { return len(s.pool.Workers()) == 1 })
	if s.pool.Workers()[0].Agent != "pod-a" || s.refused(t, refusedPod) != 3 {
		t.Errorf("%+v, %g refusals", s.pool.Workers(), s.refused(t, refusedPod))
	}
	if err := honest.Send(link.State, link.StateMessage{State: link.Warm}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the honest one's worker", func() bool { return s.count(pool.Warm) == 1 })
	// The next outage has a warning of its own.
	watch.fail()
	s.join(t, nil, "another")
	s.eventually(t, "the next warning", func() bool { return s.unchecked() == 2 })
}

// What is remembered of those who are refused is bounded, and a session that misses the pod
// hears why its agent is.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t, nil, nil)
	why := errors.New("no such pod")
	for i := range 2 * maxComplaints {
		address := &net.TCPAddr{IP: net.IPv4(10, 0, byte(i/256), byte(i)), Port: 1}
		s.intake.refused.note(address, refusedPod, &refusal{refusedPod, fmt.Sprint("pod-", i), why})
	}
	if a, b := len(s.intake.refused.agents), len(s.intake.refused.told); a > maxComplaints || b > maxComplaints || s.warnings() > maxComplaints {
		t.Errorf("%d agents, %d addresses are remembered, %d lines", a, b, s.warnings())
	}
	if n := s.refused(t, refusedPod); n != 2*maxComplaints {
		t.Errorf("%g are counted", n)
	}
	missing := s.intake.refused.explain([]pods.Pod{{Name: "pod-0", Reason: "not ready yet"}, {Name: "other", Reason: "Pending"}})
	if got := fmt.Sprint(missing); got != "[{pod-0 its agent was refused: no such pod} {other Pending}]" {
		t.Error(got)
	}
}
