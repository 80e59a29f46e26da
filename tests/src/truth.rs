//! One run: a fixture's printed truth against the hits of `riptrace probe`, and what share was exact.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    compare::{Comparison, Limits, plain_function},
    fixture::{Fixture, ProbedLine, TrueFrame, TrueHit, probed_lines},
    go::{self, Mode, Version},
    riptrace::Running,
};

/// Fixtures that print no truth about variables, or run for other tests.
const OTHER: [&str; 4] = ["counts", "passages", "stress", "bad"];

/// How long the arming of all locations, and the run, may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Of the variables of a cell, so many may be on a page that the kernel took away again between two passes (it reclaims what
/// was not used for a while); a probe does not fetch it back, and says `fault`.
const MAX_LATE_FAULTS: u32 = 3;

/// What became of the variables of one run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Pages that were not in memory though they had been touched.
    late_faults: u32,
    /// Hits that were compared.
    pub hits: usize,
    /// Variables that were compared.
    pub variables: usize,
    /// Exact ones.
    pub exact: usize,
    /// The rest by reason; a variable with several reasons counts for its first.
    pub labelled: BTreeMap<String, usize>,
    /// Examples of each reason: variable and path.
    pub examples: BTreeMap<String, BTreeSet<String>>,
    /// Failures: wrong values, hits that are missing or too many, …
    pub failures: Vec<String>,
    /// Values of well-known types without a `display`, by type.
    pub without_display: BTreeSet<String>,
    /// Call stacks that were compared.
    pub stacks: usize,
    /// Sites, and how many of them are fast.
    pub sites: usize,
    /// See `sites`.
    pub fast_sites: usize,
}

impl Tally {
    /// Exact variables in percent.
    #[must_use]
    pub fn share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few thousand variables")]
        let share = self.exact as f64 * 100.0 / (self.variables.max(1)) as f64;
        share
    }

    fn label(&mut self, reason: &str, path: &str) {
        *self.labelled.entry(reason.to_owned()).or_default() += 1;
        self.examples.entry(reason.to_owned()).or_default().insert(path.to_owned());
    }

    /// As text.
    #[must_use]
    pub fn report(&self, title: &str) -> String {
        let mut text = format!(
            "{title}: {} hits, {} stacks, {}/{} sites fast, {} of {} variables exact ({:.1} %)",
            self.hits,
            self.stacks,
            self.fast_sites,
            self.sites,
            self.exact,
            self.variables,
            self.share()
        );
        for (reason, count) in &self.labelled {
            let _ = write!(text, ", {reason} {count}");
        }
        text.push('\n');
        for (reason, examples) in &self.examples {
            let _ =
                writeln!(text, "    {reason}: {}", examples.iter().cloned().collect::<Vec<_>>().join(" "));
        }
        if !self.without_display.is_empty() {
            let _ = writeln!(
                text,
                "    without display: {}",
                self.without_display.iter().cloned().collect::<Vec<_>>().join(" ")
            );
        }
        if !self.failures.is_empty() {
            let _ = writeln!(text, "    {} FAILURES", self.failures.len());
            for failure in &self.failures {
                let _ = writeln!(text, "    {failure}");
            }
        }
        text
    }
}

/// Options of `riptrace probe`: so many captures in a second (0: all), whatever they cost.
#[must_use]
pub fn options(rate: &'static str) -> Vec<&'static str> {
    // Fixtures have fields of all names.
    let mut options = vec!["--rate", rate, "--budget", "0", "--no-redact-defaults"];
    // What is readable at the lines' first instructions, for comparison.
    if std::env::var_os("RIPTRACE_SITES").is_some_and(|sites| sites == "first") {
        options.push("--at-line-start");
    }
    options
}

/// Builds the fixtures, probes every marked line of them, and compares. `RIPTRACE_FIXTURE` picks some by name.
pub fn run(version: &Version, mode: Mode) -> Result<Tally> {
    let executable = go::build(version, mode)?;
    let wanted = std::env::var("RIPTRACE_FIXTURE").ok();
    let wanted: Option<Vec<&str>> = wanted.as_ref().map(|names| names.split(',').collect());
    let lines: Vec<ProbedLine> = probed_lines(version)?
        .into_iter()
        .filter(|line| !OTHER.contains(&line.fixture()))
        .filter(|line| mode == Mode::Cgo || line.fixture() != "cgocall")
        .filter(|line| wanted.as_ref().is_none_or(|names| names.contains(&line.fixture())))
        .collect();
    let mut tally = Tally::default();
    // Maps past the usual number of items are compared whole.
    let (maps, rest): (Vec<ProbedLine>, Vec<ProbedLine>) =
        lines.into_iter().partition(|line| line.fixture() == "maps");
    if !rest.is_empty() {
        trace(&executable, version, mode, &rest, Limits::default(), &mut tally)?;
    }
    if !maps.is_empty() {
        trace(&executable, version, mode, &maps, Limits { items: 2000, ..Limits::default() }, &mut tally)?;
    }
    Ok(tally)
}

fn trace(
    executable: &Path,
    version: &Version,
    mode: Mode,
    lines: &[ProbedLine],
    limits: Limits,
    tally: &mut Tally,
) -> Result<()> {
    let names: Vec<&str> =
        lines.iter().map(ProbedLine::fixture).collect::<BTreeSet<_>>().into_iter().collect();
    let mut fixture = Fixture::start(executable, &names)?;
    let locations: Vec<String> = lines.iter().map(ProbedLine::location).collect();
    let items = limits.items.to_string();
    let mut options = options("0");
    options.extend(["--stack=64", "--max-items", &items]);
    let mut probe = Running::probe(fixture.pid(), &locations, &options)?;
    probe.wait_attached(locations.len(), TIMEOUT)?;
    fixture.release()?;
    fixture.wait_done(TIMEOUT)?;
    let finished = probe.interrupt(TIMEOUT)?;
    let truth = fixture.end()?;
    finished.expect(0, &[]);

    for event in finished.of_kind("attached") {
        for site in event["sites"].as_array().into_iter().flatten() {
            tally.sites += 1;
            tally.fast_sites += usize::from(site["fast"] == true);
        }
    }
    check_stats(finished.of_kind("stats"), tally);
    for event in finished.of_kind("error") {
        tally.failures.push(format!("error event: {}", event["message"]));
    }
    match_hits(lines, &truth.hits, finished.of_kind("hit"), Build { version, mode }, limits, tally);
    Ok(())
}

/// How the fixture was built, which says what may be missing.
#[derive(Clone, Copy)]
struct Build<'a> {
    version: &'a Version,
    mode: Mode,
}

