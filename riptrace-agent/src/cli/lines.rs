//! `riptrace lines`: which lines of a source file can carry a tracepoint, and which variables are readable there.

use std::collections::BTreeSet;

use clap::Args;
use riptrace_common::wire::{control::Line, event::VariableInfo};
use serde::Serialize;

use super::{
    Exit, Failure,
    output::{Output, Reader},
    progress::Progress,
    signals::Interrupted,
    target::TargetArguments,
};
use crate::trace::{Image, inspect};

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
    sites: u32,
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
            for line in inspect::lines(&image, &file, batch) {
                let row = row(&file, line);
                let reader = if arguments.json { output.json(&row)? } else { output.line(&text(&row))? };
                if reader == Reader::Gone {
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
    let Some(file) = inspect::the_file(image, wanted).map_err(Failure::unbound)? else { return Ok(None) };
    let lines = image.lines_with_code(&file).map_err(Failure::unbound)?;
    Ok(Some((file, lines)))
}

fn row(file: &str, line: Line) -> Row {
    let Line { line, functions, sites, fast: _, variables, problem } = line;
    Row { file: file.to_owned(), line, sites, functions, variables, error: problem }
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
