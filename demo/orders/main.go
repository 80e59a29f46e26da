// Orders takes orders, reserves their items in inventory and charges them through payments.
//
//	POST /orders       {"customer":"ann","card":"4111…","items":[{"sku":"tea","quantity":2}]}
//	GET  /orders/{id}
package main

import (
	"flag"
	"net/http"
	"os"

	"example.com/shop/internal/rest"
	"example.com/shop/internal/service"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "listen on this `host:port`; port 0 lets the system choose")
	inventory := flag.String("inventory", "", "base `URL` of the inventory service (required)")
	payments := flag.String("payments", "", "base `URL` of the payments service (required)")
	flag.Parse()
	if *inventory == "" || *payments == "" {
		flag.Usage()
		os.Exit(2)
	}

	logger := service.Logger("orders")
	server := &Server{
		logger:    logger,
		book:      NewBook(),
		inventory: &Inventory{client: rest.NewClient(*inventory)},
		payments:  &Payments{client: rest.NewClient(*payments)},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", server.place)
	mux.HandleFunc("GET /orders/{id}", server.show)

	if err := service.Run("orders", *addr, logger, mux); err != nil {
		logger.Error("orders ended", "error", err)
		os.Exit(1)
	}
}
