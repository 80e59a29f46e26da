//! Diagnostics: a `tracing` subscriber on stderr, as text or as JSON.
//!
//! `RIPTRACE_LOG` sets the levels in the usual form (`debug`, `riptrace_agent::binary=trace,warn`), warnings by default;
//! `RIPTRACE_LOG_FORMAT=json` gives one JSON object a line. Results never go through here.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

/// Environment variable with the levels.
pub const LEVELS_VARIABLE: &str = "RIPTRACE_LOG";
/// Environment variable with the format, `text` or `json`.
pub const FORMAT_VARIABLE: &str = "RIPTRACE_LOG_FORMAT";
/// What is shown when nothing is set.
///
/// What aya warns of when it looks for features, `doctor` and the errors say in words that tell what to do.
pub const DEFAULT_LEVELS: &str = "aya=error,warn";

/// How diagnostics look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The levels don't parse.
    #[error("{LEVELS_VARIABLE}={value} is not a level or a list of target=level: {source}")]
    Levels {
        /// What was set.
        value: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The format is neither `text` nor `json`.
    #[error("{FORMAT_VARIABLE}={value} is unknown; use text or json")]
    Format {
        /// What was set.
        value: String,
    },
    /// A subscriber is installed already.
    #[error("logging is set up already")]
    Installed,
}

/// Installs the subscriber for the whole process. `format` overrides the environment.
pub fn init(format: Option<Format>) -> Result<(), LogError> {
    let levels = std::env::var(LEVELS_VARIABLE).ok();
    let format = match format {
        Some(format) => format,
        None => parse_format(std::env::var(FORMAT_VARIABLE).ok().as_deref())?,
    };
    let filter = parse_levels(levels.as_deref())?;
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match format {
        Format::Json => builder.json().finish().try_init(),
        Format::Text => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).with_target(false).finish().try_init()
        }
    };
    installed.map_err(|_| LogError::Installed)
}

fn parse_format(value: Option<&str>) -> Result<Format, LogError> {
    match value {
        None | Some("" | "text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        Some(value) => Err(LogError::Format { value: value.to_owned() }),
    }
}

fn parse_levels(value: Option<&str>) -> Result<EnvFilter, LogError> {
    let value = value.filter(|value| !value.trim().is_empty()).unwrap_or(DEFAULT_LEVELS);
    EnvFilter::try_new(value).map_err(|source| LogError::Levels { value: value.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_levels_are_checked() {
        assert_eq!(parse_format(None).unwrap(), Format::Text);
        assert_eq!(parse_format(Some("json")).unwrap(), Format::Json);
        assert_eq!(
            parse_format(Some("xml")).unwrap_err().to_string(),
            "RIPTRACE_LOG_FORMAT=xml is unknown; use text or json"
        );
        assert_eq!(parse_levels(None).unwrap().to_string(), DEFAULT_LEVELS);
        assert_eq!(parse_levels(Some("")).unwrap().to_string(), DEFAULT_LEVELS);
        assert!(parse_levels(Some("riptrace_agent=nonsense")).is_err());
    }
}
