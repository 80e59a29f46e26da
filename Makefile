# Everything that a user or developer runs. Each target installs what the machine lacks first and says what it installs.

.PHONY: help setup build dist demo services test bench tidy kernels clean
.DEFAULT_GOAL := help

CARGO := cargo

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing: compiler, BPF linker, Go (into target/tools where that is possible)
	@sh xtask/bootstrap.sh
	@$(CARGO) xtask setup

build: setup ## target/release/riptrace: one binary with the eBPF object inside
	@$(CARGO) xtask build

dist: setup ## The same, static (musl), for any x86-64 Linux
	@$(CARGO) xtask dist

demo: setup ## Three Go services under load, and ten hits from a line of one of them
	@$(CARGO) xtask demo

services: setup ## The demo's services under load until Ctrl-C, to be probed by hand
	@$(CARGO) xtask demo --serve

test: setup ## All tests
	@$(CARGO) xtask test

bench: setup ## Measure what the README quotes, beside bpftrace, dlv and a log line (ten minutes)
	@$(CARGO) xtask bench

tidy: ## The invariants that a program can check
	@$(CARGO) xtask tidy

kernels: setup ## Load, attach, hit, values, detach on Linux 6.1 and 6.12 in an emulator
	@$(CARGO) xtask kernels

clean: ## Remove what was built (target/tools stays)
	@$(CARGO) clean --workspace
