//! `riptrace hosts`: the hosts of the fleet.

use clap::Args;
use riptrace_common::wire::api::{Host, HostStatus};

use super::{
    Exit, Failure,
    output::{Output, note},
    server::ServerArguments,
    table::{lines, plain_table},
};
use crate::render::text::uncertainty;

/// Options of `riptrace hosts`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  riptrace hosts\n  riptrace hosts --json | jq -r 'select(.status == \"silent\") | .facts.host'"
)]
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
    let hosts = arguments.server.client().hosts()?;
    let mut output = Output::default();
    if arguments.json {
        for host in &hosts {
            output.json(host)?;
        }
    } else if hosts.is_empty() {
        note("no agent was heard of; start one on each host: riptrace agent --nats URL\n");
    } else {
        output.line(&table(&hosts))?;
        for host in &hosts {
            for problem in &host.problems {
                note(&format!("{}: {problem}\n", host.facts.host));
            }
        }
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn table(hosts: &[Host]) -> String {
    let mut table = plain_table();
    table.set_header([
        "HOST",
        "STATUS",
        "PROCESSES",
        "TRACEPOINTS",
        "HITS",
        "LOST",
        "CLOCK",
        "AGENT",
        "KERNEL",
    ]);
    for host in hosts {
        let clock =
            host.clock.map_or_else(|| "unknown".to_owned(), |clock| uncertainty(clock.uncertainty_ns));
        table.add_row([
            host.facts.host.clone(),
            match host.status {
                HostStatus::Alive => "alive".to_owned(),
                HostStatus::Silent => "silent".to_owned(),
            },
            host.processes.to_string(),
            host.tracepoints.to_string(),
            host.hits.to_string(),
            host.losses.total().to_string(),
            clock,
            format!("{:.1} %, {} MiB", host.agent_share_of_core * 100.0, host.agent_resident_bytes >> 20),
            host.facts.kernel.clone(),
        ]);
    }
    lines(&table)
}
