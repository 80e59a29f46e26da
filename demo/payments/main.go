// Payments charges cards.
//
//	POST /charges  {"order":7,"customer":"ann","card":"4111…","amount_cents":1250}
package main

import (
	"errors"
	"flag"
	"net/http"
	"os"

	"example.com/shop/internal/rest"
	"example.com/shop/internal/service"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "listen on this `host:port`; port 0 lets the system choose")
	limit := flag.Int64("card-limit", 20_000, "largest `amount` in cents that a card pays at once")
	flag.Parse()

	logger := service.Logger("payments")
	ledger := NewLedger(*limit)

	mux := http.NewServeMux()
	mux.HandleFunc("POST /charges", func(w http.ResponseWriter, r *http.Request) {
		var charge Charge
		if !rest.Read(w, r, &charge) {
			return
		}
		receipt, err := ledger.Settle(&charge)
		var declined *DeclinedError
		switch {
		case errors.As(err, &declined):
			rest.Refuse(w, &rest.Error{Status: http.StatusPaymentRequired, Code: "declined", Message: declined.Error()})
		case err != nil:
			rest.Refuse(w, &rest.Error{Status: http.StatusBadRequest, Code: "bad_charge", Message: err.Error()})
		default:
			rest.Write(w, http.StatusCreated, receipt)
		}
	})

	if err := service.Run("payments", *addr, logger, mux); err != nil {
		logger.Error("payments ended", "error", err)
		os.Exit(1)
	}
}
