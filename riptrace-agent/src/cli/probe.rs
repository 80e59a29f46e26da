//! `riptrace probe`: arm, print hits, disarm.

use std::{
    collections::HashSet,
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use riptrace_common::{
    abi::limits,
    wire::event::{DetachReason, Event, Stats},
};

use super::{
    Exit, Failure, duration,
    options::CaptureArguments,
    output::{Reader, note},
    progress::Progress,
    redaction::RedactionArguments,
    signals::Interrupted,
    stream::Stream,
    target::{Target, TargetArguments, list},
};
use crate::{
    binary::{cache::Cache, process::Process},
    expr::parse_template,
    plan::{
        path::PathExpression,
        sites::{LocationError, LocationRequest},
    },
    probe::{Kernel, KernelOptions, ProbeError},
    render::{self, text::TextOptions},
    trace::{
        Expressions, ImageId, ParsedExpr, PlanFailure, Planner, Request, SiteChoice, TracepointId, Tracer,
        Wanted, kernel_options, parse_captures, utc_offset_seconds,
    },
};

/// How often the ring is drained.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);
/// How long what was recorded before the end is still printed. The rest counts as dropped.
const FINISH_WITHIN: Duration = Duration::from_secs(1);
/// Characters of one variable's text.
const MAX_VALUE_CHARS: usize = 1000;
/// How often the processes are looked at.
const PROCESS_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Different programs that one name or container is expected to mean; more of them have no room for each location.
const MAX_PROGRAMS: usize = 64;

/// Options of `riptrace probe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Locations: file.go:42, dir/file.go:42, pkg.Func, 'pkg.(*T).Method', *0x4a1b2c

Examples:
  riptrace probe --name orders handler.go:42
  riptrace probe --pid 4242 'main.(*Server).Place' --stack --limit 10
  riptrace probe --exe ./orders handler.go:42 handler.go:57 --capture o.ID --capture err --json

Exit codes: 0 at least one hit, or ended as asked; 1 unforeseen; 2 wrong usage; 3 the location or the target can't be
bound; 4 ended without a hit; 5 missing privilege or kernel feature.")]
pub struct Arguments {
    #[command(flatten)]
    target: TargetArguments,

    /// Where: file.go:LINE, a function, a method, or *ADDRESS. Several share one stream, ordered by time.
    #[arg(required = true, value_name = "LOCATION")]
    locations: Vec<String>,

    /// Stop after this many hits in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "dry_run")]
    limit: Option<u64>,

    /// Stop after this time (30s, 2m); 0: never.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "0")]
    timeout: Duration,

    /// One JSON object a line: attached, hit, stats, detached, error.
    #[arg(long)]
    json: bool,

    /// What all of it may cost, in percent of one core; 0: no limit. Past it, a location captures arguments only, then
    /// counts only, then is disarmed.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    budget: f64,

    #[command(flatten)]
    options: CaptureArguments,

    #[command(flatten)]
    redaction: RedactionArguments,
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100_000.0).contains(&percent) => Ok(percent),
        _ => Err(String::from("percent of one core: a number like 5 or 0.5; 0 for no limit")),
    }
}

/// A program of the targets, known to the tracer.
struct Program {
    target: Target,
    image: ImageId,
}

