// Truth prints what its own runtime says about it: where main lies, and the frames of stacks with inlined calls,
// wrappers, generic functions, closures and deferred calls. With an argument it then waits until stdin ends.
package main

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
)

//go:noinline
func dump() {
	pcs := make([]uintptr, 64)
	pcs = pcs[:runtime.Callers(1, pcs)]
	frames := runtime.CallersFrames(pcs)
	for i := 0; ; i++ {
		frame, more := frames.Next()
		fmt.Printf("frame %x %s %s %d\n", pcs[i], frame.Function, frame.File, frame.Line)
		if !more {
			break
		}
	}
	fmt.Println("end")
}

func inner(n int) int {
	if n > 1 {
		dump()
	}
	return n * 2
}

func middle(n int) int { return inner(n) + 1 }

//go:noinline
func outer(n int) int {
	total := middle(n)
	for i := 0; i < 2; i++ {
		total += middle(i + n)
	}
	return total
}

//go:noinline
func generic[T any](value T, n int) T {
	middle(n)
	return value
}

type shape interface{ area(n int) int }

type square struct{ side int }

func (s square) area(n int) int { return middle(n) * s.side }

type holder struct{ square }

//go:noinline
func call(s shape) int { return s.area(7) }

func apply(f func(int) int) int { return f(3) }

//go:noinline
func deferred() {
	defer func() {
		middle(4)
	}()
}

func main() {
	fmt.Printf("main %x\n", reflect.ValueOf(main).Pointer())
	outer(2)
	generic("a", 2)
	generic(1.5, 3)
	call(square{2})
	call(&holder{square{3}})
	side := len(os.Args) + 2
	apply(func(n int) int { return middle(n) * side })
	deferred()
	done := make(chan bool)
	go func() { outer(5); close(done) }()
	<-done
	if len(os.Args) > 1 {
		fmt.Println("waiting")
		io.Copy(io.Discard, os.Stdin)
	}
}
