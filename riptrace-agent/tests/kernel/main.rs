//! The kernel side against a running Go program: what is captured, byte by byte; what is let through; what is left
//! behind. Needs BPF: without it every test says loudly that it was left out, and fails when `CI=true`.

#![expect(clippy::unwrap_used, reason = "a test")]

mod capture;
mod cost;
mod gate;
mod ladder;
mod lifecycle;
mod pins;
mod record;
mod scratch;
mod session;
mod stacks;
mod target;
mod tiers;
mod watch;
