//! `riptrace explain`: everything that is known of a location before it is armed.

use std::fmt::Write as _;

use clap::Args;
use riptrace_common::{
    abi::program::{
        ACTION_EMPTY_INTERFACE, ACTION_FOLLOW, ACTION_FUNC, ACTION_INTERFACE, Slot, WINDOW_IMAGE,
        WINDOW_IMAGE_ADDRESS, WINDOW_STACK, Window,
    },
    wire::{
        event::{SiteInfo, Trigger},
        number::Address,
    },
};
use serde::Serialize;

use super::{
    Exit, Failure, options::expression, output::Output, probe, progress::Progress,
    redaction::RedactionArguments, target::TargetArguments,
};
use crate::{
    plan::{
        SitePlan,
        cost::capture_ns,
        fast::{Candidate, Verdict},
        sites::LocationRequest,
    },
    render,
    trace::{Expressions, SiteChoice, Wanted, plan_alone},
};

/// Cost of a trap whose instruction the kernel emulates, and of one that it single-steps, in nanoseconds: medians of a
/// virtual machine (docs/performance.md); on bare metal both are lower.
const FAST_TRAP_NS: u64 = 700;
const SLOW_TRAP_NS: u64 = 12_000;
/// Options of `riptrace explain`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  riptrace explain handler.go:42 --name orders")]
pub struct Arguments {
    /// Where: file.go:LINE, a function, a method, or *ADDRESS.
    #[arg(value_name = "LOCATION")]
    location: String,

    #[command(flatten)]
    target: TargetArguments,

    /// Only this variable or field path (repeatable), as for riptrace probe.
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true, value_parser = expression)]
    capture: Vec<String>,

    /// The package variables of the location's package too.
    #[arg(long)]
    globals: bool,

    /// The function's returns too.
    #[arg(long = "return")]
    returns: bool,
    /// Say what arming the line's first instruction would do.
    #[arg(long)]
    at_line_start: bool,

    /// A condition, as for probe: prints what the kernel side would execute, and where its operands come from.
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true, value_parser = expression)]
    when: Option<String>,

    /// One JSON object a program.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    redaction: RedactionArguments,
}

