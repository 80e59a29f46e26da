//! The share of a program's line entries that can be armed at an instruction that the kernel emulates.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Report, start, table::Goal};
use crate::sh;

pub(super) const SAYS: &str =
    "line entries of a program (cmd/go) that are armed at an instruction which the kernel emulates";

const CHOSEN: &str = "line entries with a fast site, all variables intact";
const WITHOUT_BRANCHES: &str = "the same without branches that may lead elsewhere";

/// `binary`: cmd/go where it is not given.
pub(super) fn measure(binary: Option<&Path>, every: usize) -> Result<Report> {
    let given: Option<PathBuf> = binary.map(Path::to_path_buf);
    let file = given.map_or_else(start::cmd_go, Ok)?;
    // It needs the library, which this crate may not depend on.
    let mut command = sh::command("cargo");
    command.args(["run", "--release", "--quiet", "--package", "riptrace-agent", "--example", "sites", "--"]);
    let text = sh::output(command.arg(&file).arg(every.to_string()))?;
    println!("{text}");
    let mut report = Report::default();
    let first = text.lines().next().unwrap_or_default();
    let (start, chosen, without_branches) =
        shares(first).with_context(|| format!("the example `sites` said something else: {first}"))?;
    report.row("line entries that are emulated as they are", "%", None, vec![start]);
    report.row(CHOSEN, "%", None, vec![chosen]);
    report.row(WITHOUT_BRANCHES, "%", None, vec![without_branches]);
    if binary.is_none() {
        report.goals.push((CHOSEN.to_owned(), Goal::AtLeast(85.0)));
    }
    Ok(report)
}

/// `N entries of M lines: A % emulated as they are, B % at the chosen instructions, C % without branches
/// that may lead elsewhere`.
fn shares(line: &str) -> Option<(f64, f64, f64)> {
    let mut percents = line.split(" %").filter_map(|part| part.rsplit(' ').next()?.parse::<f64>().ok());
    Some((percents.next()?, percents.next()?, percents.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        let line = "8943 entries of 5336 lines: 11.5 % emulated as they are, 65.1 % at the chosen instructions, \
                    60.5 % without branches that may lead elsewhere";
        assert_eq!(shares(line), Some((11.5, 65.1, 60.5)));
        assert_eq!(shares("nothing"), None);
    }
}
