package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Charge asks a card for an amount.
type Charge struct {
	Order       uint64 `json:"order"`
	Customer    string `json:"customer"`
	Card        string `json:"card"`
	AmountCents int64  `json:"amount_cents"`
}

// Receipt confirms a charge.
type Receipt struct {
	ID          string    `json:"id"`
	Order       uint64    `json:"order"`
	AmountCents int64     `json:"amount_cents"`
	Charged     time.Time `json:"charged"`
}

// DeclineReason says why a card was not charged.
type DeclineReason int

// The reasons for which cards are declined.
const (
	ReasonLimit DeclineReason = iota + 1
	ReasonExpired
)

func (r DeclineReason) String() string {
	switch r {
	case ReasonLimit:
		return "over the card's limit"
	case ReasonExpired:
		return "card expired"
	default:
		return fmt.Sprintf("reason %d", int(r))
	}
}

// DeclinedError is a refusal by the card's issuer.
type DeclinedError struct {
	Card   string
	Reason DeclineReason
}

func (e *DeclinedError) Error() string {
	return fmt.Sprintf("card %s: %s", mask(e.Card), e.Reason)
}

var (
	errNoAmount = errors.New("the amount is not positive")
	errBadCard  = errors.New("the card number is malformed")
)

// Ledger is what every customer has paid.
type Ledger struct {
	limitCents int64

	mu     sync.Mutex
	totals map[string]int64
	count  uint64
}

// NewLedger returns an empty ledger. Cards pay at most limitCents at once.
func NewLedger(limitCents int64) *Ledger {
	return &Ledger{limitCents: limitCents, totals: make(map[string]int64)}
}

// Settle charges the card and books the amount.
func (l *Ledger) Settle(charge *Charge) (Receipt, error) {
	switch {
	case charge.AmountCents <= 0: // tracepoint: charge is live here
		return Receipt{}, fmt.Errorf("charge for order %d: %w", charge.Order, errNoAmount)
	case len(charge.Card) != 16:
		return Receipt{}, fmt.Errorf("charge for order %d: %w", charge.Order, errBadCard)
	case charge.AmountCents > l.limitCents:
		return Receipt{}, &DeclinedError{Card: charge.Card, Reason: ReasonLimit}
	case strings.HasPrefix(charge.Card, "4999"):
		return Receipt{}, &DeclinedError{Card: charge.Card, Reason: ReasonExpired}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	l.totals[charge.Customer] += charge.AmountCents
	return Receipt{
		ID:          fmt.Sprintf("rcpt-%06d", l.count),
		Order:       charge.Order,
		AmountCents: charge.AmountCents,
		Charged:     time.Now().UTC(),
	}, nil
}

// mask keeps the last four digits of a card number.
func mask(card string) string {
	if len(card) <= 4 {
		return card
	}
	return strings.Repeat("*", len(card)-4) + card[len(card)-4:]
}