/// Runs the command.
///
/// # Errors
///
/// The target or a location can't be bound, or the kernel side can't be loaded.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let interrupted = Interrupted::listen()?;
    let parse =
        |text: &String| text.parse::<LocationRequest>().map_err(|error| Failure::new(Exit::Usage, error));
    let locations = arguments.locations.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if arguments.options.returns {
        check_returns(&locations)?;
    }
    let (captures, computed) = captures(&arguments.options.capture)?;
    let message = arguments.options.message.as_deref().map(parse_template).transpose();
    let message = message.map_err(|error| Failure::new(Exit::Usage, format!("--message: {error}")))?;
    let expressions = Expressions { computed, message };
    let rules = arguments.redaction.rules()?;

    let when = arguments.options.when.as_deref().map(condition).transpose()?;
    let wanted: Vec<Wanted> = locations
        .into_iter()
        .map(|location| Wanted {
            captures: captures.clone(),
            when: when.clone(),
            expressions: expressions.clone(),
            globals: arguments.options.globals,
            returns: arguments.options.returns,
            limits: arguments.options.limits(),
            sites: SiteChoice::of_flag(arguments.options.at_line_start),
            ..Wanted::at(location)
        })
        .collect();
    let progress = Progress::start();
    // The kernel side loads while the programs are found and read and the locations are planned: each takes some ten
    // milliseconds.
    let (kernel, planner, programs, requests) = std::thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            let known = kernel_options(&Cache::of_user());
            let open_calls =
                if arguments.options.returns { limits::MAX_OPEN_CALLS } else { known.open_calls };
            let max_tracepoints = max_tracepoints(arguments);
            let sent_stacks = if arguments.options.stack == 0 { 1 } else { known.sent_stacks };
            Kernel::load(&KernelOptions {
                max_tracepoints,
                open_calls,
                sent_stacks,
                conditions: arguments.options.when.is_some(),
                calls: arguments.options.returns,
                ..known
            })
        });
        let mut planner = Planner::default();
        let programs: Vec<Program> = arguments
            .target
            .resolve()?
            .into_iter()
            .map(|target| {
                let image = planner.add_image(target.load(&arguments.target, &progress).redacted(&rules));
                Program { target, image }
            })
            .collect();
        let requests = requests(&mut planner, &programs, &wanted, arguments);
        Ok::<_, Failure>((kernel.join(), planner, programs, requests))
    })?;
    // Without privileges nothing works, whatever the location.
    let kernel = match kernel {
        Ok(kernel) => kernel.map_err(kernel_failure)?,
        Err(_) => return Err(Failure::new(Exit::Failure, "loading the kernel side ended unexpectedly")),
    };
    let requests = requests?;
    let tracer = Tracer::start(kernel, planner).map_err(kernel_failure)?;
    drop(progress);

    let mut session = Session {
        tracer,
        arguments,
        printer: Printer {
            json: arguments.json,
            output: Stream::start()?,
            text: TextOptions {
                utc_offset_seconds: utc_offset_seconds(),
                show_host: false,
                max_value_chars: Some(MAX_VALUE_CHARS),
            },
            printed: 0,
            reader: Reader::There,
        },
        armed: Vec::new(),
        warned: HashSet::new(),
    };
    for request in requests {
        session.arm(request)?;
    }
    let processes: Vec<Process> = programs
        .iter()
        .filter(|program| !program.target.all)
        .flat_map(|program| program.target.processes.clone())
        .collect();
    // What ended between the first look and now never gives a hit.
    if let Some(gone) = processes.first()
        && processes.iter().all(Process::has_ended)
        && !session.has_hits()?
    {
        return Err(Failure::unbound(format!("process {} ended before it was armed", gone.pid)));
    }
    let reason = session.follow(&interrupted, &processes)?;
    session.finish(reason)
}

/// What `--capture` names.
/// Paths of variables, and what is computed of such.
pub(super) fn captures(texts: &[String]) -> Result<(Vec<PathExpression>, Vec<ParsedExpr>), Failure> {
    parse_captures(texts).map_err(|error| Failure::new(Exit::Usage, format!("--capture: {error}")))
}

/// How many tracepoints the command can have: one for each location in each program.
fn max_tracepoints(arguments: &Arguments) -> u32 {
    let target = &arguments.target;
    let programs = if target.exe.is_some() { 1 } else { target.pid.len().max(MAX_PROGRAMS) };
    let all = arguments.locations.len().saturating_mul(programs);
    u32::try_from(all).unwrap_or(u32::MAX).clamp(1, limits::MAX_TRACEPOINTS)
}

