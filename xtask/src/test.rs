//! All tests: the checks that need nothing first, then the oldest supported kernel in an emulator (its
//! tests, and a request chain over it and this one), then the runners, whose own closing lines come last.

use anyhow::{Result, bail};
use clap::Args;

use crate::{build, guest, kernels, setup, sh, tidy, two_kernels};

/// What to leave out.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out rustfmt, clippy and tidy.
    #[arg(long)]
    no_lint: bool,
    /// Leave out the kernels that are booted in an emulator.
    #[arg(long)]
    no_kernels: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.no_lint {
        sh::say("rustfmt, clippy, tidy");
        sh::run(sh::command("cargo").args(["fmt", "--all", "--check"]))?;
        let mut clippy = sh::command("cargo");
        clippy.args(["clippy", "--quiet"]).args(build::WORKSPACE);
        sh::run(clippy.args(["--all-targets", "--", "-D", "warnings"]))?;
        tidy::run()?;
    }
    if !privileged() {
        let what = "not root: the tests that need a kernel's BPF are LEFT OUT";
        if std::env::var_os("CI").is_some() {
            bail!("{what}; CI must run them: run it as root");
        }
        sh::say(what);
    } else if options.no_kernels {
        sh::say("the kernels that are booted in an emulator are LEFT OUT");
    } else if let Err(error) = guest::obtain(kernels::FLOOR) {
        let what = "another kernel can't be had: its tests, and the chain over two kernels, are LEFT OUT";
        if std::env::var_os("CI").is_some() {
            bail!("{what}; CI must run them: {error:#}");
        }
        sh::say(&format!("{what}: {error:#}"));
    } else {
        kernels::run(&kernels::Options::floor())?;
        two_kernels::run(&two_kernels::Options::floor())?;
    }
    setup::nats_py()?;
    sh::say("the tests");
    let (riptrace, server) = build::development()?;
    sh::run(
        sh::command("cargo")
            .arg("test")
            .args(build::WORKSPACE)
            .arg("--no-fail-fast")
            // The tests run the programs themselves.
            .env("RIPTRACE_BIN", riptrace)
            .env("RIPTRACE_SERVER_BIN", server),
    )
}

/// Whether BPF tests can run: root, in the sense of the tests themselves.
fn privileged() -> bool {
    sh::output(std::process::Command::new("id").arg("-u")).is_ok_and(|uid| uid == "0")
}
