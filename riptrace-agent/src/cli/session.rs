//! `riptrace session`: sets of tracepoints over the fleet, and their hits.

use std::{
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use riptrace_common::id::TracepointId;
use riptrace_common::wire::{
    api::{HostTracepoint, NewSession, NewTracepoint, Selector, SessionState, SessionStatus},
    control::{Target, TracepointStatus},
};

use super::{
    Exit, Failure, duration,
    options::CaptureArguments,
    output::{Output, note},
    server::ServerArguments,
    table::{lines, plain_table},
};

/// Options of `riptrace session`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  riptrace session create --name orders
  riptrace session add orders orders handler.go:52 --capture order.ID
  riptrace session show orders
  riptrace session export orders > evidence.jsonl
  riptrace session delete orders")]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a session.
    Create {
        /// What people call it.
        #[arg(long)]
        name: Option<String>,
        /// It stops by itself after this time.
        #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "1h")]
        ttl: Duration,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add tracepoints: they are armed on every instance of the service, those that start later too.
    Add(Box<Add>),
    /// List the sessions.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show a session: where its tracepoints are armed, where not and why, and what they counted.
    Show {
        /// Its id, the beginning of it, or its name.
        session: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Arm the tracepoints of a stopped session again.
    Start {
        /// Its id, the beginning of it, or its name.
        session: String,
    },
    /// Disarm its tracepoints; its hits stay.
    Stop {
        /// Its id, the beginning of it, or its name.
        session: String,
    },
    /// Remove it and its hits.
    Delete {
        /// Its id, the beginning of it, or its name.
        session: String,
    },
    /// Write it as an evidence file, which `riptrace story FILE` reads.
    Export {
        /// Its id, the beginning of it, or its name.
        session: String,
        /// The file; standard output unless given.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// The session's id, the beginning of it, or its name.
    session: String,
    /// The service, as `riptrace services` names it.
    service: String,
    /// Where: file.go:LINE, a function, a method, or *ADDRESS.
    #[arg(required = true, value_name = "LOCATION")]
    locations: Vec<String>,
    /// Only on this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    capture: CaptureArguments,
}

/// Runs the command.
///
/// # Errors
///
/// The server can't be asked, or refuses.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let client = arguments.server.client();
    let mut output = Output::default();
    match &arguments.what {
        What::Create { name, ttl, json: as_json } => {
            let new = NewSession { name: name.clone(), tracepoints: Vec::new(), ttl_seconds: ttl.as_secs() };
            let session = client.create_session(&new)?;
            if *as_json {
                output.json(&session)?
            } else {
                output.line(session.id.as_str())?
            };
        }
        What::Add(add) => {
            for location in &add.locations {
                let new = tracepoint(&add.service, add.host.as_ref(), location, &add.capture);
                let added = client.add_tracepoint(&add.session, &new)?;
                output.line(added.id.as_str())?;
            }
        }
        What::List { json: true } => {
            for session in client.sessions()? {
                output.json(&session)?;
            }
        }
        What::List { json: false } => {
            let sessions = client.sessions()?;
            if sessions.is_empty() {
                note(
                    "no session; make one with `riptrace session create`, or `riptrace trace SERVICE LOCATION`\n",
                );
            } else {
                let mut table = plain_table();
                table.set_header(["SESSION", "NAME", "STATE", "TRACEPOINTS", "BY"]);
                for session in sessions {
                    table.add_row([
                        session.id.to_string(),
                        session.name,
                        state(session.state).to_owned(),
                        session.tracepoints.len().to_string(),
                        session.created_by,
                    ]);
                }
                output.line(&lines(&table))?;
            }
        }
        What::Show { session, json: as_json } => {
            let status = client.session(session)?;
            if *as_json {
                output.json(&status)?
            } else {
                output.line(&shown(&status))?
            };
        }
        What::Start { session } => drop(client.set_running(session, true)?),
        What::Stop { session } => drop(client.set_running(session, false)?),
        What::Delete { session } => client.delete_session(session)?,
        What::Export { session, output: file } => {
            let mut evidence = client.export(session)?;
            match file {
                Some(path) => {
                    let failure = |error| Failure::new(Exit::Failure, format!("{}: {error}", path.display()));
                    let mut file = File::create(path).map_err(failure)?;
                    io::copy(&mut evidence, &mut file).map_err(failure)?;
                }
                None => match io::copy(&mut evidence, &mut io::stdout().lock())
                    .and_then(|_| io::stdout().flush())
                {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
                    _ => {}
                },
            }
        }
    }
    output.flush()?;
    Ok(Exit::Ok)
}

/// A tracepoint on a service.
pub(super) fn tracepoint(
    service: &str,
    host: Option<&String>,
    location: &str,
    capture: &CaptureArguments,
) -> NewTracepoint {
    let target = Target { service: Some(service.to_owned()), ..Target::default() };
    let select = Selector { host: host.cloned(), label: None, target };
    NewTracepoint { select, location: location.to_owned(), options: capture.options() }
}

fn state(state: SessionState) -> &'static str {
    match state {
        SessionState::Running => "running",
        SessionState::Stopped => "stopped",
    }
}

fn shown(status: &SessionStatus) -> String {
    let session = &status.session;
    let mut out = format!(
        "{} ({}), {}: {} hits stored\n",
        session.name,
        session.id,
        state(session.state),
        status.stored
    );
    for tracepoint in &session.tracepoints {
        let service = tracepoint.select.target.service.as_deref().unwrap_or("any process");
        out.push_str(&format!("{}  {service}  {}\n", tracepoint.id, tracepoint.location));
        let hosts: Vec<_> = status.hosts.iter().filter(|host| is_of(host, &tracepoint.id)).collect();
        // Where it runs is what matters; hosts that wait for the service are told where it runs nowhere.
        let waiting = hosts.iter().all(|host| is_waiting(host));
        for host in hosts.into_iter().filter(|host| waiting || !is_waiting(host)) {
            out.push_str(&on_host(host));
        }
    }
    let losses = &status.losses;
    if losses.total() > 0 {
        out.push_str(&format!(
            "lost: {} with the kernel's ring full, {} with the agent's queue full, {} refused by the broker, {} not \
             decodable, {} nobody knows where\n",
            losses.ring_full, losses.queue_full, losses.refused, losses.undecodable, losses.unknown
        ));
    }
    for agent in &status.unaccounted {
        out.push_str(&format!(
            "not known: what agent {agent} counted before it ended without a word (an agent that starts again with the \
             same --state says it)\n"
        ));
    }
    for contradiction in &status.contradictions {
        out.push_str(&format!("contradiction: {contradiction}\n"));
    }
    out.trim_end().to_owned()
}

fn is_of(host: &HostTracepoint, tracepoint: &TracepointId) -> bool {
    let of_state = host.state.as_ref().map(|state| &state.id);
    of_state.or(host.tracepoint.as_ref()) == Some(tracepoint)
}

/// No process there matches.
pub(super) fn is_waiting(host: &HostTracepoint) -> bool {
    host.state.as_ref().is_some_and(|state| state.status == TracepointStatus::Waiting)
}

/// A tracepoint's state on a host, with reasons.
pub(super) fn on_host(host: &HostTracepoint) -> String {
    let mut out = String::new();
    let Some(state) = &host.state else {
        let error = host.error.as_deref().unwrap_or("it did not answer yet");
        return format!("    {}: {error}\n", host.host);
    };
    let word = match state.status {
        TracepointStatus::Armed => "armed",
        TracepointStatus::Partial => "armed in part",
        TracepointStatus::Waiting => "waiting for a process",
        TracepointStatus::Indexing => "indexing",
        TracepointStatus::Stale => "stale: the build that runs does not have the statement",
        TracepointStatus::Failed => "failed",
        TracepointStatus::Ended => "ended",
    };
    let pids: Vec<String> =
        state.bindings.iter().flat_map(|binding| &binding.pids).map(u32::to_string).collect();
    let pids = if pids.is_empty() { String::new() } else { format!(" in {}", pids.join(", ")) };
    out.push_str(&format!("    {}: {word}{pids}, {} hits\n", host.host, state.stats.hits));
    for failure in &state.failures {
        out.push_str(&format!("      {}: {}\n", failure.executable, failure.reason));
    }
    let warnings = state.bindings.iter().flat_map(|binding| &binding.warnings);
    warnings.for_each(|warning| out.push_str(&format!("      warning: {warning}\n")));
    out
}
