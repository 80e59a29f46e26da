//! Fuzzing of the pure modules: every target of `fuzz/` for some seconds, under libFuzzer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::sh;

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets (folders of `fuzz/corpus`).
    targets: Vec<String>,
}

const CARGO_FUZZ: &str = "0.13.2";

/// Longest time for one input, and most memory: more is a finding. The seeds take milliseconds.
const INPUT_SECONDS: u32 = 20;
const MEMORY_MIB: u32 = 2048;
/// Largest input that libFuzzer makes. What is quadratic shows within this.
const INPUT_BYTES: u32 = 1 << 16;

pub(crate) fn run(options: &Options) -> Result<()> {
    cargo_fuzz()?;
    let all = targets()?;
    let chosen = if options.targets.is_empty() { all.clone() } else { options.targets.clone() };
    if let Some(unknown) = chosen.iter().find(|target| !all.contains(target)) {
        bail!("there is no target {unknown}; there is {}", all.join(", "));
    }
    sh::run(&mut fuzz("build"))?;
    let mut failed = Vec::new();
    for target in &chosen {
        sh::say(&format!("fuzzing {target} for {} s", options.seconds));
        // What is found goes to a folder of its own, which is not committed; the seeds are only read.
        let found = folder().join("found").join(target);
        let artifacts = folder().join("artifacts").join(target);
        fs::create_dir_all(&found).with_context(|| format!("creating {}", found.display()))?;
        let before = files(&artifacts);
        let ran = sh::run(
            fuzz("run")
                .arg(target)
                .arg(&found)
                .arg(folder().join("corpus").join(target))
                .arg("--")
                .args([
                    format!("-max_total_time={}", options.seconds),
                    format!("-timeout={INPUT_SECONDS}"),
                    format!("-rss_limit_mb={MEMORY_MIB}"),
                    format!("-max_len={INPUT_BYTES}"),
                ])
                .args(["-print_final_stats=1", "-verbosity=0"]),
        );
        if ran.is_err() {
            let inputs = files(&artifacts).into_iter().filter(|path| !before.contains(path));
            failed.extend(inputs.map(|path| format!("{target}: {}", path.display())));
            if files(&artifacts) == before {
                failed.push(format!("{target}: it ended without an input; see above"));
            }
        }
    }
    if failed.is_empty() {
        sh::say(&format!("fuzzing: {} targets, nothing found", chosen.len()));
        return Ok(());
    }
    for line in &failed {
        eprintln!("fuzzing: {line}");
    }
    bail!("{} inputs fail; once it is fixed, move the input to fuzz/corpus/TARGET", failed.len());
}

/// `cargo fuzz COMMAND` on the pinned compiler. No sanitizer: the modules are safe Rust, so there is no memory error to
/// find, and without one it needs no nightly compiler.
fn fuzz(command: &str) -> Command {
    let mut cargo = sh::command("cargo");
    cargo
        .current_dir(folder())
        .args(["fuzz", command, "--fuzz-dir", ".", "--sanitizer", "none"])
        // Nothing is loaded into a kernel: the eBPF object need not be built.
        .env("RIPTRACE_SKIP_EBPF", "1")
        // The instrumentation's flags must not reach, nor rebuild, what the main workspace built.
        .env_remove("CARGO_TARGET_DIR");
    cargo
}

fn folder() -> PathBuf {
    sh::root().join("fuzz")
}

fn targets() -> Result<Vec<String>> {
    let corpus = folder().join("corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| format!("reading {}", corpus.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn cargo_fuzz() -> Result<()> {
    if sh::has("cargo-fuzz") {
        return Ok(());
    }
    sh::say(&format!("installing cargo-fuzz {CARGO_FUZZ} into target/tools (about 60 s)"));
    sh::run(
        sh::command("cargo")
            .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--quiet", "--root"])
            .arg(sh::tools())
            .env_remove("CARGO_TARGET_DIR"),
    )
}
