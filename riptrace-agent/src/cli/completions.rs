//! `riptrace completions` and `riptrace man`: from the same definition as the help.

use std::io::{ErrorKind, Write, stdout};

use clap::Args;
use clap_complete::Shell;

use super::{Exit, Failure};

/// Options of `riptrace completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  riptrace completions bash > /etc/bash_completion.d/riptrace")]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
///
/// Any error of the output but a closed pipe.
pub fn run(arguments: &Arguments, command: &mut clap::Command) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, command, "riptrace", &mut text);
    print(&text)
}

/// Prints the manual page of `riptrace`, its subcommands' pages behind it.
///
/// # Errors
///
/// Any error of the output but a closed pipe.
pub fn manual(command: &clap::Command) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let title = format!("riptrace-{}", subcommand.get_name());
        clap_mangen::Man::new(subcommand.clone()).title(title).render(&mut text)?;
    }
    print(&text)
}

fn print(text: &[u8]) -> Result<Exit, Failure> {
    match stdout().lock().write_all(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Ok),
    }
}
