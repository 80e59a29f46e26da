#!/bin/sh
# What `cargo xtask` itself needs: a C linker, and the Rust toolchain that rust-toolchain.toml names. Quick when both
# are there.
set -eu

say() { printf 'setup: %s\n' "$*" >&2; }

if ! command -v cc >/dev/null 2>&1; then
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        say "installing gcc (the linker that Rust uses)"
        { apt-get install -y -qq gcc libc6-dev || { apt-get update -qq && apt-get install -y -qq gcc libc6-dev; }; } >/dev/null
    else
        say "no C compiler: install gcc (Debian: apt-get install gcc libc6-dev)"
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    say "no cargo: install Rust with rustup, then run this again"
    exit 1
fi

wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if ! rustup toolchain list 2>/dev/null | grep -q "^$wanted-" || ! rustup component list --installed 2>/dev/null | grep -q '^rust-src'; then
    say "installing Rust $wanted (rust-toolchain.toml)"
    rustup toolchain install
fi
