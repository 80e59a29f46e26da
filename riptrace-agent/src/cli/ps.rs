//! `riptrace ps`: the Go processes of this machine.

use clap::Args;
use serde::Serialize;

use super::{
    Exit, Failure,
    output::{Output, note},
    table::{lines, plain_table},
};
use crate::binary::{
    DebugOptions, Executable,
    process::{self, Process},
};

/// Options of `riptrace ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  riptrace ps\n  riptrace ps --json | jq -r 'select(.debug_data) | .pid'")]
pub struct Arguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// A Go process.
#[derive(Debug, Serialize)]
struct Row {
    pid: u32,
    name: String,
    exe: String,
    go: Option<String>,
    module: Option<String>,
    version: Option<String>,
    revision: Option<String>,
    modified: bool,
    build_id: Option<String>,
    debug_data: bool,
    debug_data_missing: Option<String>,
    container: Option<String>,
    arguments: Vec<String>,
}

/// Lists them.
///
/// # Errors
///
/// `/proc` can't be read.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let (found, unreadable) = process::all_go()?;
    let rows: Vec<Row> = found.into_iter().map(|(process, executable)| row(process, &executable)).collect();
    let mut output = Output::default();
    if arguments.json {
        for row in &rows {
            output.json(row)?;
        }
    } else if rows.is_empty() {
        note("no Go processes here\n");
    } else {
        output.line(&table(&rows))?;
    }
    output.flush()?;
    if unreadable > 0 {
        note(&format!("{}\n", super::target::not_looked_at(unreadable)));
    }
    Ok(Exit::Ok)
}

fn row(process: Process, executable: &Executable) -> Row {
    let info = executable.build_info();
    let setting = |key: &str| info.and_then(|info| info.setting(key)).map(str::to_owned);
    let mut options = DebugOptions::from_environment(None);
    options.found_at = process.found_at();
    let debug = executable.debug_status(&options);
    let main = info.and_then(|info| info.main.as_ref());
    Row {
        pid: process.pid,
        name: process.name,
        exe: process.exe.display().to_string(),
        go: info.map(|info| info.go_version.clone()),
        module: main.map(|module| module.path.clone()),
        version: main.map(|module| module.version.clone()),
        revision: setting("vcs.revision"),
        modified: setting("vcs.modified").as_deref() == Some("true"),
        build_id: executable.build_id().map(str::to_owned),
        debug_data: debug.is_ok(),
        debug_data_missing: debug.err().map(|error| error.to_string()),
        container: process.container,
        arguments: process.command_line,
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = plain_table();
    table.set_header(["PID", "NAME", "GO", "MODULE", "VERSION", "REVISION", "DEBUG DATA", "CONTAINER"]);
    for row in rows {
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| String::from("-"));
        let short = |text: &Option<String>| {
            text.as_ref().map_or_else(|| String::from("-"), |text| text.chars().take(12).collect::<String>())
        };
        let revision = short(&row.revision) + if row.modified { "+" } else { "" };
        let debug = if row.debug_data { "yes" } else { "no (see --json)" };
        table.add_row([
            row.pid.to_string(),
            row.name.clone(),
            shown(&row.go),
            shown(&row.module),
            shown(&row.version),
            revision,
            debug.to_owned(),
            short(&row.container),
        ]);
    }
    lines(&table)
}
