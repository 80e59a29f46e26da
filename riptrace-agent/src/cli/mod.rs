//! The command line: what was typed becomes validated, ready objects here; one subcommand a file.
//!
//! Text goes to stdout only when it is the result; progress, warnings and summaries go to stderr.

pub mod agent;
pub mod completions;
pub mod doctor;
mod duration;
mod exit;
pub mod explain;
pub mod hosts;
pub mod kill;
pub mod lines;
mod options;
mod output;
pub mod probe;
mod progress;
pub mod ps;
mod redaction;
mod server;
pub mod services;
pub mod session;
mod signals;
pub mod story;
mod stream;
mod table;
pub mod target;
pub mod trace;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use exit::{Exit, Failure};

use crate::log;

/// Non-breaking tracepoints for running Go programs.
///
/// Name a line of a service that is running, and read what the line saw: every variable with its Go type, the
/// goroutine, the time, the stack. Nothing is restarted, nothing is linked in, no thread is stopped.
#[derive(Debug, Parser)]
#[command(name = "riptrace", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    /// Log format on stderr; what is logged is set by RIPTRACE_LOG (error, warn, info, debug, trace).
    #[arg(long, global = true, value_name = "text|json", value_parser = log_format)]
    pub log_format: Option<log::Format>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Arm tracepoints, print what they see, disarm.
    Probe(probe::Arguments),
    /// List the Go processes of this machine.
    Ps(ps::Arguments),
    /// Say which lines of a source file can carry a tracepoint, and which variables are readable there.
    Lines(lines::Arguments),
    /// Say everything that is known of a location before it is armed.
    Explain(explain::Arguments),
    /// Say what works on this machine, what is missing, and how to get it.
    Doctor(doctor::Arguments),
    /// Serve this host to a fleet: take tracepoints from a server over NATS, and publish what they see.
    Agent(Box<agent::Arguments>),
    /// The hosts of the fleet.
    Hosts(hosts::Arguments),
    /// The services of the fleet and their instances.
    Services(services::Arguments),
    /// Arm a service's lines on every instance and print the ordered story until Ctrl-C.
    Trace(trace::Arguments),
    /// Make, change, show and export sessions.
    Session(session::Arguments),
    /// Print a session's hits, or an exported file's, in their strict order.
    Story(story::Arguments),
    /// Remove tracepoints of a session, a host or the fleet at once.
    Kill(kill::Arguments),
    /// Print a shell's completions.
    Completions(completions::Arguments),
    /// Print the manual page.
    Man,
}

/// `--stack 16` as `--stack=16`. The option's number may be left out, so that what follows it could be a location; but no
/// location is a number.
fn joined(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    for argument in arguments {
        let number =
            argument.to_str().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        match (out.last_mut(), number) {
            (Some(last), Some(number)) if last == "--stack" => last.push(format!("={number}")),
            _ => out.push(argument),
        }
    }
    out
}

fn log_format(text: &str) -> Result<log::Format, String> {
    match text {
        "text" => Ok(log::Format::Text),
        "json" => Ok(log::Format::Json),
        other => Err(format!("`{other}` is unknown; use text or json")),
    }
}

/// Runs the program on its own arguments.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse_from(joined(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // A closed pipe is no error, and there is nowhere left to report any other.
            let _ = error.print();
            return if usage { Exit::Usage } else { Exit::Ok };
        }
    };
    if let Err(error) = log::init(cli.log_format) {
        output::note(&format!("riptrace: {error}\n"));
        return Exit::Usage;
    }
    let result = match cli.command {
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Ps(arguments) => ps::run(&arguments),
        Command::Lines(arguments) => lines::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Hosts(arguments) => hosts::run(&arguments),
        Command::Services(arguments) => services::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Session(arguments) => session::run(&arguments),
        Command::Story(arguments) => story::run(&arguments),
        Command::Kill(arguments) => kill::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, &mut Cli::command()),
        Command::Man => completions::manual(&Cli::command()),
    };
    result.unwrap_or_else(|failure| {
        output::note(&format!("riptrace: {failure}\n"));
        failure.exit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_frames_may_stand_by_itself() {
        let join = |arguments: &[&str]| joined(arguments.iter().map(OsString::from));
        assert_eq!(join(&["probe", "--stack", "16", "a.go:1"]), ["probe", "--stack=16", "a.go:1"]);
        assert_eq!(join(&["probe", "--stack", "a.go:1"]), ["probe", "--stack", "a.go:1"]);
    }

    #[test]
    fn an_expression_may_begin_with_a_sign_and_takes_no_option_for_one() {
        let parse = |options: &[&str]| {
            let line = ["riptrace", "probe", "main.go:7", "--pid", "1"];
            Cli::try_parse_from(line.iter().chain(options)).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(parse(&["--capture", "-k", "--when", "-k > 3", "--return"]), Ok(()));
        for options in [&["--capture", "--return"][..], &["--when", "--globals"]] {
            let said = parse(options).unwrap_err();
            assert!(said.contains(&format!("an expression is missing before {}", options[1])), "{said}");
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