impl Build<'_> {
    /// Whether a variable may lack this.
    fn excuses(self, reason: &str, pass: u32) -> bool {
        !self.mode.keeps_everything()
            || match reason {
                // A dynamic type or closure that is met for the first time is known from then on.
                "unknown_type" => pass == 0,
                // A page of the program's data that nothing touched yet is not in memory, and is not fetched for a probe.
                // The first pass's own print touches it.
                "fault" => pass == 0,
                _ => false,
            }
    }
}

/// Every hit has exactly one outcome, and here none may be lost.
fn check_stats<'a>(stats: impl Iterator<Item = &'a Value>, tally: &mut Tally) {
    for stats in stats {
        let count = |key: &str| stats[key].as_u64().unwrap_or(0);
        let outcomes = ["emitted", "filtered", "throttled", "dropped", "failed"].map(count);
        if count("hits") != outcomes.iter().sum::<u64>() {
            tally.failures.push(format!("the counters do not add up: {stats}"));
        }
        if outcomes[2..].iter().any(|lost| *lost != 0) || count("undecodable") != 0 {
            tally.failures.push(format!("hits were lost: {stats}"));
        }
    }
}

fn match_hits<'a>(
    lines: &[ProbedLine],
    truth: &[TrueHit],
    hits: impl Iterator<Item = &'a Value>,
    build: Build<'_>,
    limits: Limits,
    tally: &mut Tally,
) {
    let by_line: HashMap<(&str, u64), &str> =
        lines.iter().map(|line| ((line.file.as_str(), u64::from(line.line)), line.name.as_str())).collect();
    // On one goroutine executions of a line come one after the other, on both sides.
    let mut captured: BTreeMap<(&str, u64), Vec<&Value>> = BTreeMap::new();
    for hit in hits {
        let file = hit["location"]["file"].as_str().unwrap_or_default();
        let suffix = file.find("fixtures/").map_or(file, |_| {
            // The checkout's own path may have a folder of this name.
            file.rfind("fixtures/").map_or(file, |at| &file[at..])
        });
        let line = hit["location"]["line"].as_u64().unwrap_or(0);
        match by_line.get(&(suffix, line)) {
            Some(name) => {
                captured.entry((name, hit["goroutine"].as_u64().unwrap_or(0))).or_default().push(hit);
            }
            None => tally.failures.push(format!("a hit at {file}:{line}, which is not probed")),
        }
    }
    let mut printed: BTreeMap<(&str, u64), Vec<&TrueHit>> = BTreeMap::new();
    for hit in truth {
        printed.entry((&hit.probe, hit.goroutine)).or_default().push(hit);
    }
    let places: BTreeSet<(&str, u64)> = captured.keys().chain(printed.keys()).copied().collect();
    for place in places {
        let mut captured = captured.remove(&place).unwrap_or_default();
        captured.sort_by_key(|hit| hit["ktime_ns"].as_u64());
        let printed = printed.remove(&place).unwrap_or_default();
        // The runtime's own line table does not say where a statement begins: a line may hit more than once.
        if !build.mode.has_dwarf() && captured.len() > printed.len() {
            tally.label("extra_hits", place.0);
            continue;
        }
        if captured.len() != printed.len() {
            let (probe, goroutine) = place;
            tally.failures.push(format!(
                "{probe} on goroutine {goroutine}: {} hits, want {}",
                captured.len(),
                printed.len()
            ));
            continue;
        }
        for (printed, captured) in printed.into_iter().zip(captured) {
            tally.hits += 1;
            if build.mode.has_dwarf() {
                variables(printed, captured, build, limits, tally);
            }
            stack(printed, captured, build.version, tally);
        }
    }
}

