//! `make bench`: measures what the README and the documentation quote, prints tables, and keeps them as JSON.
//!
//! Absolute times are not stable on shared machines; medians and ratios of alternating runs are what to look at.
//! Nothing here links the project's crates: it runs what they built and reads what that says.

mod budget;
mod fleet;
mod hit;
mod peers;
mod process;
mod sites;
mod start;
mod table;

use std::{cell::OnceCell, fmt::Display, fs, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use self::table::{Goal, Row, Samples};
use crate::{build, sh};

/// Looking at every line of cmd/go would take minutes.
const SITES_EVERY: usize = 25;

/// What to measure. Without a section: all of them, in about a quarter of an hour.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    section: Option<Section>,
    /// Runs of what is measured a few times (start, peers).
    #[arg(long, global = true, default_value_t = 7)]
    runs: usize,
    /// Rounds of what is measured many times (hit).
    #[arg(long, global = true)]
    rounds: Option<usize>,
    /// Print the tables as Markdown.
    #[arg(long, global = true)]
    markdown: bool,
    /// Put the tables into docs/performance.md.
    #[arg(long, global = true)]
    docs: bool,
}

#[derive(Clone, Subcommand)]
enum Section {
    /// What a hit costs the target, beside an empty uprobe and a program written by hand.
    Hit,
    /// The command `riptrace probe` beside bpftrace, dlv trace and a log line, on the same function.
    Peers,
    /// A program with all cores busy, probed on its hottest line with the default budget.
    Budget,
    /// Start of `riptrace probe` to armed, with a cold and a warm cache, and its peak memory.
    Start,
    /// The share of a program's line entries that can be armed at an instruction that the kernel emulates.
    Sites {
        /// The program's file; cmd/go where none is given.
        binary: Option<PathBuf>,
        /// Look at every so many-th line.
        #[arg(long, default_value_t = SITES_EVERY)]
        every: usize,
    },
    /// Hits through agent, broker and server; a thousand agents; an idle one.
    Fleet,
    /// Print the tables of the last runs again.
    Show,
}

impl Section {
    const ALL: [Self; 6] = [
        Self::Hit,
        Self::Peers,
        Self::Budget,
        Self::Start,
        Self::Sites { binary: None, every: SITES_EVERY },
        Self::Fleet,
    ];

    fn name(&self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Peers => "peers",
            Self::Budget => "budget",
            Self::Start => "start",
            Self::Sites { .. } => "sites",
            Self::Fleet => "fleet",
            Self::Show => "show",
        }
    }

    fn says(&self) -> &'static str {
        match self {
            Self::Hit => hit::SAYS,
            Self::Peers => peers::SAYS,
            Self::Budget => budget::SAYS,
            Self::Start => start::SAYS,
            Self::Sites { .. } => sites::SAYS,
            Self::Fleet => fleet::SAYS,
            Self::Show => "",
        }
    }

    fn measure(&self, bench: &Bench) -> Result<Report> {
        match self {
            Self::Hit => hit::measure(bench),
            Self::Peers => peers::measure(bench),
            Self::Budget => budget::measure(bench),
            Self::Start => start::measure(bench),
            Self::Sites { binary, every } => sites::measure(binary.as_deref(), *every),
            Self::Fleet => fleet::measure(bench),
            Self::Show => Ok(Report::default()),
        }
    }
}

/// What the sections share.
struct Bench {
    runs: usize,
    rounds: Option<usize>,
    /// For what is built and written.
    folder: PathBuf,
    riptrace: OnceCell<PathBuf>,
}

impl Bench {
    /// The release build of `riptrace`.
    fn riptrace(&self) -> Result<PathBuf> {
        if let Some(path) = self.riptrace.get() {
            return Ok(path.clone());
        }
        let path = build::release()?;
        Ok(self.riptrace.get_or_init(|| path).clone())
    }

    /// Where a section's result is kept.
    fn file(&self, section: &Section) -> PathBuf {
        self.folder.join(section.name()).with_extension("json")
    }

    /// Builds one of the programs in `xtask/bench`.
    fn program(&self, name: &str) -> Result<PathBuf> {
        let file = self.folder.join(name);
        sh::run(
            sh::command("go")
                .args(["build", "-o"])
                .arg(&file)
                .arg(format!("xtask/bench/{name}/main.go"))
                .env("GO111MODULE", "off")
                .env("GOFLAGS", "-buildvcs=false"),
        )?;
        Ok(file)
    }
}

/// What a section found.
#[derive(Default)]
struct Report {
    samples: Vec<Samples>,
    goals: Vec<(String, Goal)>,
    /// What could not be measured here, and why.
    absent: Vec<String>,
    /// Figures that are no samples.
    notes: Vec<String>,
}

impl Report {
    fn row(&mut self, what: &str, unit: &str, against: Option<&str>, samples: Vec<f64>) {
        let against = against.map(str::to_owned);
        self.samples.push(Samples { what: what.to_owned(), unit: unit.to_owned(), against, samples });
    }

    fn absent(&mut self, what: &str, why: &dyn Display) {
        sh::say(&format!("{what}: absent, {why:#}"));
        self.absent.push(format!("{what}: {why:#}"));
    }
}

