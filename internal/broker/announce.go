package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/psock-runtime/psock-runtime/internal/lease"
	"go.uber.org/zap"
)

// Intent is what a session is going to do with the sockets that it listens on.
type Intent string

// The intents.
const (
	ForWorkers Intent = "workers" // each node of the cluster is to have a worker of the pool
	ForFutures Intent = "futures" // the same, but the nodes take turns: plan() makes the cluster
	ForOwn     Intent = "own"     // the session starts the cluster's workers itself
)

// Intents lists every Intent.
var Intents = []Intent{ForWorkers, ForFutures, ForOwn}

// Announcement says what a session is going to do, before it listens.
type Announcement struct {
	UID     uint32
	Session string // a name that no other session of the user has, not empty
	Port    uint16 // where it will listen; 0, with ForOwn alone: on any port
	Cluster string // a name that no other cluster of the session has, not empty
	Intent  Intent
}

// mostAnnouncements bounds those of one user: each lasts as long as one call of one R session.
const mostAnnouncements = 200

// ErrAnnouncements: the user has announced as much as one user may.
var ErrAnnouncements = fmt.Errorf("this user has %d announcements open, the most there may be; end an R session that is making a cluster", mostAnnouncements)

// announced is an Announcement that lasts.
type announced struct {
	Announcement
	// older are the sockets that listened before: those of others.
	older map[uint64]bool
}

// covers reports whether d can be what was announced.
func (a *announced) covers(d *demand) bool {
	return a.UID == d.UID && (a.Port == d.Port || a.Port == 0) && !a.older[d.Cookie]
}

// Announce notes what a session is going to do, until retract is called.
func (b *Broker) Announce(a Announcement) (retract func(), err error) {
	listeners, err := b.config.Listeners.Listeners(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot list listening sockets: %w", err)
	}
	said := &announced{Announcement: a, older: make(map[uint64]bool)}
	for _, l := range listeners {
		said.older[l.Cookie] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	own := 0
	for other := range b.said {
		if other.UID == a.UID {
			own++
		}
	}
	if own >= mostAnnouncements {
		return nil, ErrAnnouncements
	}
	b.said[said] = true
	b.announcementsChanged()
	if a.Intent != ForOwn {
		b.Hint()
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.said[said] {
			delete(b.said, said)
			b.announcementsChanged()
		}
	}, nil
}

// announcementsChanged has those look again that wait to know whose a listener is. Called with
// the lock held.
func (b *Broker) announcementsChanged() {
	close(b.saidChanged)
	b.saidChanged = make(chan struct{})
}

// owner names the cluster that a listener belongs to, as it was announced, "" where it was not,
// and says what it is entitled to.
type owner struct {
	session, cluster string
	shared           bool
	lease            *lease.Terms // nil for a cluster without one
}

// knowledge is what is known of a listener.
type knowledge int

const (
	unannounced knowledge = iota // nobody has said what it is for
	known
	disputed // several say that it is theirs: all but one fail to listen, and end their announcements
	itsOwn   // its session starts the workers itself
)

// ownerOf is what is known of d. It is out of date when changed is closed.
func (b *Broker) ownerOf(d *demand) (o owner, k knowledge, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var said, anyPort []*announced // one that names the port tells more than one that names none
	for a := range b.said {
		switch {
		case !a.covers(d):
		case a.Port == 0:
			anyPort = append(anyPort, a)
		default:
			said = append(said, a)
		}
	}
	if len(said) == 0 { // a lease names the port, too
		if terms := b.leaseOf(d); terms != nil {
			return owner{cluster: "lease " + terms.ID, shared: terms.Share, lease: terms}, known, b.saidChanged
		}
		said = anyPort
	}
	if len(said) == 0 {
		return owner{}, unannounced, b.saidChanged
	}
	first := said[0]
	for _, a := range said[1:] {
		if a.Session != first.Session || a.Cluster != first.Cluster || a.Intent != first.Intent {
			return owner{}, disputed, b.saidChanged
		}
	}
	if first.Intent == ForOwn {
		return owner{}, itsOwn, b.saidChanged
	}
	return owner{session: first.Session, cluster: first.Cluster, shared: first.Intent == ForFutures}, known, b.saidChanged
}

// evidencePace is how often it is looked whether a process is about to connect.
const evidencePace = time.Second

// claim waits until it is known whose d is. A listener that nobody has announced is left to
// others for the grace, unless it is the next one of a cluster that has shown that it wants our
// workers, and for as long as there is a process that is to connect to it. It fails when d listens no more.
func (b *Broker) claim(ctx context.Context, d *demand) (owner, error) {
	var since time.Time // when it was first unannounced, zero while it is not
	own := false
	for {
		o, k, changed := b.ownerOf(d)
		var look <-chan time.Time
		switch {
		case k == known:
			return o, nil
		case k != unannounced:
			since, own = time.Time{}, own || k == itsOwn
		case b.config.Grace < 0: // never
		case b.forming(d):
			return owner{}, nil
		default:
			if since.IsZero() {
				since = time.Now()
			}
			left := b.config.Grace - time.Since(since)
			if left <= 0 {
				if !b.awaited(d) {
					return owner{}, nil
				}
				own, left = true, evidencePace
			}
			look = time.After(left)
		}
		select {
		case <-look:
		case <-changed:
		case <-d.gone:
			if own {
				return owner{}, errForeign(ownWorkers)
			}
			return owner{}, errGone
		case <-ctx.Done():
			return owner{}, ctx.Err()
		}
	}
}

// forming reports whether d is for the next node of a cluster that was not announced, whose last
// one has taken a connection of ours and closed its listener.
func (b *Broker) forming(d *demand) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.latest[place{uid: d.UID, port: d.Port}]
	if c == nil || c.isReady() {
		return false
	}
	for n := range c.nodes {
		if n.connected {
			return true
		}
	}
	return false
}

// awaited reports whether a process is there that is to connect to d.
func (b *Broker) awaited(d *demand) bool {
	if b.config.Awaited == nil {
		return false
	}
	awaited, err := b.config.Awaited(d.Port)
	if err != nil {
		b.config.Log.Warn("cannot tell whether a worker of a session's own starts", zap.Uint16("port", d.Port), zap.Error(err))
	}
	return awaited
}
