//! Which programs a command is about: `--pid`, `--exe`, `--name`, `--container`, or whichever has the location.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Failure, progress::Progress};
use crate::{
    binary::{
        DebugOptions, Executable, FileIdentity, Stage,
        process::{self, Process, ProcessError},
    },
    trace::{Image, ProcessScope},
};

/// How many of several candidates an error lists.
const LISTED: usize = 10;

/// The target's options, the same for every command that has one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub struct TargetArguments {
    /// This process (repeatable).
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,

    /// Every process of this executable file, now and later.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["pid", "name", "container"])]
    pub exe: Option<PathBuf>,

    /// The processes of this name, as `riptrace ps` prints it.
    #[arg(long, value_name = "NAME", conflicts_with = "pid")]
    pub name: Option<String>,

    /// The processes in this container (its id, or the beginning of it).
    #[arg(long, value_name = "ID", conflicts_with = "pid")]
    pub container: Option<String>,

    /// Separate debug data of the program. Otherwise it is looked for in the program, by build id and debug link, and at
    /// the servers in DEBUGINFOD_URLS.
    #[arg(long, value_name = "PATH")]
    pub debug_file: Option<PathBuf>,
}

/// A program and those of its processes that are meant.
#[derive(Debug)]
pub struct Target {
    /// The program.
    pub executable: Executable,
    /// A path to its file that uprobes can be attached by.
    pub attach_path: PathBuf,
    /// Where the file is seen from here, if it is.
    pub found_at: Option<PathBuf>,
    /// Its processes; for `--exe` those that run now.
    pub processes: Vec<Process>,
    /// Every process of the program is meant, those that start later too.
    pub all: bool,
}

impl Target {
    /// Which processes are traced.
    #[must_use]
    pub fn scope(&self) -> ProcessScope {
        if self.all {
            ProcessScope::All
        } else {
            ProcessScope::Only(self.processes.iter().map(|process| process.pid).collect())
        }
    }

    /// Reads its debug data, showing what is going on.
    #[must_use]
    pub fn load(&self, arguments: &TargetArguments, progress: &Progress) -> Image {
        let mut options = DebugOptions::from_environment(arguments.debug_file.clone());
        options.found_at.clone_from(&self.found_at);
        let name = self.executable.path().display().to_string();
        progress.step(&format!("reading {name}"));
        Image::load(self.executable.clone(), &options, &|step| {
            let doing = match step.stage {
                Stage::Downloading => "fetching debug data of",
                Stage::Inflating => "inflating debug data of",
            };
            let percent = (step.done_bytes * 100).checked_div(step.total_bytes);
            progress.step(
                &percent.map_or_else(|| format!("{doing} {name}"), |n| format!("{doing} {name}: {n} %")),
            );
        })
    }
}

impl TargetArguments {
    /// Whether the user named a target.
    #[must_use]
    pub fn is_given(&self) -> bool {
        !self.pid.is_empty() || self.exe.is_some() || self.name.is_some() || self.container.is_some()
    }

    /// The programs that are meant. Without any option, those of all Go processes.
    ///
    /// # Errors
    ///
    /// No process fits, or one can't be read.
    pub fn resolve(&self) -> Result<Vec<Target>, Failure> {
        if let Some(path) = &self.exe {
            return Ok(vec![of_file(path)?]);
        }
        if !self.pid.is_empty() {
            let mut targets = Vec::new();
            let mut seen = HashSet::new();
            for &pid in self.pid.iter().filter(|pid| seen.insert(**pid)) {
                let process = Process::open(pid).map_err(bind)?;
                let executable = process.executable().map_err(bind)?;
                add(&mut targets, process, executable);
            }
            return Ok(targets);
        }
        let (found, unreadable) = process::all_go()?;
        let mut targets = Vec::new();
        let mut names = Vec::new();
        for (process, executable) in found {
            let fits = self.name.as_ref().is_none_or(|name| process.name == *name)
                && self.container.as_ref().is_none_or(|id| {
                    process.container.as_ref().is_some_and(|container| container.starts_with(id.as_str()))
                });
            if fits && process.pid != std::process::id() {
                add(&mut targets, process, executable);
            } else {
                names.push(process.name);
            }
        }
        if targets.is_empty() {
            return Err(Failure::unbound(self.none_fits(&names, unreadable)));
        }
        Ok(targets)
    }

    fn none_fits(&self, names: &[String], unreadable: usize) -> String {
        let mut what = String::from("no running Go process");
        if let Some(name) = &self.name {
            what += &format!(" is called {name}");
        }
        if let Some(container) = &self.container {
            what += &format!(" is in container {container}");
        }
        if unreadable > 0 {
            what += &format!(" ({})", not_looked_at(unreadable));
        }
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            what += &format!("; there are: {}", list(names.iter()));
        }
        what + "; see riptrace ps"
    }
}

fn bind(error: ProcessError) -> Failure {
    let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
    match &error {
        ProcessError::Read { source, .. } if denied(source) => Failure::unable(error),
        _ => Failure::unbound(error),
    }
}

/// How many processes were not readable, and what helps: for root it is not root's privileges that are missing.
pub(super) fn not_looked_at(unreadable: usize) -> String {
    let processes = if unreadable == 1 { "1 process".to_owned() } else { format!("{unreadable} processes") };
    let advice =
        if process::is_root() { "protected from root here" } else { "run as root, or with CAP_SYS_PTRACE" };
    format!("{processes} could not be looked at: {advice}; see riptrace doctor")
}

/// The first few of several candidates, and how many there are beyond them.
pub(super) fn list<T: std::fmt::Display>(items: impl ExactSizeIterator<Item = T>) -> String {
    let more = items.len().saturating_sub(LISTED);
    let shown: Vec<String> = items.take(LISTED).map(|item| item.to_string()).collect();
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &tail
}

fn add(targets: &mut Vec<Target>, process: Process, executable: Executable) {
    let same = |target: &&mut Target| identity(&target.executable) == identity(&executable);
    if let Some(target) = targets.iter_mut().find(same) {
        target.processes.push(process);
        return;
    }
    targets.push(Target {
        attach_path: process.attach_path(),
        found_at: process.found_at(),
        executable,
        processes: vec![process],
        all: false,
    });
}

fn identity(executable: &Executable) -> FileIdentity {
    executable.identity()
}

fn of_file(path: &Path) -> Result<Target, Failure> {
    let executable = Executable::open(path).map_err(Failure::unbound)?;
    if !executable.is_go() {
        return Err(Failure::unbound(format!("{} is not a Go program", path.display())));
    }
    let (running, _) = process::all_go()?;
    let ours = identity(&executable);
    let processes = running
        .into_iter()
        .filter(|(_, program)| identity(program) == ours)
        .map(|(process, _)| process)
        .collect();
    Ok(Target {
        attach_path: path.to_owned(),
        found_at: Some(path.to_owned()),
        executable,
        processes,
        all: true,
    })
}
