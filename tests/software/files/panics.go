// SPDX-License-Identifier: Apache-2.0

// A program in Go: it panics, says how it is used, or serves until it is told to end.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	switch {
	case len(os.Args) < 2:
		fmt.Fprintln(os.Stderr, "usage: panics panic|sleep")
		os.Exit(2)
	case os.Args[1] == "panic":
		var none map[string]int
		none["key"] = 1
	case os.Args[1] == "sleep":
		time.Sleep(time.Hour)
	}
}
