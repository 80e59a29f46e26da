// A target for `cargo xtask bench peers`. Reads lines "call NAME COUNT" (as fast as it can) and "pace NAME RATE MILLISECONDS"
// (evenly, so many calls a second), makes the calls, answers "done CALLS NANOSECONDS".
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"
)

type Node struct {
	Name  string
	Next  *Node
	Value int64
}

var sink int

// Five has the parameters of a usual function. Its first instruction is a push, which the kernel emulates.
//
//go:nosplit
//go:noinline
func Five(n int, s string, list []int64, node *Node, err error) {
	var frame [64]byte
	frame[len(s)&63] = byte(n)
	sink = int(frame[len(list)&63])
}

// Logged is Five with a log line where a probe would be.
//
//go:noinline
func Logged(n int, s string, list []int64, node *Node, err error) {
	var frame [64]byte
	frame[len(s)&63] = byte(n)
	sink = int(frame[len(list)&63])
	logger.Info("five", "n", n, "s", s, "list", list, "node", node.Name, "err", err)
}

// Guarded has an instruction before its RET that the kernel emulates and at which the result is in place: Go's compiler
// puts a NOP there in functions that can panic. Five has none: its RET is single-stepped.
//
//go:noinline
func Guarded(a, b int) int {
	sum := a*a + b
	if sum == 0 {
		panic("no sum")
	}
	return sum
}

var (
	logger  *slog.Logger
	text    = "hello, kernel"
	numbers = []int64{0, 3, 6, 9, 12, 15, 18, 21}
	second  = &Node{Name: "second", Value: 2}
	first   = &Node{Name: "first", Next: second, Value: 1}
	failure = errors.New("no such order")
)

var calls = map[string]func(){
	"Five":    func() { Five(42, text, numbers, first, failure) },
	"Logged":  func() { Logged(42, text, numbers, first, failure) },
	"Guarded": func() { sink += Guarded(3, 4) },
}

func main() {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Not io.Discard, for which slog makes no line at all.
	logger = slog.New(slog.NewTextHandler(io.Writer(null), nil))
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var how, name string
		var count, milliseconds int
		fmt.Sscan(in.Text(), &how, &name, &count, &milliseconds)
		call := calls[name]
		begin := time.Now()
		if how == "pace" {
			count = pace(call, count, time.Duration(milliseconds)*time.Millisecond)
		} else {
			for range count {
				call()
			}
		}
		fmt.Println("done", count, time.Since(begin).Nanoseconds())
	}
}

// pace makes `rate` calls a second, a few at a time.
func pace(call func(), rate int, span time.Duration) int {
	begin := time.Now()
	made := 0
	for {
		elapsed := time.Since(begin)
		if elapsed >= span {
			return made
		}
		for due := int(elapsed.Seconds() * float64(rate)); made < due; made++ {
			call()
		}
		time.Sleep(200 * time.Microsecond)
	}
}
