// Package service runs one HTTP service until it is asked to stop.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// drainTimeout bounds how long requests in flight may take after SIGTERM.
const drainTimeout = 5 * time.Second

// Logger returns the structured logger of the named service. It writes to standard error, so that standard output
// carries nothing but the address line of Run.
func Logger(name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", name)
}

// Run serves handler, with telemetry, on addr until SIGTERM or SIGINT, then lets requests in flight finish. Once it accepts
// connections it prints "NAME listening on http://HOST:PORT" on standard output: with port 0 the system chose one.
func Run(name, addr string, logger *slog.Logger, handler http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	endTelemetry := Telemetry(name)
	server := &http.Server{
		Handler:           otelhttp.NewHandler(logRequests(logger, handler), name),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	fmt.Printf("%s listening on http://%s\n", name, listener.Addr())

	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	stop() // A second signal ends the process at once.

	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("drain: %w", err)
	}
	logger.Info("stopped")
	return endTelemetry(drain)
}

// statusRecorder remembers what a handler answered.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func logRequests(logger *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorder, r)
		if recorder.status >= http.StatusInternalServerError {
			logger.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", recorder.status,
				"duration", time.Since(started))
		}
	})
}
