//! `riptrace hosts`: the hosts of the fleet.

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use riptrace_common::wire::api::{Host, HostStatus};

use super::{
    Exit, Failure,
    output::{Output, note},
    server::ServerArguments,
};

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
            output.line(&serde_json::to_string(host).map_err(|error| Failure::new(Exit::Failure, error))?)?;
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
        let losses = &host.losses;
        let lost = losses.total();
        let clock =
            host.clock.map_or_else(|| "unknown".to_owned(), |clock| milliseconds(clock.uncertainty_ns));
        table.add_row([
            host.facts.host.clone(),
            match host.status {
                HostStatus::Alive => "alive".to_owned(),
                HostStatus::Silent => "silent".to_owned(),
            },
            host.processes.to_string(),
            host.tracepoints.to_string(),
            host.hits.to_string(),
            lost.to_string(),
            clock,
            format!("{:.1} %, {} MiB", host.agent_share_of_core * 100.0, host.agent_resident_bytes >> 20),
            host.facts.kernel.clone(),
        ]);
    }
    lines(&table)
}

/// `±0.12 ms`.
pub(super) fn milliseconds(uncertainty_ns: u64) -> String {
    let hundredths = uncertainty_ns.div_ceil(10_000);
    format!("±{}.{:02} ms", hundredths / 100, hundredths % 100)
}

/// A table without lines.
pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Its text, without white space at the ends of lines.
pub(super) fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
