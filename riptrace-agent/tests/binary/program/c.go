//go:build withc

package main

// static __thread int counter;
// static int bump(void) { return ++counter; }
import "C"

func init() { C.bump() }
