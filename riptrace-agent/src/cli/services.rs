//! `riptrace services`: the services of the fleet and their instances.

use clap::Args;

use super::{
    Exit, Failure,
    output::{Output, note},
    server::ServerArguments,
    table::{lines, plain_table},
};

/// Options of `riptrace services`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  riptrace services\n  riptrace services --json | jq -r .name")]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Lists them.
///
/// # Errors
///
/// The server can't be asked.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let services = arguments.server.client().services()?;
    let mut output = Output::default();
    if arguments.json {
        for service in &services {
            output.json(service)?;
        }
    } else if services.is_empty() {
        note("no Go process is known; riptrace hosts says which agents were heard of\n");
    } else {
        let mut table = plain_table();
        table.set_header(["SERVICE", "HOST", "PID", "NAME", "GO", "VERSION", "REVISION", "PROBLEM"]);
        for service in &services {
            for instance in &service.instances {
                let process = &instance.process;
                let short = |text: &Option<String>| {
                    text.as_ref().map_or_else(|| "-".to_owned(), |text| text.chars().take(12).collect())
                };
                let modified = if process.vcs_modified == Some(true) { "+" } else { "" };
                table.add_row([
                    service.name.clone(),
                    instance.host.clone(),
                    process.pid.to_string(),
                    process.name.clone(),
                    process.go_version.clone().unwrap_or_else(|| "-".to_owned()),
                    process.module_version.clone().unwrap_or_else(|| "-".to_owned()),
                    short(&process.vcs_revision) + modified,
                    process.problem.clone().unwrap_or_else(|| "-".to_owned()),
                ]);
            }
        }
        output.line(&lines(&table))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}
