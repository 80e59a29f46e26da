package main

import (
	"fmt"
	"sync"
	"time"
)

// Status is how far an order has come.
type Status int

// The life of an order.
const (
	StatusPending Status = iota
	StatusPaid
	StatusRejected
)

func (s Status) String() string {
	switch s {
	case StatusPending:
		return "pending"
	case StatusPaid:
		return "paid"
	case StatusRejected:
		return "rejected"
	default:
		return fmt.Sprintf("status %d", int(s))
	}
}

// MarshalText lets JSON show the status by its name.
func (s Status) MarshalText() ([]byte, error) {
	return []byte(s.String()), nil
}

// Item is a quantity of one article.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Receipt confirms a payment.
type Receipt struct {
	ID          string    `json:"id"`
	Order       uint64    `json:"order"`
	AmountCents int64     `json:"amount_cents"`
	Charged     time.Time `json:"charged"`
}

// Order is what a customer asked for and what became of it.
type Order struct {
	ID         uint64    `json:"id"`
	Customer   string    `json:"customer"`
	Items      []Item    `json:"items"`
	TotalCents int64     `json:"total_cents"`
	Status     Status    `json:"status"`
	Placed     time.Time `json:"placed"`
	Receipt    *Receipt  `json:"receipt,omitempty"`
}

// priceCents is the price list.
var priceCents = map[string]int64{
	"tea": 450, "coffee": 700, "cocoa": 520, "honey": 890, "mug": 1_250, "teapot": 4_900,
}

// total adds up the items' prices. Articles without a price cost nothing; inventory refuses them.
func total(items []Item) int64 {
	var cents int64
	for _, item := range items {
		cents += priceCents[item.SKU] * int64(item.Quantity)
	}
	return cents
}

// keepOrders bounds how many orders the book remembers.
const keepOrders = 10_000

// Book remembers the latest orders. It is safe for concurrent use.
type Book struct {
	mu     sync.RWMutex
	last   uint64
	orders map[uint64]Order
}

// NewBook returns an empty book.
func NewBook() *Book {
	return &Book{orders: make(map[uint64]Order)}
}

// Open gives the order its number.
func (b *Book) Open(order *Order) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	order.ID = b.last
}

// Close stores what became of the order.
func (b *Book) Close(order *Order) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders[order.ID] = *order
	if order.ID > keepOrders {
		delete(b.orders, order.ID-keepOrders)
	}
}

// Find returns the order with this number.
func (b *Book) Find(id uint64) (Order, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	order, found := b.orders[id]
	return order, found
}
