// Inventory keeps the stock of the shop.
//
//	POST /reservations  {"order":7,"items":[{"sku":"tea","quantity":2}]}
//	GET  /stock
package main

import (
	"flag"
	"net/http"
	"os"
	"time"

	"example.com/shop/internal/rest"
	"example.com/shop/internal/service"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "listen on this `host:port`; port 0 lets the system choose")
	delivery := flag.Duration("delivery", 2*time.Second, "time between deliveries of new stock")
	flag.Parse()

	logger := service.Logger("inventory")
	warehouse := NewWarehouse(map[string]int{
		"tea": 400, "coffee": 250, "cocoa": 120, "honey": 60, "mug": 30, "teapot": 8,
	})
	stop := warehouse.DeliverEvery(*delivery)
	defer stop()

	mux := http.NewServeMux()
	mux.HandleFunc("POST /reservations", func(w http.ResponseWriter, r *http.Request) {
		var reservation Reservation
		if !rest.Read(w, r, &reservation) {
			return
		}
		remaining, err := warehouse.Reserve(reservation)
		if err != nil {
			rest.Refuse(w, &rest.Error{Status: http.StatusConflict, Code: "out_of_stock", Message: err.Error()})
			return
		}
		rest.Write(w, http.StatusCreated, ReservationResult{Order: reservation.Order, Remaining: remaining})
	})
	mux.HandleFunc("GET /stock", func(w http.ResponseWriter, _ *http.Request) {
		rest.Write(w, http.StatusOK, warehouse.Stock())
	})

	if err := service.Run("inventory", *addr, logger, mux); err != nil {
		logger.Error("inventory ended", "error", err)
		os.Exit(1)
	}
}
