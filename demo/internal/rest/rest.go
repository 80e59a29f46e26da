// Package rest sends and answers JSON over HTTP.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// maxBodyBytes bounds what is read of a request or a response.
const maxBodyBytes = 1 << 20

// Error is a refusal that the other side explained.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Client calls one service.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client of the service at base, for example http://127.0.0.1:8080. It passes the trace on that a
// call's context is part of.
func NewClient(base string) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	return &Client{base: base, http: &http.Client{Transport: otelhttp.NewTransport(transport), Timeout: 5 * time.Second}}
}

// Call sends request as JSON and decodes the answer into response, which may be nil. A refusal is an *Error.
func (c *Client) Call(ctx context.Context, method, path string, request, response any) error {
	var body io.Reader
	if request != nil {
		encoded, err := json.Marshal(request)
		if err != nil {
			return fmt.Errorf("encode %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(encoded)
	}
	call, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	call.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(call)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	limited := io.LimitReader(answer.Body, maxBodyBytes)
	if answer.StatusCode >= 300 {
		refusal := &Error{Status: answer.StatusCode, Code: "unexpected_status", Message: answer.Status}
		_ = json.NewDecoder(limited).Decode(refusal) // Without a JSON body the status line has to do.
		return refusal
	}
	if response == nil {
		return nil
	}
	if err := json.NewDecoder(limited).Decode(response); err != nil {
		return fmt.Errorf("decode answer of %s %s: %w", method, path, err)
	}
	return nil
}

// Read decodes the body of r into request. When that fails it answers 400 and returns false.
func Read(w http.ResponseWriter, r *http.Request, request any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(request); err != nil {
		Refuse(w, &Error{Status: http.StatusBadRequest, Code: "bad_request", Message: err.Error()})
		return false
	}
	return true
}

// Write answers status with response as JSON.
func Write(w http.ResponseWriter, status int, response any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(response) // The caller went away; there is nobody left to tell.
}

// Refuse answers with the refusal and its status.
func Refuse(w http.ResponseWriter, refusal *Error) {
	Write(w, refusal.Status, refusal)
}
