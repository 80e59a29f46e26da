// Load places orders at a steady rate and counts the answers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/shop/internal/rest"
)

type item struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

type order struct {
	Customer string `json:"customer"`
	Card     string `json:"card"`
	Items    []item `json:"items"`
}

// tally counts answers by their kind. It is safe for concurrent use.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *tally) add(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[kind]++
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	parts := make([]string, 0, len(t.counts))
	for kind, count := range t.counts {
		parts = append(parts, fmt.Sprintf("%s %d", kind, count))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

func main() {
	orders := flag.String("orders", "", "base `URL` of the orders service (required)")
	rate := flag.Float64("rate", 50, "orders a second")
	workers := flag.Int("workers", 8, "orders in flight at the most")
	count := flag.Int("count", 0, "stop after this many orders; 0: never")
	duration := flag.Duration("duration", 0, "stop after this time; 0: never")
	seed := flag.Int64("seed", 1, "seed of the customers' choices")
	flag.Parse()
	if *orders == "" || *rate <= 0 || *workers < 1 {
		flag.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if *duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *duration)
		defer cancel()
	}

	answers := &tally{counts: make(map[string]int)}
	work := make(chan order)
	var group sync.WaitGroup
	client := rest.NewClient(*orders)
	for i := 0; i < *workers; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for o := range work {
				answers.add(place(ctx, client, o))
			}
		}()
	}

	generate(ctx, rand.New(rand.NewSource(*seed)), *rate, *count, work)
	close(work)
	group.Wait()
	fmt.Println(answers)
}

// generate sends count orders (0: without end) at the rate, until ctx ends.
func generate(ctx context.Context, random *rand.Rand, rate float64, count int, work chan<- order) {
	ticker := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer ticker.Stop()
	for sent := 0; count == 0 || sent < count; sent++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		select {
		case work <- randomOrder(random):
		case <-ctx.Done():
			return
		}
	}
}

// place sends one order and names the answer: "placed", the refusal's code, or "failed".
func place(ctx context.Context, client *rest.Client, o order) string {
	err := client.Call(ctx, http.MethodPost, "/orders", o, nil)
	var refused *rest.Error
	switch {
	case err == nil:
		return "placed"
	case errors.As(err, &refused):
		return refused.Code
	case ctx.Err() != nil:
		return "cancelled"
	default:
		fmt.Fprintln(os.Stderr, "load:", err)
		return "failed"
	}
}

var (
	customers = []string{"ann", "bob", "chloé", "dmitri", "émile", "fatima", "gus", "hana"}
	articles  = []string{"tea", "tea", "tea", "coffee", "coffee", "cocoa", "honey", "mug", "teapot"}
)

// randomOrder is one customer's wish. One card in twenty has expired.
func randomOrder(random *rand.Rand) order {
	customer := random.Intn(len(customers))
	card := fmt.Sprintf("4111%012d", customer)
	if random.Intn(20) == 0 {
		card = fmt.Sprintf("4999%012d", customer)
	}
	items := make([]item, 1+random.Intn(4))
	for i := range items {
		items[i] = item{SKU: articles[random.Intn(len(articles))], Quantity: 1 + random.Intn(3)}
	}
	return order{Customer: customers[customer], Card: card, Items: items}
}
