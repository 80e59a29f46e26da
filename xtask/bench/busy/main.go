// A target for `cargo xtask bench budget`: all cores run one line as often as they can. Every 50 ms it prints
// "tick NANOSECONDS CALLS CPU_NANOSECONDS": time, calls and processor time since it started.
package main

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// counter has a cache line of its own.
type counter struct {
	calls atomic.Uint64
	_     [56]byte
}

//go:noinline
func step(x uint64) uint64 {
	return x*6364136223846793005 + 1442695040888963407 //probe:stepped
}

//go:noinline
func nothing() {}

func work(mine *counter) {
	// How many calls are made between two counts: little beside the calls, and often enough while each of them traps.
	const batch = 64
	x := uint64(1)
	for calls := uint64(batch); ; calls += batch {
		for range batch {
			x = step(x)
			nothing() //probe:emulated
		}
		mine.calls.Store(calls)
	}
}

func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func main() {
	counters := make([]counter, runtime.NumCPU())
	// One more, so that the ticks need not wait for a worker to be preempted.
	runtime.GOMAXPROCS(len(counters) + 1)
	for i := range counters {
		go work(&counters[i])
	}
	begin := time.Now()
	for {
		time.Sleep(50 * time.Millisecond)
		calls := uint64(0)
		for i := range counters {
			calls += counters[i].calls.Load()
		}
		fmt.Println("tick", time.Since(begin).Nanoseconds(), calls, processorTime().Nanoseconds())
	}
}
