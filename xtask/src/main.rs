//! `cargo xtask TASK`: set-up, builds, demo, tests, kernel matrix, benchmarks and tidy checks. One task a file.

mod bench;
mod build;
mod demo;
mod fleet;
mod fuzz;
mod guest;
mod guest_clock;
mod kernels;
mod setup;
mod sh;
mod test;
mod tidy;
mod two_kernels;

use clap::{Parser, Subcommand};

/// RipTrace's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing.
    Setup,
    /// Build `target/release/riptrace`.
    Build,
    /// Build a static `riptrace` for any x86-64 Linux.
    Dist,
    /// A fleet on this machine: a server, two agents, three Go services under load, and the story of one request.
    Demo(demo::Options),
    /// All tests.
    Test(test::Options),
    /// Measure what the README quotes.
    Bench(bench::Options),
    /// Fuzz what reads binaries, debug data, records and users' input.
    Fuzz(fuzz::Options),
    /// The tests of the kernel side on other kernels, in QEMU.
    Kernels(kernels::Options),
    /// One request chain over two hosts with kernels and clocks of their own: this machine, and one in QEMU.
    TwoKernels(two_kernels::Options),
    /// Check the invariants that a program can check.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::Build => build::release().map(drop),
        Task::Dist => build::dist(),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Kernels(options) => kernels::run(&options),
        Task::TwoKernels(options) => two_kernels::run(&options),
        Task::Tidy => tidy::run(),
    }
}
