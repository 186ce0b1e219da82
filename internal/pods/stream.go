package pods

import (
	"context"
	"errors"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Current returns a channel that is closed while the pods are known: from the first list on,
// for as long as the API server answers the watch. A connection that the network drops in
// silence is noticed by client-go's pings, after 45 s.
func (w *Watcher) Current() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

// hear changes listed or watching, and with them what Current says.
func (w *Watcher) hear(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.listed && w.watching != nil
	change()
	switch now := w.listed && w.watching != nil; {
	case now && !before:
		close(w.current)
	case before && !now:
		w.current = make(chan struct{})
	}
}

// observed returns source, with a note of whether the API server answers. The reflector
// reports errors, but not all, and no success. Once the reflector has stopped what it asked
// for, streams ends.
func (w *Watcher) observed(source *cache.ListWatch, streams *sync.WaitGroup) *cache.ListWatch {
	observed := *source
	observed.ListWithContextFunc = func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		w.hear(func() { w.watching = nil })
		return source.ListWithContextFunc(ctx, options)
	}
	observed.WatchFuncWithContext = func(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
		w.hear(func() { w.watching = nil }) // the one before has ended
		open, err := source.WatchFuncWithContext(ctx, options)
		if err != nil {
			if options.SendInitialEvents != nil { // a list follows, whose error is logged
				return nil, noRetry(err)
			}
			w.complain(err)
			return nil, err
		}
		return w.follow(open, options.SendInitialEvents != nil && *options.SendInitialEvents, streams), nil
	}
	return &observed
}

// noRetry hides what is wrong from the reflector, where it would retry a watch that begins with
// a list without end, report nothing, and sleep for up to a minute after its context has ended.
func noRetry(err error) error {
	if utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err) {
		return errors.New(err.Error())
	}
	return err
}

// stream is a watch that the API server answers, on its way to the reflector.
type stream struct {
	apiwatch.Interface // the API server's
	watcher            *Watcher
	begins             bool // with the pods that there are
	events             chan apiwatch.Event
	stop               sync.Once
	stopped            chan struct{}
}

// follow notes when open knows the pods, and when it ends. The reflector asks for the next
// one much later than that: up to a minute after an error.
func (w *Watcher) follow(open apiwatch.Interface, begins bool, streams *sync.WaitGroup) *stream {
	s := &stream{Interface: open, watcher: w, begins: begins, events: make(chan apiwatch.Event), stopped: make(chan struct{})}
	if !begins {
		s.current()
	}
	streams.Go(s.forward)
	return s
}

func (s *stream) ResultChan() <-chan apiwatch.Event { return s.events }

func (s *stream) Stop() {
	s.stop.Do(func() { close(s.stopped) })
	s.Interface.Stop()
}

// forward passes the events on until the API server or the reflector ends them.
func (s *stream) forward() {
	defer close(s.events)
	defer s.ended() // first: then the reflector may go on
	for event := range s.Interface.ResultChan() {
		if event.Type == apiwatch.Error {
			s.ended()
		}
		select {
		case s.events <- event:
		case <-s.stopped:
			return
		}
		if s.begins && event.Type == apiwatch.Bookmark && endsInitial(event.Object) {
			s.current()
		}
	}
}

// endsInitial reports whether the pods that there are have been sent with this bookmark.
func endsInitial(bookmark runtime.Object) bool {
	object, err := meta.Accessor(bookmark)
	return err == nil && object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

func (s *stream) current() {
	s.watcher.hear(func() { s.watcher.watching = s })
}

// ended may be called when the next one is current.
func (s *stream) ended() {
	s.watcher.hear(func() {
		if s.watcher.watching == s {
			s.watcher.watching = nil
		}
	})
}
