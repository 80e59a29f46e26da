//! `riptrace kill`: removes tracepoints at once, whoever set them.

use clap::{Args, Subcommand};
use riptrace_common::{id::SessionId, wire::api::Kill};

use super::{
    Exit, Failure,
    output::{Output, note},
    server::ServerArguments,
};

/// Options of `riptrace kill`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  riptrace kill session s_01J…\n  riptrace kill host node-a\n  riptrace kill all"
)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The tracepoints of a session, on every host.
    Session {
        /// Its id.
        session: String,
    },
    /// All tracepoints of a host.
    Host {
        /// Its name.
        host: String,
    },
    /// All tracepoints of all hosts.
    All,
}

/// Removes them.
///
/// # Errors
///
/// The server can't be asked, or there is nothing of that name.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let client = arguments.server.client();
    let what = match &arguments.what {
        // By its name or the beginning of its id as well.
        What::Session { session } => Kill::Session(SessionId(client.session(session)?.session.id.0)),
        What::Host { host } => Kill::Host(host.clone()),
        What::All => Kill::All,
    };
    let killed = client.kill(&what)?;
    let mut output = Output::default();
    for session in &killed.sessions {
        output.line(&format!("stopped session {session}"))?;
    }
    for host in &killed.hosts {
        output.line(&format!("{host}: no tracepoint left of those"))?;
    }
    output.flush()?;
    for host in &killed.unreachable {
        note(&format!(
            "{host} did not answer; it is told when it is heard of again, and removes them itself in time\n"
        ));
    }
    Ok(if killed.unreachable.is_empty() { Exit::Ok } else { Exit::Failure })
}
