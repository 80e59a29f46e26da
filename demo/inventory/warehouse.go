package main

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Item is a quantity of one article.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Reservation asks for all items of an order.
type Reservation struct {
	Order uint64 `json:"order"`
	Items []Item `json:"items"`
}

// ReservationResult says what is left of each reserved article.
type ReservationResult struct {
	Order     uint64         `json:"order"`
	Remaining map[string]int `json:"remaining"`
}

var errUnknownArticle = errors.New("no such article")

// ShortageError says which article there is too little of.
type ShortageError struct {
	SKU       string
	Wanted    int
	Available int
}

func (e *ShortageError) Error() string {
	return fmt.Sprintf("%d of %s wanted, %d available", e.Wanted, e.SKU, e.Available)
}

// Warehouse is the stock of every article.
type Warehouse struct {
	mu       sync.Mutex
	stock    map[string]int
	capacity map[string]int
}

// NewWarehouse returns a warehouse that is filled to its capacity.
func NewWarehouse(capacity map[string]int) *Warehouse {
	return &Warehouse{stock: maps.Clone(capacity), capacity: capacity}
}

// Reserve takes all items of the reservation out of the stock, or none.
func (w *Warehouse) Reserve(reservation Reservation) (map[string]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()

	wanted := make(map[string]int, len(reservation.Items)) // tracepoint: reservation is live here
	for _, item := range reservation.Items {
		wanted[item.SKU] += item.Quantity
	}
	for sku, quantity := range wanted {
		available, known := w.stock[sku]
		if !known {
			return nil, fmt.Errorf("reserve %q for order %d: %w", sku, reservation.Order, errUnknownArticle)
		}
		if available < quantity {
			return nil, fmt.Errorf("reserve for order %d: %w", reservation.Order,
				&ShortageError{SKU: sku, Wanted: quantity, Available: available})
		}
	}
	remaining := make(map[string]int, len(wanted))
	for sku, quantity := range wanted {
		w.stock[sku] -= quantity
		remaining[sku] = w.stock[sku]
	}
	return remaining, nil
}

// Stock returns how much there is of every article.
func (w *Warehouse) Stock() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.stock)
}

// DeliverEvery fills the warehouse up at each interval until the returned function is called.
func (w *Warehouse) DeliverEvery(interval time.Duration) (stop func()) {
	ticker := time.NewTicker(interval)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				w.deliver()
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
	}
}

func (w *Warehouse) deliver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for sku, capacity := range w.capacity {
		if w.stock[sku] < capacity {
			w.stock[sku] = capacity
		}
	}
}