/// Returns are those of a function: a line is no call that could end.
pub(super) fn check_returns(locations: &[LocationRequest]) -> Result<(), Failure> {
    match locations.iter().find(|location| !matches!(location, LocationRequest::Function { .. })) {
        None => Ok(()),
        Some(location) => Err(Failure::new(
            Exit::Usage,
            format!(
                "--return needs functions, and {location} is none; name the function (pkg.Func, 'pkg.(*T).Method'), or \
                 trace the line without --return"
            ),
        )),
    }
}

/// Plans every location in every program that has it.
fn requests(
    planner: &mut Planner,
    programs: &[Program],
    wanted: &[Wanted],
    arguments: &Arguments,
) -> Result<Vec<Request>, Failure> {
    let mut requests = Vec::new();
    for (wanted, text) in wanted.iter().zip(&arguments.locations) {
        let mut failures = Vec::new();
        let mut bound: Vec<&Program> = Vec::new();
        for program in programs {
            match planner.plan(program.image, wanted) {
                Ok(planned) => {
                    bound.push(program);
                    requests.push(Request {
                        id: Arc::from(format!("t_{}", requests.len() + 1)),
                        requested: text.clone(),
                        image: program.image,
                        attach_path: program.target.attach_path.clone(),
                        plans: planned.plans,
                        processes: program.target.scope(),
                        limits: wanted.limits,
                        rate_per_second: arguments.options.rate,
                        limit: arguments.limit.unwrap_or(0),
                        limit_with: None,
                        sample: arguments.options.sample,
                        dry_run: arguments.options.dry_run,
                        stack_frames: arguments.options.stack,
                        wanted: wanted.clone(),
                        warnings: planned.warnings,
                    });
                }
                Err(failure) => failures.push((program, failure)),
            }
        }
        match bound.as_slice() {
            [] => return Err(Failure::unbound(not_bound(&failures, text) + &plugins(&failures))),
            [_] => {}
            // Nobody said which: more than one program has such a line.
            many if !arguments.target.is_given() => {
                let candidates = many.iter().map(|program| describe(&program.target)).collect::<Vec<_>>();
                let message = format!(
                    "{text} is in {} running programs: {}; say which with --pid, --exe or --name",
                    many.len(),
                    list(candidates.into_iter())
                );
                return Err(Failure::unbound(message));
            }
            _ => {}
        }
    }
    Ok(requests)
}

fn describe(target: &Target) -> String {
    let pids = target.processes.iter().map(|process| process.pid.to_string()).collect::<Vec<_>>();
    let name = target.processes.first().map_or("", |process| process.name.as_str());
    format!("{name} (pid {})", pids.join(", "))
}

/// Of several programs that don't have the location, what is the most telling.
fn not_bound(failures: &[(&Program, PlanFailure)], text: &str) -> String {
    match failures {
        [(_, only)] => only.to_string(),
        [] => format!("no program to look for {text} in"),
        many => {
            let reasons: Vec<String> = many
                .iter()
                .map(|(program, failure)| format!("{}: {failure}", describe(&program.target)))
                .collect();
            format!("{text} is in none of {} programs:\n  {}", many.len(), reasons.join("\n  "))
        }
    }
}

/// Reads a condition.
pub(super) fn condition(text: &str) -> Result<ParsedExpr, Failure> {
    ParsedExpr::parse(text.trim()).map_err(|error| Failure::new(Exit::Usage, format!("--when: {error}")))
}

/// What is not found may be in a plugin, which is a binary of its own.
fn plugins(failures: &[(&Program, PlanFailure)]) -> String {
    let missing = |failure: &PlanFailure| {
        matches!(
            failure,
            PlanFailure::Location(LocationError::NoFile { .. } | LocationError::NoFunction { .. })
        )
    };
    let processes = failures
        .iter()
        .filter(|(_, failure)| missing(failure))
        .filter_map(|(program, _)| program.target.processes.first());
    let mut files: Vec<PathBuf> = processes.flat_map(Process::loaded_go_files).collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return String::new();
    }
    format!(
        "; the process has also loaded {} (-buildmode=plugin or c-shared): RipTrace does not trace plugins",
        list(files.iter().map(|file| file.display()))
    )
}

