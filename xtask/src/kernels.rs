//! The tests of the kernel side on other kernels: Debian's 6.1 (the floor, single links) and 6.12, booted in QEMU.
//!
//! Each machine is a kernel and an initramfs with our own process 1 (`guest/init.rs`), the static test binary and the
//! Go programs that it traces; the suite is the one that `cargo test -p riptrace-agent --test kernel` runs here. The
//! suite takes less than two minutes without KVM.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    guest::{self, Archive, Kernel},
    sh,
};

/// What is tested on which kernels.
#[derive(Args)]
pub(crate) struct Options {
    /// Kernel series, as Debian names its packages.
    #[arg(long, value_delimiter = ',', default_values = ["6.1", "6.12"])]
    releases: Vec<String>,
    /// Only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Minutes after which a machine counts as hung.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Show what the machines print.
    #[arg(long)]
    verbose: bool,
}

/// The oldest kernel series that is supported.
pub(crate) const FLOOR: &str = "6.1";

impl Options {
    /// The oldest kernel that is supported.
    pub(crate) fn floor() -> Self {
        Self { releases: vec![FLOOR.to_owned()], filter: None, minutes: 20, verbose: false }
    }
}

/// How one kernel did.
struct Verdict {
    release: String,
    passed: bool,
    text: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let work = sh::target().join("kernels");
    fs::create_dir_all(&work)?;
    let initramfs = initramfs(&work)?;
    let mut verdicts = Vec::new();
    for release in &options.releases {
        let verdict = match guest::obtain(release) {
            Ok(kernel) => boot(&kernel, &initramfs, &work.join(format!("{release}.log")), options)?,
            Err(error) => {
                Verdict { release: release.clone(), passed: false, text: format!("not tested: {error:#}") }
            }
        };
        verdicts.push(verdict);
    }
    println!();
    for verdict in &verdicts {
        println!("{:28} {}", verdict.release, verdict.text);
    }
    if verdicts.iter().all(|verdict| verdict.passed) {
        Ok(())
    } else {
        bail!("not every kernel passed; what they printed is in {}", work.display())
    }
}

/// Builds what the machines run and packs it.
fn initramfs(work: &Path) -> Result<PathBuf> {
    let test = guest::stripped(&guest::binaries()?.kernel_test, work.join("kernel-test"))?;
    let init = guest::init(work)?;
    let source = sh::root().join("riptrace-agent/tests/kernel/target.go");
    for (name, mode) in [("target", "exe"), ("target-pie", "pie")] {
        sh::run(
            sh::command("go")
                .args(["build", "-buildmode", mode, "-o"])
                .arg(work.join(name))
                .arg(&source)
                .env("GO111MODULE", "off")
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-buildvcs=false"),
        )?;
    }
    let path = work.join("initramfs");
    let mut archive = Archive::create(&path)?;
    for folder in ["targets", "lib64", "proc", "sys", "tmp", "dev"] {
        archive.folder(folder)?;
    }
    archive.program("init", &init)?;
    archive.program("kernel-test", &test)?;
    archive.program("targets/target", &work.join("target"))?;
    archive.program("targets/target-pie", &work.join("target-pie"))?;
    // A position-independent Go program names the system's loader, and needs nothing else of it.
    archive.program("lib64/ld-linux-x86-64.so.2", Path::new("/lib64/ld-linux-x86-64.so.2"))?;
    archive.finish()?;
    Ok(path)
}

/// Runs one machine to its verdict.
fn boot(kernel: &Kernel, initramfs: &Path, log: &Path, options: &Options) -> Result<Verdict> {
    let release = kernel.release();
    sh::say(&format!("booting {release}"));
    let filter = options.filter.as_ref().map(|filter| format!("riptrace.filter={filter}"));
    let begin = Instant::now();
    let mut machine = guest::machine(kernel, initramfs, &filter.unwrap_or_default())
        .args(["-nic", "none"])
        .spawn()
        .context("starting qemu-system-x86_64")?;
    let output = machine.stdout.take().context("a pipe")?;
    let mut log_file = File::create(log)?;
    let (lines, printed) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let _ = lines.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let deadline = begin + Duration::from_secs(60 * options.minutes);
    let mut verdict = None;
    let hung = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match printed.recv_timeout(left) {
            Ok(line) => {
                writeln!(log_file, "{line}")?;
                if options.verbose {
                    println!("{line}");
                }
                if let Some((_, text)) = line.strip_prefix("VERDICT ").and_then(|line| line.split_once(' ')) {
                    verdict = Some(text.to_owned());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    if hung {
        machine.kill()?;
    }
    machine.wait()?;
    let _ = reader.join();
    let seconds = begin.elapsed().as_secs();
    let text = match verdict {
        Some(text) => format!("{text} ({seconds} s)"),
        None if hung => format!("hung for {} minutes; see {}", options.minutes, log.display()),
        None => format!("ended without a verdict; see {}", log.display()),
    };
    Ok(Verdict { release, passed: text.starts_with("passed ("), text })
}