fn variables(truth: &TrueHit, hit: &Value, build: Build<'_>, limits: Limits, tally: &mut Tally) {
    let captured = hit["variables"].as_array().map_or(&[][..], Vec::as_slice);
    let mut names = HashSet::new();
    for variable in captured {
        if !names.insert(variable["name"].as_str().unwrap_or_default()) {
            tally.failures.push(format!("{}: {} is shown twice", truth.probe, variable["name"]));
        }
    }
    let comparison = Comparison::new(limits, captured.iter().map(|variable| &variable["value"]));
    for (name, value) in &truth.variables {
        let path = format!("{}:{name}", truth.probe);
        let found = captured.iter().find(|variable| variable["name"] == *name);
        if value["absent"] == true {
            if found.is_some_and(|found| found["value"].get("unavailable").is_none()) {
                tally.failures.push(format!("{path}: it is shown, but not in scope"));
            }
            continue;
        }
        tally.variables += 1;
        let Some(found) = found else {
            tally.label("not_listed", &path);
            if build.mode.keeps_everything() {
                tally.failures.push(format!("{path}: it is not listed"));
            }
            continue;
        };
        let findings = comparison.variable(&path, value, &found["value"]);
        for missing in findings.without_display {
            let name = missing.rsplit(" (").next().unwrap_or_default().trim_end_matches(')').to_owned();
            tally.without_display.insert(name);
        }
        if !findings.wrong.is_empty() {
            tally.label("WRONG", &path);
            tally.failures.extend(findings.wrong);
        } else if let Some((reason, at)) = findings.labels.first() {
            tally.label(reason, &path);
            let page_was_taken = reason == "fault" && tally.late_faults < MAX_LATE_FAULTS;
            if page_was_taken && truth.pass > 0 {
                tally.late_faults += 1;
            } else if !build.excuses(reason, truth.pass) {
                tally.failures.push(format!("{at}: {reason} in a build that keeps everything"));
            }
        } else {
            tally.exact += 1;
        }
    }
}

/// The executing function and every caller, with the callers' lines.
fn stack(truth: &TrueHit, hit: &Value, version: &Version, tally: &mut Tally) {
    let Some(frames) = hit["stack"].as_array() else {
        tally.failures.push(format!("{}: no stack", truth.probe));
        return;
    };
    tally.stacks += 1;
    // The runtime leaves out some frames of its own, which differ from version to version.
    let shown = |function: &str| !function.starts_with("runtime.");
    let want: Vec<(String, u32)> = truth
        .stack
        .iter()
        .filter(|TrueFrame { function, .. }| shown(function))
        .map(|frame| (plain_function(&frame.function), frame.line))
        .collect();
    let have: Vec<(String, u32)> = frames
        .iter()
        .filter(|frame| {
            frame["file"] != "<autogenerated>" && shown(frame["function"].as_str().unwrap_or_default())
        })
        .map(|frame| {
            let line = frame["line"].as_u64().and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
            (plain_function(frame["function"].as_str().unwrap_or_default()), line)
        })
        .collect();
    let mut rest = want.iter().enumerate().peekable();
    let mut same = true;
    for frame in &have {
        // Frame 0 is at the probed line here, at the print there.
        if rest.next_if(|(depth, want)| want.0 == frame.0 && (*depth == 0 || want.1 == frame.1)).is_none() {
            same &= is_wrapper(&frame.0, version);
        }
    }
    // A walk along frame pointers ends where C called Go.
    let from_c = frames.last().is_some_and(|frame| frame["function"] == "runtime.cgocallback");
    let cut = hit["stack_truncated"] == true && (from_c || have.len() >= 60);
    if !(same && rest.next().is_none() || cut) {
        tally.failures.push(format!("{}: stack is {have:?}, want {want:?}", truth.probe));
    }
}

/// What the compiler puts between a `go` or `defer` statement and the called function; the runtime leaves it out.
fn is_wrapper(function: &str, version: &Version) -> bool {
    let last = function.rsplit('.').next().unwrap_or_default();
    let prefixes: &[&str] = if version.minor() < 22 { &["func"] } else { &["gowrap", "deferwrap"] };
    prefixes.iter().any(|prefix| {
        last.strip_prefix(prefix).is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    })
}

/// Keeps a report under `target/fixtures/reports`, where the whole matrix can be read after a run.
pub fn keep_report(title: &str, text: &str) -> Result<()> {
    let folder = go::target_dir()?.join("fixtures/reports");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{title}.txt")), text).context("failed to write the report")
}