/// A section's result as it is kept.
#[derive(Serialize, Deserialize)]
struct Measured {
    section: String,
    says: String,
    command: String,
    machine: Machine,
    seconds: f64,
    rows: Vec<Row>,
    absent: Vec<String>,
    notes: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Machine {
    date: String,
    kernel: String,
    processor: String,
    cores: usize,
    /// The hypervisor, if the processor says that there is one.
    virtual_machine: bool,
    go: String,
    /// Other work makes figures larger; this many tasks wanted to run at the start.
    load: String,
}

impl Machine {
    fn new() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value)
        };
        Ok(Self {
            date: sh::output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field("model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            go: sh::output(sh::command("go").args(["env", "GOVERSION"]))?,
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    fn text(&self) -> String {
        let kind = if self.virtual_machine { "virtual machine" } else { "machine" };
        format!(
            "{}; {} cores of a {kind} ({}), Linux {}, {}; load when it began: {}",
            self.date, self.cores, self.processor, self.kernel, self.go, self.load
        )
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = sh::target().join("bench");
    fs::create_dir_all(&folder)?;
    let bench =
        Bench { runs: options.runs.max(1), rounds: options.rounds, folder, riptrace: OnceCell::new() };
    let begin = Instant::now();
    let sections = match &options.section {
        None => Section::ALL.to_vec(),
        // The documentation's table is about cmd/go.
        Some(section @ Section::Sites { binary: Some(_), .. }) => {
            let report = section.measure(&bench)?;
            let goals: Vec<(&str, Goal)> = Vec::new();
            print!("{}", table::text(&table::rows(report.samples, &goals)));
            return Ok(());
        }
        Some(Section::Show) => return show(&bench, &Section::ALL, options),
        Some(section) => vec![section.clone()],
    };
    let mut failed = Vec::new();
    for section in &sections {
        sh::say(&format!("{}: {}", section.name(), section.says()));
        // One that fails does not keep the others from being measured.
        if let Err(error) = measure(&bench, section) {
            sh::say(&format!("{}: {error:#}", section.name()));
            failed.push(section.name());
        }
    }
    show(&bench, &sections, options)?;
    sh::say(&format!("took {:.0} s", begin.elapsed().as_secs_f64()));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Measures a section and keeps what it found.
fn measure(bench: &Bench, section: &Section) -> Result<()> {
    let machine = Machine::new()?;
    let begin = Instant::now();
    let file = bench.file(section);
    let _ = fs::remove_file(&file);
    let report = section.measure(bench)?;
    let goals: Vec<(&str, Goal)> = report.goals.iter().map(|(name, goal)| (name.as_str(), *goal)).collect();
    let measured = Measured {
        section: section.name().to_owned(),
        says: section.says().to_owned(),
        command: format!("cargo xtask bench {}", section.name()),
        machine,
        seconds: begin.elapsed().as_secs_f64(),
        rows: table::rows(report.samples, &goals),
        absent: report.absent,
        notes: report.notes,
    };
    fs::write(&file, serde_json::to_vec_pretty(&measured)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    sh::say(&format!("wrote {}", file.display()));
    Ok(())
}

/// Prints what was kept of sections.
fn show(bench: &Bench, sections: &[Section], options: &Options) -> Result<()> {
    for section in sections {
        let file = bench.file(section);
        let Ok(kept) = fs::read(&file) else {
            sh::say(&format!("{} was not measured yet: cargo xtask bench {0}", section.name()));
            continue;
        };
        let measured: Measured =
            serde_json::from_slice(&kept).with_context(|| format!("{}", file.display()))?;
        if options.markdown {
            println!("{}", measured.markdown());
        } else {
            println!("{}", measured.text());
        }
        if options.docs {
            put_into_docs(&measured)?;
        }
    }
    Ok(())
}

impl Measured {
    fn text(&self) -> String {
        let mut lines = vec![format!("== {}: {}", self.section, self.says), self.machine.text()];
        lines.push(table::text(&self.rows).trim_end().to_owned());
        lines.extend(self.notes.iter().cloned());
        lines.extend(self.absent.iter().map(|absent| format!("absent: {absent}")));
        lines.join("\n") + "\n"
    }

    fn markdown(&self) -> String {
        let mut lines = vec![format!("`{}`, {}.", self.command, self.machine.text()), String::new()];
        lines.push(table::markdown(&self.rows).trim_end().to_owned());
        lines.extend(self.notes.iter().map(|note| format!("\n{note}")));
        lines.extend(self.absent.iter().map(|absent| format!("\nAbsent: {absent}.")));
        lines.join("\n") + "\n"
    }
}

/// Replaces what stands between `<!-- bench SECTION -->` and `<!-- end -->`.
fn put_into_docs(measured: &Measured) -> Result<()> {
    let file = sh::root().join("docs/performance.md");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let Some(changed) = between(&text, &measured.section, &measured.markdown()) else {
        bail!("{} has no place for {}", file.display(), measured.section);
    };
    fs::write(&file, changed)?;
    sh::say(&format!("put {} into {}", measured.section, file.display()));
    Ok(())
}

fn between(text: &str, section: &str, new: &str) -> Option<String> {
    let begin = format!("<!-- bench {section} -->\n");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}{begin}{new}<!-- end -->{after}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_table_is_put_in_its_place() {
        let text = "a\n<!-- bench hit -->\nold\n<!-- end -->\nb\n<!-- bench peers -->\n<!-- end -->\n";
        let new = super::between(text, "hit", "new\n").unwrap_or_default();
        assert_eq!(new, text.replace("old", "new"));
        assert_eq!(super::between(text, "start", "new\n"), None);
    }
}
