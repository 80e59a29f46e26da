//! What a program offers: which lines of a file can carry a tracepoint and which variables are readable there, its
//! functions, its source files.

use std::{collections::BTreeSet, num::NonZero, panic::resume_unwind};

use riptrace_common::wire::{
    control::{FunctionInfo, Line},
    event::VariableInfo,
};

use super::{Image, Wanted, plan_alone, planning::package_of};
use crate::{golang::pclntab::path_matches, plan::sites::LocationRequest};

/// Files that a message names.
const MAX_NAMED: usize = 10;

/// The one source file that ends so; `None`: there is none.
///
/// # Errors
///
/// Several do.
pub fn the_file(image: &Image, suffix: &str) -> Result<Option<String>, String> {
    let files = image.files_matching(suffix);
    match files.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        many => {
            let more = many.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let shown = many.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            Err(format!("{suffix} matches {} files: {shown}{more}; give a longer suffix", many.len()))
        }
    }
}

/// The source files that a line table names, sorted.
#[must_use]
pub fn files(image: &Image) -> Vec<String> {
    let mut files: Vec<String> = match &image.debug {
        Some(debug) => debug.files().map(str::to_owned).collect(),
        None => image
            .executable
            .pclntab()
            .map_or_else(|_| Vec::new(), |table| table.files().map(str::to_owned).collect()),
    };
    files.sort_unstable();
    files.dedup();
    files
}

/// What would be armed on some lines of a file, by as many threads as there are processors: a large file has thousands of
/// lines, and each is planned as if it were to be armed.
#[must_use]
pub fn lines(image: &Image, file: &str, lines: &[u32]) -> Vec<Line> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = lines.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let shares: Vec<_> = lines
            .chunks(share)
            .map(|share| {
                scope.spawn(move || share.iter().map(|&line| one_line(image, file, line)).collect::<Vec<_>>())
            })
            .collect();
        let done =
            shares.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

fn one_line(image: &Image, file: &str, number: u32) -> Line {
    let mut line = Line::at(number);
    let planned = format!("{file}:{number}")
        .parse::<LocationRequest>()
        .map_err(|error| error.to_string())
        .and_then(|location| plan_alone(image, &Wanted::at(location)).map_err(|error| error.to_string()));
    match planned {
        Ok(planned) => {
            line.fast = true;
            for plan in planned.plans.into_iter().filter(|plan| !plan.is_internal()) {
                line.sites = line.sites.saturating_add(1);
                line.fast &= plan.info.fast;
                let function = plan.location.function.to_string();
                if !line.functions.contains(&function) {
                    line.functions.push(function);
                }
                merge(&mut line.variables, plan.info.variables);
            }
        }
        Err(error) => line.problem = Some(error),
    }
    line
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

/// The functions that have code of their own, by file and line: those of a file (or the end of its path), of a package (its
/// import path, or the end of it), or all.
///
/// # Errors
///
/// The program has no table of functions.
pub fn functions(
    image: &Image,
    file: Option<&str>,
    package: Option<&str>,
) -> Result<Vec<FunctionInfo>, String> {
    let table = image.executable.pclntab().map_err(|error| error.to_string())?;
    let mut found: BTreeSet<(String, u32, String)> = BTreeSet::new();
    for function in table.functions() {
        let name = function.name();
        if package.is_some_and(|package| !path_matches(package_of(name), package)) {
            continue;
        }
        let Some(in_file) = function.file() else { continue };
        if file.is_some_and(|file| !path_matches(in_file, file)) {
            continue;
        }
        // Before Go 1.20 the table does not say where a function begins.
        let line = match function.start_line() {
            0 => function.line_at(function.entry).unwrap_or(0),
            line => line,
        };
        found.insert((in_file.to_owned(), line, name.to_owned()));
    }
    Ok(found.into_iter().map(|(file, line, name)| FunctionInfo { name, file, line }).collect())
}
