// Chain is three services that know the causal order of what they do: front asks middle and back at the same time, middle
// asks back. Each step prints its name and the names of the steps that it directly follows, in whatever goroutine or
// service they were made; so the output of all three is the true partial order of every request.
//
//	chain -role back
//	chain -role middle -back URL
//	chain -role front -middle URL -back URL -requests 100
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Step is a point in a request's way through a service.
type Step struct {
	Name  string   `json:"name"`
	After []string `json:"after"`
	Trace string   `json:"trace"`
	Work  int      `json:"work"`
}

// Service is one role.
type Service struct {
	name   string
	steps  atomic.Int64
	latest atomic.Pointer[Step]

	mu  sync.Mutex
	out *json.Encoder
}

// step makes a step that follows others, prints it and returns its name.
func (s *Service) step(trace string, work int, after ...string) string {
	step := &Step{Name: fmt.Sprintf("%s-%d", s.name, s.steps.Add(1)), After: after, Trace: trace, Work: work}
	s.made(step)
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(step) // Whoever reads the steps is gone when this fails, and the process is about to end.
	return step.Name
}

// made is where the steps are traced.
//
//go:noinline
func (s *Service) made(step *Step) {
	s.latest.Store(step) //probe:step
}

// message is what the services say to each other: a piece of work, and the last step of who says it.
type message struct {
	Last string `json:"last"`
	Work int    `json:"work"`
}

// call sends the work on, with the trace's context, and returns the last step of the answer.
func call(ctx context.Context, url, trace, last string, work int) (string, error) {
	body, err := json.Marshal(message{Last: last, Work: work})
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/work", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Traceparent", "00-"+trace+"-"+random(8)+"-01")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	var said message
	if err := json.Unmarshal(text, &said); err != nil {
		return "", fmt.Errorf("%s answered %q: %w", url, text, err)
	}
	return said.Last, nil
}

// serve answers work; do makes the steps of this service and returns the last one.
func (s *Service) serve(do func(ctx context.Context, trace, last string, work int) (string, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked message
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		trace := strings.Split(r.Header.Get("Traceparent")+"---", "-")[1]
		last, err := do(r.Context(), trace, asked.Last, asked.Work)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(message{Last: last, Work: asked.Work}) // The caller went away.
	}
}

// request is front's part of one request.
func (s *Service) request(ctx context.Context, middle, back string, work int) error {
	trace := random(16)
	first := s.step(trace, work)
	type end struct {
		last string
		err  error
	}
	ends := make(chan end, 2)
	for _, url := range []string{middle, back} {
		go func(url string) {
			asked := s.step(trace, work, first)
			last, err := call(ctx, url, trace, asked, work)
			if err == nil {
				last = s.step(trace, work, last)
			}
			ends <- end{last, err}
		}(url)
	}
	one, other := <-ends, <-ends
	if one.err != nil {
		return one.err
	}
	if other.err != nil {
		return other.err
	}
	s.step(trace, work, one.last, other.last)
	return nil
}

func random(bytes int) string {
	random := make([]byte, bytes)
	if _, err := rand.Read(random); err != nil {
		panic(err)
	}
	return hex.EncodeToString(random)
}

func main() {
	role := flag.String("role", "", "front, middle or back")
	addr := flag.String("addr", "127.0.0.1:0", "listen on this `host:port`")
	middle := flag.String("middle", "", "`URL` of middle")
	back := flag.String("back", "", "`URL` of back")
	requests := flag.Int("requests", 10, "requests that front makes when a line comes on its standard input")
	together := flag.Int("together", 4, "requests under way at the same time")
	flag.Parse()

	s := &Service{name: *role, out: json.NewEncoder(os.Stdout)}
	switch *role {
	case "front":
		s.front(*middle, *back, *requests, *together)
		return
	case "middle":
		s.listen(*addr, s.serve(func(ctx context.Context, trace, last string, work int) (string, error) {
			asked := s.step(trace, work, last)
			answered, err := call(ctx, *back, trace, asked, work)
			if err != nil {
				return "", err
			}
			return s.step(trace, work, answered), nil
		}))
	case "back":
		s.listen(*addr, s.serve(func(_ context.Context, trace, last string, work int) (string, error) {
			began := s.step(trace, work, last)
			return s.step(trace, work, began), nil
		}))
	default:
		flag.Usage()
		os.Exit(2)
	}
}

// front makes its requests each time a line comes on standard input, until that is closed.
func (s *Service) front(middle, back string, requests, together int) {
	fmt.Println(`{"listening":""}`)
	line := make([]byte, 1)
	work := 0
	for {
		if _, err := os.Stdin.Read(line); err != nil {
			return
		}
		if line[0] != '\n' {
			continue
		}
		var group sync.WaitGroup
		slots := make(chan struct{}, together)
		for i := 0; i < requests; i++ {
			work++
			group.Add(1)
			slots <- struct{}{}
			go func(work int) {
				defer group.Done()
				if err := s.request(context.Background(), middle, back, work); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				<-slots
			}(work)
		}
		group.Wait()
		s.mu.Lock()
		fmt.Println(`{"done":true}`)
		s.mu.Unlock()
	}
}

// listen answers work until SIGTERM, or until standard input is closed.
func (s *Service) listen(addr string, work http.HandlerFunc) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("{\"listening\":%q}\n", "http://"+listener.Addr().String())
	mux := http.NewServeMux()
	mux.Handle("/work", work)
	go func() { _ = http.Serve(listener, mux) }()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended <- syscall.SIGTERM
	}()
	<-ended
}