#[derive(Debug, Serialize)]
struct Explanation {
    location: String,
    executable: String,
    sites: Vec<SiteExplanation>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SiteExplanation {
    #[serde(flatten)]
    info: SiteInfo,
    cfa_from_sp: Option<i32>,
    operations: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<ConditionExplanation>,
    estimated_hit_ns: u64,
    /// The instructions that run exactly when the line's first one runs, in the order in which they run, and behind them
    /// those on its ways in.
    candidates: Vec<CandidateExplanation>,
}

#[derive(Debug, Serialize)]
struct CandidateExplanation {
    pc: Address,
    instruction: String,
    fast: bool,
    verdict: String,
}

#[derive(Debug, Serialize)]
struct ConditionExplanation {
    operands: Vec<String>,
    steps: Vec<String>,
}

/// Prints what is known.
///
/// # Errors
///
/// The target or the location can't be bound.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let location =
        arguments.location.parse::<LocationRequest>().map_err(|error| Failure::new(Exit::Usage, error))?;
    if arguments.returns {
        probe::check_returns(std::slice::from_ref(&location))?;
    }
    let when = arguments.when.as_deref().map(probe::condition).transpose()?;
    let (captures, computed) = probe::captures(&arguments.capture)?;
    let wanted = Wanted {
        captures,
        expressions: Expressions { computed, message: None },
        when,
        globals: arguments.globals,
        returns: arguments.returns,
        sites: SiteChoice::of_flag(arguments.at_line_start),
        ..Wanted::at(location)
    };
    let rules = arguments.redaction.rules()?;
    let progress = Progress::start();
    let mut output = Output::default();
    let mut failure = None;
    let mut found = 0;
    for target in arguments.target.resolve()? {
        let image = target.load(&arguments.target, &progress).redacted(&rules);
        match plan_alone(&image, &wanted) {
            Ok(planned) => {
                found += 1;
                let explanation = Explanation {
                    location: arguments.location.clone(),
                    executable: image.executable.path().display().to_string(),
                    sites: planned.plans.iter().filter(|plan| !plan.is_internal()).map(explain).collect(),
                    warnings: planned.warnings,
                };
                if arguments.json {
                    output.json(&explanation)?;
                } else {
                    output.line(text(&explanation).trim_end())?;
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    drop(progress);
    output.flush()?;
    match failure {
        Some(error) if found == 0 => Err(Failure::unbound(error)),
        _ => Ok(Exit::Ok),
    }
}

fn explain(plan: &SitePlan) -> SiteExplanation {
    let operations: Vec<String> =
        plan.windows.iter().map(window).chain(plan.root_slots.iter().map(slot)).collect();
    let trap_ns = if plan.info.fast { FAST_TRAP_NS } else { SLOW_TRAP_NS };
    SiteExplanation {
        info: plan.info.clone(),
        cfa_from_sp: plan.cfa_from_sp,
        condition: plan.condition.as_ref().map(|condition| ConditionExplanation {
            operands: condition.operands.clone(),
            steps: condition.listing(),
        }),
        estimated_hit_ns: trap_ns + capture_ns(plan, 0),
        operations,
        candidates: plan.candidates.iter().map(|candidate| explain_candidate(plan, candidate)).collect(),
    }
}

fn explain_candidate(plan: &SitePlan, candidate: &Candidate) -> CandidateExplanation {
    let speed = if candidate.fast { "fast" } else { "single-stepped" };
    let mut verdict = match &candidate.verdict {
        Verdict::Allowed { readable } => format!("{speed}, {readable} of {} readable", plan.variables.len()),
        Verdict::OneOfWays { readable } => {
            format!("{speed}, {readable} of {} readable, one of the ways in", plan.variables.len())
        }
        Verdict::Lacks(name) => format!("{speed}, the line's value of {name} is not there"),
        Verdict::MayChange => format!("{speed}, behind a store that a pointer may lead to"),
        Verdict::OtherWay => format!("{speed}, its other way leads elsewhere"),
        Verdict::NoFrame => "its frame is not known".to_owned(),
        Verdict::Taken => "another site begins there".to_owned(),
    };
    if candidate.link_address == plan.entry_address {
        verdict += ", the line's first";
    }
    if candidate.link_address == plan.link_address {
        verdict += ": taken";
    }
    CandidateExplanation {
        pc: Address(candidate.link_address),
        instruction: candidate.instruction.clone(),
        fast: candidate.fast,
        verdict,
    }
}

fn window(window: &Window) -> String {
    match window.base {
        WINDOW_STACK => format!("copy {} bytes from sp{:+}", window.bytes, window.offset),
        WINDOW_IMAGE => format!("copy {} bytes from {:#x}", window.bytes, window.offset),
        WINDOW_IMAGE_ADDRESS => format!("note the address {:#x}", window.offset),
        _ => format!("note the address sp{:+}", window.offset),
    }
}

fn slot(slot: &Slot) -> String {
    let what = match slot.action {
        ACTION_FOLLOW => "follow the pointer",
        ACTION_INTERFACE | ACTION_EMPTY_INTERFACE => "follow the interface",
        ACTION_FUNC => "follow the func value",
        _ => "follow the word",
    };
    let times = if slot.repeat > 1 { format!(", {} times", slot.repeat) } else { String::new() };
    format!("{what} at +{}{times}", slot.word)
}

fn text(explanation: &Explanation) -> String {
    let mut out = format!("{} in {}\n", explanation.location, explanation.executable);
    for site in &explanation.sites {
        let info = &site.info;
        let how =
            if info.fast { "fast: the kernel emulates it" } else { "single-stepped: costs a second trap" };
        let _ = write!(
            out,
            "\n{} {}:{} {}",
            info.location.pc, info.location.file, info.location.line, info.location.function
        );
        if let Some(outer) = &info.location.inlined_into {
            let _ = write!(out, ", inlined into {outer}");
        }
        out += match info.event {
            Trigger::Return => ", return",
            _ => "",
        };
        let _ = writeln!(out, "\n    instruction  {} ({how})", info.instruction);
        let _ = writeln!(out, "    chosen       {}", info.choice);
        if let Some(cfa) = site.cfa_from_sp {
            let _ = writeln!(out, "    frame        CFA = sp+{cfa}");
        }
        let _ = writeln!(
            out,
            "    cost         about {:.1} µs a hit (estimated)",
            site.estimated_hit_ns as f64 / 1000.0
        );
        out += "    variables\n";
        for variable in &info.variables {
            let why = variable
                .unavailable
                .map_or_else(String::new, |why| format!("  ({})", render::text::reason(why)));
            let _ =
                writeln!(out, "        {} {}  {}{why}", variable.name, variable.type_name, variable.place);
        }
        if site.candidates.len() > 1 {
            out += "    candidates\n";
            for candidate in &site.candidates {
                let _ = writeln!(
                    out,
                    "        {} {}  ({})",
                    candidate.pc, candidate.instruction, candidate.verdict
                );
            }
        }
        out += "    plan\n";
        for operation in &site.operations {
            let _ = writeln!(out, "        {operation}");
        }
        if let Some(condition) = &site.condition {
            out += "    condition\n";
            for operand in &condition.operands {
                let _ = writeln!(out, "        {operand}");
            }
            for (at, step) in condition.steps.iter().enumerate() {
                let _ = writeln!(out, "        {at:>3}  {step}");
            }
        }
    }
    for warning in &explanation.warnings {
        let _ = writeln!(out, "\nwarning: {warning}");
    }
    out
}
