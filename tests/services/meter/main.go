// Meter executes one line as often and as fast as it is told, and says how often it did: the truth of what a tracepoint on
// that line has to account for.
//
// Each line of its input is a number of executions and how many of them there are a second, 0 for as fast as it can; each
// line of its output is how many there were so far.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Meter is what is counted.
type Meter struct {
	Padding string
	Count   int64
}

// tick is where it is traced.
//
//go:noinline
func (m *Meter) tick(by int64) {
	m.Count += by //probe:tick
}

// run executes the line so often. Bursts are a millisecond apart.
func (m *Meter) run(count, rate int) {
	begin := time.Now()
	for done := 0; done < count; {
		due := count
		if rate > 0 {
			due = min(count, int(time.Since(begin).Seconds()*float64(rate)))
		}
		for ; done < due; done++ {
			m.tick(1)
		}
		if rate > 0 && done < count {
			time.Sleep(time.Millisecond)
		}
	}
}

func main() {
	padding, err := strconv.Atoi(os.Getenv("METER_PADDING"))
	if err != nil {
		padding = 0
	}
	meter := &Meter{Padding: strings.Repeat("x", padding)}
	fmt.Println(meter.Count)
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		var count, rate int
		if _, err := fmt.Sscan(input.Text(), &count, &rate); err != nil {
			fmt.Fprintln(os.Stderr, "meter:", err)
			os.Exit(2)
		}
		meter.run(count, rate)
		fmt.Println(meter.Count)
	}
}
