package main

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"example.com/shop/internal/rest"
)

// lowStock is how many of an article have to be left before nobody needs to know.
const lowStock = 5

// Server answers the requests of the orders service.
type Server struct {
	logger    *slog.Logger
	book      *Book
	inventory *Inventory
	payments  *Payments
}

// PlaceRequest is the body of POST /orders.
type PlaceRequest struct {
	Customer string `json:"customer"`
	Card     string `json:"card"`
	Items    []Item `json:"items"`
}

// place takes an order: reserve, charge, book.
func (s *Server) place(w http.ResponseWriter, r *http.Request) {
	placed := time.Now()
	var request PlaceRequest
	if !rest.Read(w, r, &request) {
		return
	}
	order := &Order{
		Customer:   request.Customer,
		Items:      request.Items,
		TotalCents: total(request.Items),
		Placed:     placed,
	}
	s.book.Open(order)

	remaining, err := s.inventory.Reserve(r.Context(), order)
	if err == nil {
		order.Receipt, err = s.payments.Charge(r.Context(), order, request.Card)
	}
	scarce := scarceArticles(remaining)
	s.settle(order, err) // tracepoint: order, remaining, scarce and err are live here

	if len(scarce) > 0 {
		s.logger.Debug("stock is low", "articles", scarce, "remaining", remaining, "order", order.ID)
	}
	if err != nil {
		rest.Refuse(w, refusal(err))
		return
	}
	w.Header().Set("Server-Timing", "place;dur="+milliseconds(time.Since(placed)))
	rest.Write(w, http.StatusCreated, order)
}

// show answers GET /orders/{id}.
func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		rest.Refuse(w, &rest.Error{Status: http.StatusBadRequest, Code: "bad_request", Message: err.Error()})
		return
	}
	order, found := s.book.Find(id)
	if !found {
		rest.Refuse(w, &rest.Error{Status: http.StatusNotFound, Code: "not_found", Message: "no such order"})
		return
	}
	rest.Write(w, http.StatusOK, order)
}

// settle books what became of the order.
func (s *Server) settle(order *Order, err error) {
	order.Status = StatusPaid
	if err != nil {
		order.Status = StatusRejected
	}
	s.book.Close(order)
}

// scarceArticles names the articles that are about to run out, in alphabetical order.
func scarceArticles(remaining map[string]int) []string {
	var scarce []string
	for sku, left := range remaining {
		if left < lowStock {
			scarce = append(scarce, sku)
		}
	}
	slices.Sort(scarce)
	return scarce
}

// refusal passes on what another service refused, and hides everything else behind a 502.
func refusal(err error) *rest.Error {
	var refused *rest.Error
	if errors.As(err, &refused) {
		return refused
	}
	return &rest.Error{Status: http.StatusBadGateway, Code: "upstream", Message: err.Error()}
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', -1, 64)
}
