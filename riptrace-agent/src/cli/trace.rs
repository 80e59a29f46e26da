//! `riptrace trace`: a service's lines on every instance, as one story, until Ctrl-C.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use clap::Args;
use riptrace_common::wire::{
    api::{Live, NewSession, SessionStatus},
    control::TracepointStatus,
};

use super::{
    Exit, Failure, duration,
    options::CaptureArguments,
    output::{Reader, note},
    server::ServerArguments,
    session::{on_host, tracepoint},
    signals::Interrupted,
    story::{Followed, Printer, follow},
};
use crate::client::Client;

/// How long what was recorded before the end is waited for.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// How often the states of the tracepoints are asked for until they are known.
const STATE_INTERVAL: Duration = Duration::from_millis(200);
/// How long the agents may take to say what they armed.
const ARM_WITHIN: Duration = Duration::from_secs(15);
/// A session that nobody ended stops by itself.
const SESSION_SECONDS: u64 = 3600;

/// Options of `riptrace trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  riptrace trace orders handler.go:52
  riptrace trace orders 'main.(*Server).place' --return --capture order.ID
  riptrace trace payments ledger.go:79 --when 'charge.AmountCents > 10000' --limit 10 --json")]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// The service, as `riptrace services` names it.
    service: String,

    /// Where: file.go:LINE, a function, a method, or *ADDRESS.
    #[arg(required = true, value_name = "LOCATION")]
    locations: Vec<String>,

    /// Only on this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Stop after this many hits in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Stop after this time (30s, 2m); 0: never.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "0")]
    timeout: Duration,

    /// One JSON object a hit, as `riptrace story --json` prints them.
    #[arg(long)]
    json: bool,

    /// Keep the session, stopped, with its hits; its id is printed at the end.
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    capture: CaptureArguments,
}

/// Runs the command.
///
/// # Errors
///
/// The server can't be asked, or nothing can be armed.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let interrupted = Interrupted::listen()?;
    let client = arguments.server.client();
    let known = client.services()?;
    if !known.iter().any(|service| service.name == arguments.service) {
        let names: Vec<_> = known.iter().map(|service| service.name.as_str()).collect();
        let names = if names.is_empty() { String::from("none") } else { names.join(", ") };
        note(&format!(
            "riptrace: no process of {} runs now (known services: {names}); waiting for one\n",
            arguments.service
        ));
    }
    let tracepoints = arguments
        .locations
        .iter()
        .map(|location| tracepoint(&arguments.service, arguments.host.as_ref(), location, &arguments.capture))
        .collect();
    let name = Some(format!("trace {}", arguments.service));
    let session = client.create_session(&NewSession { name, tracepoints, ttl_seconds: SESSION_SECONDS })?;
    let id = session.id.as_str();
    // From here on the session is removed however this ends.
    let result = trace(&client, id, arguments, &interrupted);
    let removed = if arguments.keep {
        note(&format!("riptrace: kept as session {id}\n"));
        client.set_running(id, false).map(drop)
    } else {
        client.delete_session(id)
    };
    let exit = result?;
    removed?;
    Ok(exit)
}

fn trace(
    client: &Client,
    id: &str,
    arguments: &Arguments,
    interrupted: &Interrupted,
) -> Result<Exit, Failure> {
    let begin = Instant::now();
    let mut states = States::default();
    let mut printer = Printer::new(arguments.json);
    let deadline = Some(arguments.timeout).filter(|timeout| !timeout.is_zero());
    let mut stopped: Option<Instant> = None;
    let mut watermark_ns = 0;
    // What was recorded until then has a place once the order is final there.
    let mut end_ns = u64::MAX;
    follow(client, id, &mut |event| {
        states.look(client, id)?;
        match event {
            Followed::Event(Live::Final(hit))
                if arguments.limit.is_none_or(|limit| printer.printed < limit) =>
            {
                printer.hit(hit)?;
            }
            Followed::Event(Live::Watermark { watermark_ns: now }) => watermark_ns = *now,
            Followed::Quiet => printer.flush()?,
            Followed::Event(_) => {}
        }
        let enough = arguments.limit.is_some_and(|limit| printer.printed >= limit);
        let is_over = interrupted.is_set() || deadline.is_some_and(|deadline| begin.elapsed() >= deadline);
        if enough || printer.reader == Reader::Gone {
            return Ok(false);
        }
        if is_over && stopped.is_none() {
            // Disarmed, so that what is on its way is the rest.
            client.set_running(id, false)?;
            stopped = Some(Instant::now());
            end_ns = now_ns();
        }
        Ok(stopped.is_none_or(|since| since.elapsed() < FINISH_WITHIN && watermark_ns < end_ns))
    })?;
    printer.flush()?;
    let status = client.session(id)?;
    note(&summary(&status));
    if let Some(reason) = states.refused(&status) {
        return Err(Failure::unbound(reason));
    }
    Ok(if printer.printed > 0 || arguments.capture.dry_run { Exit::Ok } else { Exit::NoHit })
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Tells each host's answer once.
#[derive(Default)]
struct States {
    since: Option<Instant>,
    last: Option<Instant>,
    told: HashSet<String>,
    complete: bool,
}

impl States {
    fn look(&mut self, client: &Client, id: &str) -> Result<(), Failure> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let is_due = self.last.is_none_or(|last| now - last >= STATE_INTERVAL);
        if self.complete || !is_due {
            return Ok(());
        }
        self.last = Some(now);
        let status = client.session(id)?;
        for host in &status.hosts {
            let Some(state) = &host.state else { continue };
            if !matches!(state.status, TracepointStatus::Indexing | TracepointStatus::Waiting) {
                let key = format!("{} {}", host.host, state.id);
                if self.told.insert(key) {
                    note(&on_host(host));
                }
            }
        }
        let settled = |host: &riptrace_common::wire::api::HostTracepoint| {
            host.state.as_ref().is_some_and(|state| state.status != TracepointStatus::Indexing)
        };
        self.complete =
            (!status.hosts.is_empty() && status.hosts.iter().all(settled)) || since.elapsed() > ARM_WITHIN;
        Ok(())
    }

    /// Nothing was armed anywhere, and every host says that the location is wrong.
    fn refused(&self, status: &SessionStatus) -> Option<String> {
        let states: Vec<_> = status.hosts.iter().filter_map(|host| host.state.as_ref()).collect();
        let failed = |state: &&riptrace_common::wire::control::TracepointState| {
            matches!(state.status, TracepointStatus::Failed | TracepointStatus::Stale)
        };
        if states.is_empty() || !states.iter().all(failed) {
            return None;
        }
        let reasons: HashSet<&str> =
            states.iter().flat_map(|state| &state.failures).map(|failure| failure.reason.as_str()).collect();
        Some(format!("nothing could be armed: {}", reasons.into_iter().collect::<Vec<_>>().join("; ")))
    }
}

/// What was counted, and where it went.
fn summary(status: &SessionStatus) -> String {
    let hits: u64 =
        status.hosts.iter().filter_map(|host| host.state.as_ref()).map(|state| state.stats.hits).sum();
    let lost = status.losses.total();
    let open = match status.unaccounted.len() {
        0 => String::new(),
        runs => format!(" and what {runs} agents did not say before they ended"),
    };
    format!("hits {hits}, stored {}, lost {lost}{open}; on {} hosts\n", status.stored, status.hosts.len())
}