pub(super) fn kernel_failure(error: ProbeError) -> Failure {
    let exit = if error.is_missing_ability() { Exit::Unable } else { Exit::Failure };
    Failure::new(exit, error)
}

/// Why following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Limit,
    Timeout,
    Interrupted,
    ProcessesEnded,
    ReaderGone,
    Budget,
}

struct Session<'a> {
    tracer: Tracer,
    arguments: &'a Arguments,
    printer: Printer,
    armed: Vec<TracepointId>,
    /// Warnings that were shown.
    warned: HashSet<String>,
}

impl Session<'_> {
    fn arm(&mut self, mut request: Request) -> Result<(), Failure> {
        // The limit is one for all locations.
        request.limit_with = self.armed.first().copied();
        let (id, attached) = self.tracer.arm(request).map_err(kernel_failure)?;
        self.armed.push(id);
        if self.arguments.json {
            self.printer.print(&Event::Attached(attached))?;
        } else {
            // Of a program without debug data the same is to be said at each location: once is enough.
            let mut shown = attached;
            shown.warnings.retain(|warning| self.warned.insert(warning.clone()));
            note(&render::text::attached(&shown));
        }
        self.printer.flush()?;
        Ok(())
    }

    /// Whether any location was executed since it was armed.
    fn has_hits(&self) -> Result<bool, Failure> {
        for id in &self.armed {
            if self.tracer.stats(*id).map_err(kernel_failure)?.hits > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn follow(&mut self, interrupted: &Interrupted, processes: &[Process]) -> Result<End, Failure> {
        let begin = Instant::now();
        let mut last_check = begin;
        let deadline = Some(self.arguments.timeout).filter(|timeout| !timeout.is_zero());
        let deadline = deadline.and_then(|timeout| begin.checked_add(timeout));
        let past_deadline = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if let Err(error) = self.tracer.measure_trap_cost() {
            tracing::warn!(%error, "the cost of a trap can't be measured here; an upper bound is assumed");
        }
        if self.arguments.budget > 0.0 {
            self.tracer.set_budget(Some(self.arguments.budget / 100.0));
        }
        loop {
            self.keep_within_budget()?;
            let since_budget = Instant::now();
            if self.tracer.is_budget_exhausted() {
                return Ok(End::Budget);
            }
            // What is not printed by then is printed in the next round.
            let is_due = || since_budget.elapsed() >= DRAIN_INTERVAL;
            let had_all = self.poll(&|| interrupted.is_set() || past_deadline() || is_due())?;
            if self.limit_reached() {
                return Ok(End::Limit);
            }
            if self.printer.reader == Reader::Gone {
                return Ok(End::ReaderGone);
            }
            if interrupted.is_set() {
                return Ok(End::Interrupted);
            }
            if past_deadline() {
                return Ok(End::Timeout);
            }
            if last_check.elapsed() >= PROCESS_CHECK_INTERVAL {
                last_check = Instant::now();
                if !processes.is_empty() && processes.iter().all(Process::has_ended) {
                    return Ok(End::ProcessesEnded);
                }
            }
            if had_all || !self.printer.output.has_room() {
                std::thread::sleep(DRAIN_INTERVAL);
            }
        }
    }

    fn keep_within_budget(&mut self) -> Result<(), Failure> {
        for event in self.tracer.watch_cost() {
            self.printer.print(&event)?;
        }
        Ok(())
    }

    fn limit_reached(&self) -> bool {
        self.arguments.limit.is_some_and(|limit| self.printer.printed >= limit)
    }

    /// Prints what there is, until it is time to end. Whether that was all.
    fn poll(&mut self, is_over: &dyn Fn() -> bool) -> Result<bool, Failure> {
        let Self { tracer, printer, .. } = self;
        printer.all(|sink| tracer.poll(sink), is_over)
    }

    /// Disarms, prints what is left, and the counters.
    fn finish(mut self, end: End) -> Result<Exit, Failure> {
        for id in self.armed.clone() {
            self.tracer.stop(id).map_err(kernel_failure)?;
        }
        let Self { tracer, printer, .. } = &mut self;
        let stopped = Instant::now();
        let is_over = || stopped.elapsed() >= FINISH_WITHIN;
        while !printer.all(|sink| tracer.poll_all(sink), &is_over)?
            && printer.reader == Reader::There
            && !is_over()
        {
            std::thread::sleep(DRAIN_INTERVAL / 2);
        }
        tracer.discard();
        let reason = match end {
            End::Limit => DetachReason::Limit,
            End::Timeout => DetachReason::Ttl,
            End::Interrupted | End::ReaderGone => DetachReason::Removed,
            End::ProcessesEnded => DetachReason::ProcessExited,
            End::Budget => DetachReason::Budget,
        };
        let mut total = Stats::default();
        for id in std::mem::take(&mut self.armed) {
            let stats = self.tracer.stats(id).map_err(kernel_failure)?;
            total.add(&stats);
            if self.arguments.options.dry_run && !self.arguments.json {
                note(&render::text::price(&stats));
            }
            let detached = self.tracer.remove(id, reason).map_err(kernel_failure)?;
            if self.arguments.json {
                self.printer.print(&Event::Stats(stats))?;
                if let Some(detached) = detached {
                    self.printer.print(&Event::Detached(detached))?;
                }
            }
        }
        self.printer.reader = self.printer.output.finish();
        if end == End::ProcessesEnded {
            note("riptrace: every traced process ended\n");
        }
        note(&render::text::stats(&total));
        if let Some(error) = self.printer.output.failure() {
            let message = format!(
                "cannot write to standard output: {error}; the output is incomplete, the counters are the kernel's"
            );
            return Err(Failure::new(Exit::Failure, message));
        }
        let seen = if self.arguments.options.dry_run { total.hits } else { self.printer.printed };
        Ok(if seen > 0 || end == End::ReaderGone { Exit::Ok } else { Exit::NoHit })
    }
}

/// Writes events to the terminal or the pipe.
struct Printer {
    json: bool,
    output: Stream,
    text: TextOptions,
    /// Hits handed to the output.
    printed: u64,
    reader: Reader,
}

impl Printer {
    /// Prints each event as it comes, so that no more than one is held, until it is time to end, nobody reads, or the
    /// reader is not as fast. Whether that was all.
    fn all(
        &mut self,
        source: impl FnOnce(&mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()>,
        is_over: &dyn Fn() -> bool,
    ) -> Result<bool, Failure> {
        self.flush()?;
        if !self.can_go_on() {
            return Ok(false);
        }
        let mut failure = None;
        let end = source(&mut |event| match self.print(&event) {
            Ok(()) if self.can_go_on() && !is_over() => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.flush()?;
        Ok(end.is_continue())
    }

    /// There is a reader, and room for what comes next.
    fn can_go_on(&self) -> bool {
        self.reader == Reader::There && self.output.has_room()
    }

    fn print(&mut self, event: &Event) -> Result<(), Failure> {
        if matches!(event, Event::Hit(_)) {
            self.printed += 1;
        }
        self.reader = match (self.json, event) {
            (true, event) => self.output.text(&render::json::line(event)),
            (false, Event::Hit(hit)) => self.output.text(&render::text::hit(hit, &self.text)),
            (false, event) => {
                note(&render::text::event(event, &self.text));
                self.reader
            }
        };
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.reader = self.output.flush();
        Ok(())
    }
}
