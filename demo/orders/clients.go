package main

import (
	"context"
	"fmt"
	"net/http"

	"example.com/shop/internal/rest"
)

// Inventory is the inventory service as orders uses it.
type Inventory struct {
	client *rest.Client
}

// Reserve takes the order's items out of the stock and returns what is left of each article.
func (i *Inventory) Reserve(ctx context.Context, order *Order) (map[string]int, error) {
	request := struct {
		Order uint64 `json:"order"`
		Items []Item `json:"items"`
	}{order.ID, order.Items}
	var result struct {
		Remaining map[string]int `json:"remaining"`
	}
	if err := i.client.Call(ctx, http.MethodPost, "/reservations", request, &result); err != nil {
		return nil, fmt.Errorf("reserve order %d: %w", order.ID, err)
	}
	return result.Remaining, nil
}

// Payments is the payments service as orders uses it.
type Payments struct {
	client *rest.Client
}

// Charge makes the customer's card pay the order.
func (p *Payments) Charge(ctx context.Context, order *Order, card string) (*Receipt, error) {
	request := struct {
		Order       uint64 `json:"order"`
		Customer    string `json:"customer"`
		Card        string `json:"card"`
		AmountCents int64  `json:"amount_cents"`
	}{order.ID, order.Customer, card, order.TotalCents}
	receipt := new(Receipt)
	if err := p.client.Call(ctx, http.MethodPost, "/charges", request, receipt); err != nil {
		return nil, fmt.Errorf("charge order %d: %w", order.ID, err)
	}
	return receipt, nil
}
