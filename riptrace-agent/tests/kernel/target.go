// A target for the tests of the kernel side. Reads "name calls goroutines" lines, makes the calls, answers "done NANOSECONDS".
// Every function is a leaf without a stack check, so that its entry is reached exactly once a call.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"
)

type Node struct {
	Name  string
	Next  *Node
	Value int64
}

type Shape interface{ Area() float64 }

type Square struct {
	Side float64
	Tag  string
}

func (s Square) Area() float64 { return s.Side * s.Side }

type Small struct{ A, B int64 }

var sink int

//go:noinline
func Ints(a int, b int32, c bool) { sink = a + int(b) }

//go:noinline
func Text(s string) { sink = len(s) }

//go:noinline
func Texts(list []string) { sink = len(list) }

//go:noinline
func Numbers(list []int64) { sink = len(list) }

//go:noinline
func Pointer(n *Node) { sink = int(n.Value) }

//go:noinline
func Map(m map[string]int) { sink = len(m) }

//go:noinline
func Iface(s Shape, e any) {
	if s != nil {
		sink++
	}
}

//go:noinline
func Func(f func(int) int) { sink++ }

//go:noinline
func Leaf(depth int) { sink = depth }

// Framed begins with a push, which the kernel emulates: a hit there costs one trap.
//
//go:nosplit
//go:noinline
func Framed(s string, list []string, n *Node) {
	var frame [64]byte
	frame[len(s)&63] = 1
	sink = int(frame[len(list)&63])
}

// Five has the parameters of a usual function, and begins with a push as Framed does.
//
//go:nosplit
//go:noinline
func Five(n int, s string, list []int64, node *Node, err error) {
	var frame [64]byte
	frame[len(s)&63] = byte(n)
	sink = int(frame[len(list)&63])
}

// Nodes leads to eight objects.
//
//go:nosplit
//go:noinline
func Nodes(a, b, c, d, e, f, g, h *Node) {
	var frame [64]byte
	frame[uintptr(unsafe.Pointer(a))&63] = 1
	sink = int(frame[uintptr(unsafe.Pointer(h))&63])
}

//go:noinline
func Deep(depth int) int {
	if depth == 0 {
		Leaf(7)
		return 1
	}
	return Deep(depth-1) + 1
}

var (
	text    = "hello, kernel"
	long    = string(make([]byte, 1000))
	texts   = []string{"alpha", "", "gamma ray", string([]byte{0xff, 0, 0xfe})}
	numbers = make([]int64, 20000)
	second  = &Node{Name: "second", Value: 2}
	first   = &Node{Name: "first", Next: second, Value: 1}
	cycle   = &Node{Name: "cycle", Value: 3}
	table   = map[string]int{"one": 1, "two": 2, "three": 3}
	square  = Square{Side: 1.5, Tag: "tagged"}
	small   = Small{A: 11, B: 22}
	nodes   = [8]*Node{{}, {}, {}, {}, {}, {}, {}, {}}
	offset  = 1000
	failure = errors.New("no such order")
	wrapped = fmt.Errorf("outer: %w", failure)
)

//go:noinline
func add(n int) func(int) int { return func(x int) int { return x + n } }

var closure = add(offset)

var calls = map[string]func(){
	"Ints":    func() { Ints(-5, 77, true) },
	"Text":    func() { Text(text) },
	"Long":    func() { Text(long) },
	"Empty":   func() { Text("") },
	"Texts":   func() { Texts(texts) },
	"Numbers": func() { Numbers(numbers) },
	"Pointer": func() { Pointer(first) },
	"Cycle":   func() { Pointer(cycle) },
	"Map":     func() { Map(table) },
	"Iface":   func() { Iface(square, small) },
	"Direct":  func() { Iface(nil, first) },
	"Func":    func() { Func(closure) },
	"Framed":  func() { Framed(text, texts, first) },
	"Five":    func() { Five(42, text, numbers[:8], first, failure) },
	"Wrapped": func() { Five(42, "", numbers, cycle, wrapped) },
	"Nils":    func() { Five(0, "", nil, nil, nil) },
	"Nodes": func() {
		Nodes(nodes[0], nodes[1], nodes[2], nodes[3], nodes[4], nodes[5], nodes[6], nodes[7])
	},
	"Deep":    func() { sink += Deep(40) },
	"Shallow": func() { sink += Deep(2) },
}

func typeWord(e any) uintptr { return (*[2]uintptr)(unsafe.Pointer(&e))[0] }

func main() {
	cycle.Next = cycle
	for i := range numbers {
		numbers[i] = int64(i) * 3
	}
	fmt.Printf("fact first %x\n", unsafe.Pointer(first))
	fmt.Printf("fact second %x\n", unsafe.Pointer(second))
	fmt.Printf("fact cycle %x\n", unsafe.Pointer(cycle))
	fmt.Printf("fact Square %x\n", typeWord(square))
	fmt.Printf("fact Small %x\n", typeWord(small))
	fmt.Printf("fact errorString %x\n", typeWord(failure))
	fmt.Printf("fact wrapError %x\n", typeWord(wrapped))
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var name string
		var count, goroutines int
		fmt.Sscan(in.Text(), &name, &count, &goroutines)
		call := calls[name]
		begin := time.Now()
		var group sync.WaitGroup
		for range goroutines {
			group.Add(1)
			go func() {
				defer group.Done()
				for range count {
					call()
				}
			}()
		}
		group.Wait()
		fmt.Println("done", time.Since(begin).Nanoseconds())
	}
}
