# Everything that a user or developer runs. Each target installs what the machine lacks first and says what it installs.

.PHONY: help setup build dist demo play probe services test bench tidy kernels clean
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

demo: setup ## A server, two agents, three Go services; the story of one request across them
	@$(CARGO) xtask demo

play: setup ## The same, left up under load until Ctrl-C, with its addresses
	@$(CARGO) xtask demo --serve

probe: setup ## One machine, no server and no broker: ten hits of a line of a service under load
	@$(CARGO) xtask demo --probe

services: setup ## The services under load until Ctrl-C, to be probed by hand
	@$(CARGO) xtask demo --probe --serve

test: setup ## All tests
	@$(CARGO) xtask test

bench: setup ## Measure what the README quotes, beside bpftrace, dlv and a log line (a quarter of an hour)
	@$(CARGO) xtask bench

tidy: ## The invariants that a program can check
	@$(CARGO) xtask tidy

kernels: setup ## Load, attach, hit, values, detach on Linux 6.1 and 6.12 in an emulator
	@$(CARGO) xtask kernels

clean: ## Remove what was built (target/tools stays)
	@$(CARGO) clean --workspace
