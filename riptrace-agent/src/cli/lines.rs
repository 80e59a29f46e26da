//! `riptrace lines`: which lines of a source file can carry a tracepoint, and which variables are readable there.

use std::{collections::BTreeSet, num::NonZero, panic::resume_unwind};

use clap::Args;
use riptrace_common::wire::event::VariableInfo;
use serde::Serialize;

use super::{
    Exit, Failure,
    output::{Output, Reader},
    progress::Progress,
    signals::Interrupted,
    target::TargetArguments,
};
use crate::{
    plan::{CaptureLimits, sites::LocationRequest},
    trace::{Expressions, Image, SiteChoice, Wanted, plan_alone},
};

/// Options of `riptrace lines`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  riptrace lines handler.go --name orders\n  riptrace lines orders/handler.go --exe ./orders --json"
)]
pub struct Arguments {
    /// The source file, or the end of its path.
    #[arg(value_name = "FILE")]
    file: String,

    #[command(flatten)]
    target: TargetArguments,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Lines that are worked on before their rows are printed.
const BATCH: usize = 256;

/// A line that can carry a tracepoint.
#[derive(Debug, Serialize)]
struct Row {
    file: String,
    line: u32,
    sites: usize,
    functions: Vec<String>,
    variables: Vec<VariableInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints the lines.
///
/// # Errors
///
/// No program has the file.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let interrupted = Interrupted::listen()?;
    let progress = Progress::start();
    let mut output = Output::default();
    let mut found = false;
    for target in arguments.target.resolve()? {
        let image = target.load(&arguments.target, &progress);
        let Some((file, lines)) = lines_of(&image, &arguments.file)? else { continue };
        found = true;
        let lines: Vec<u32> = lines.into_iter().collect();
        for batch in lines.chunks(BATCH) {
            for row in rows(&image, &file, batch) {
                let text = if arguments.json {
                    serde_json::to_string(&row).map_err(|error| Failure::new(Exit::Failure, error))?
                } else {
                    text(&row)
                };
                if output.line(&text)? == Reader::Gone {
                    return Ok(Exit::Ok);
                }
            }
            if interrupted.is_set() {
                return Ok(Exit::Ok);
            }
        }
        if !arguments.target.is_given() {
            break;
        }
    }
    output.flush()?;
    if found {
        Ok(Exit::Ok)
    } else {
        Err(Failure::unbound(format!(
            "no source file ends with {}; see riptrace ps for the programs here",
            arguments.file
        )))
    }
}

/// The one file that is meant, and its lines that have code.
fn lines_of(image: &Image, wanted: &str) -> Result<Option<(String, BTreeSet<u32>)>, Failure> {
    let files = image.files_matching(wanted);
    let file = match files.as_slice() {
        [] => return Ok(None),
        [only] => only.clone(),
        many => {
            let shown = super::target::list(many.iter());
            let message = format!("{wanted} matches {} files: {shown}; give a longer suffix", many.len());
            return Err(Failure::unbound(message));
        }
    };
    let lines = image.lines_with_code(&file).map_err(Failure::unbound)?;
    Ok(Some((file, lines)))
}

/// The rows of some lines, by as many threads as there are processors: a large file has thousands of lines, and each is
/// planned as if it were to be armed.
fn rows(image: &Image, file: &str, lines: &[u32]) -> Vec<Row> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = lines.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let shares: Vec<_> = lines
            .chunks(share)
            .map(|share| {
                scope.spawn(move || share.iter().map(|&line| row(image, file, line)).collect::<Vec<_>>())
            })
            .collect();
        let done =
            shares.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

fn row(image: &Image, file: &str, line: u32) -> Row {
    let mut row = Row {
        file: file.to_owned(),
        line,
        sites: 0,
        functions: Vec::new(),
        variables: Vec::new(),
        error: None,
    };
    let planned = format!("{file}:{line}")
        .parse::<LocationRequest>()
        .map_err(|error| error.to_string())
        .and_then(|location| {
            let wanted = Wanted {
                location,
                captures: Vec::new(),
                when: None,
                expressions: Expressions::default(),
                globals: false,
                returns: false,
                arguments_only: false,
                limits: CaptureLimits::default(),
                sites: SiteChoice::Best,
                edge: None,
            };
            plan_alone(image, &wanted).map_err(|error| error.to_string())
        });
    match planned {
        Ok(planned) => {
            row.sites = planned.plans.len();
            for plan in planned.plans {
                let function = plan.location.function.to_string();
                if !row.functions.contains(&function) {
                    row.functions.push(function);
                }
                merge(&mut row.variables, plan.info.variables);
            }
        }
        Err(error) => row.error = Some(error),
    }
    row
}

/// A variable that is readable at one site of the line and not at another is shown as at the worst.
fn merge(all: &mut Vec<VariableInfo>, of_site: Vec<VariableInfo>) {
    for variable in of_site {
        match all.iter_mut().find(|known| known.name == variable.name) {
            Some(known) if known.unavailable.is_none() => *known = variable,
            Some(_) => {}
            None => all.push(variable),
        }
    }
}

fn text(row: &Row) -> String {
    if let Some(error) = &row.error {
        return format!("{:>6}  {error}", row.line);
    }
    let readable: Vec<&str> =
        row.variables.iter().filter(|v| v.unavailable.is_none()).map(|v| &*v.name).collect();
    let not: Vec<String> = row
        .variables
        .iter()
        .filter_map(|v| v.unavailable.map(|why| format!("{} ({})", v.name, crate::render::text::reason(why))))
        .collect();
    let mut text = format!("{:>6}  {}", row.line, readable.join(", "));
    if !not.is_empty() {
        text += &format!("   not readable: {}", not.join(", "));
    }
    if row.sites > 1 {
        text += &format!("   [{} sites]", row.sites);
    }
    text.trim_end().to_owned()
}
