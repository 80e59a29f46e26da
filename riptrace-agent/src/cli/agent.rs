//! `riptrace agent`: serves this host to a fleet. Settings come from flags, from the environment, and from a file, in this
//! order.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use riptrace_common::wire::{
    profile::Label,
    subject::{DEFAULT_PREFIX, MAX_HOST_BYTES, Subjects},
};
use serde::Deserialize;

use super::{Exit, Failure};
use crate::{
    agent::{
        self, AgentError,
        policy::Policy,
        settings::{DEFAULT_BUDGET, DEFAULT_QUEUE_BYTES, Settings},
    },
    nats::connection::ConnectionSettings,
    probe::Features,
    redact::{self, Rules},
};

/// The settings file that is read when none is named, if it is there.
const DEFAULT_FILE: &str = "/etc/riptrace/agent.toml";
/// The broker that is tried when none is named.
const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
/// Bytes of the queue at the least: some of the largest batches.
const MIN_QUEUE_BYTES: u64 = 4 * 1024 * 1024;

/// Options of `riptrace agent`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every option can be set in the environment (RIPTRACE_…) and in a TOML file, which also has the host's own policy: what may
never be traced, whoever asks (docs/agent.md). A flag wins over the environment, the environment over the file.

Examples:
  riptrace agent --nats nats://broker.example:4222 --nats-creds /etc/riptrace/agent.creds
  riptrace agent --host-name node-a --only-service orders --only-service payments
  riptrace agent --config ./agent.toml

It runs until SIGTERM or Ctrl-C, and removes every tracepoint then. Exit codes: 0 ended by a signal; 1 unforeseen; 2 wrong
usage or settings; 5 missing privilege.")]
pub struct Arguments {
    /// Settings file; by default /etc/riptrace/agent.toml, if it is there.
    #[arg(long, value_name = "FILE", env = "RIPTRACE_AGENT_CONFIG")]
    config: Option<PathBuf>,

    /// The broker (repeatable, or separated by commas): nats://HOST:PORT, tls://HOST:PORT.
    #[arg(long, value_name = "URL", env = "RIPTRACE_NATS", value_delimiter = ',')]
    nats: Vec<String>,

    /// Credentials file for the broker (JWT and seed).
    #[arg(long, value_name = "FILE", env = "RIPTRACE_NATS_CREDS")]
    nats_creds: Option<PathBuf>,

    /// File with an NKEY seed for the broker.
    #[arg(long, value_name = "FILE", env = "RIPTRACE_NATS_NKEY")]
    nats_nkey: Option<PathBuf>,

    /// User name for the broker.
    #[arg(long, value_name = "NAME", env = "RIPTRACE_NATS_USER")]
    nats_user: Option<String>,

    /// Its password; better in the environment or the file, where `ps` does not show it.
    #[arg(long, value_name = "TEXT", env = "RIPTRACE_NATS_PASSWORD", hide_env_values = true)]
    nats_password: Option<String>,

    /// Certificates of authorities that are trusted for the broker's TLS, beside the system's.
    #[arg(long, value_name = "FILE", env = "RIPTRACE_NATS_TLS_CA")]
    nats_tls_ca: Option<PathBuf>,

    /// The agent's own certificate, with --nats-tls-key.
    #[arg(long, value_name = "FILE", env = "RIPTRACE_NATS_TLS_CERT")]
    nats_tls_cert: Option<PathBuf>,

    /// Its key.
    #[arg(long, value_name = "FILE", env = "RIPTRACE_NATS_TLS_KEY")]
    nats_tls_key: Option<PathBuf>,

    /// Refuse a connection without TLS.
    #[arg(long, env = "RIPTRACE_NATS_TLS_REQUIRED")]
    nats_tls_required: bool,

    /// What every subject begins with [default: riptrace.v1]; the same in the whole fleet.
    #[arg(long, value_name = "PREFIX", env = "RIPTRACE_PREFIX")]
    prefix: Option<String>,

    /// The host's name in the fleet; by default the machine's own.
    #[arg(long, value_name = "NAME", env = "RIPTRACE_HOST_NAME")]
    host_name: Option<String>,

    /// Something more about the host, NAME=VALUE (repeatable): zone=a.
    #[arg(long, value_name = "NAME=VALUE", env = "RIPTRACE_LABELS", value_delimiter = ',', value_parser = label)]
    label: Vec<Label>,

    /// What all tracepoints together may cost, in percent of one core [default: 5]; 0: no limit.
    #[arg(long, value_name = "PERCENT", env = "RIPTRACE_BUDGET", value_parser = super::probe::percent)]
    budget: Option<f64>,

    /// Bytes of hits that wait for the broker at the most [default: 64 MiB]; what does not fit is counted as lost.
    #[arg(long, value_name = "BYTES", env = "RIPTRACE_QUEUE_BYTES", value_parser = clap::value_parser!(u64).range(MIN_QUEUE_BYTES..))]
    queue_bytes: Option<u64>,

    /// Folder for inflated debug data and indexes; by default the user's cache.
    #[arg(long, value_name = "FOLDER", env = "RIPTRACE_CACHE_DIR")]
    cache: Option<PathBuf>,

    /// Folder for what the next run is to know of this one.
    #[arg(long, value_name = "FOLDER", env = "RIPTRACE_STATE_DIR")]
    state: Option<PathBuf>,

    /// Look only at processes of this service (repeatable).
    #[arg(long, value_name = "NAME", env = "RIPTRACE_ONLY_SERVICE", value_delimiter = ',')]
    only_service: Vec<String>,

    /// Look only at processes of this executable, by its path or its name (repeatable).
    #[arg(long, value_name = "PATH", env = "RIPTRACE_ONLY_EXE", value_delimiter = ',')]
    only_exe: Vec<String>,

    /// Let the server read source files that binaries name and that lie on this host.
    #[arg(long, env = "RIPTRACE_SERVE_SOURCES")]
    serve_sources: bool,
}

fn label(text: &str) -> Result<Label, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Label { name: name.to_owned(), value: value.to_owned() })
        }
        _ => Err(format!("`{text}` is no label; write it as NAME=VALUE, like zone=a")),
    }
}

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsFile {
    host_name: Option<String>,
    prefix: Option<String>,
    labels: toml::Table,
    budget_percent: Option<f64>,
    queue_bytes: Option<u64>,
    cache: Option<PathBuf>,
    state: Option<PathBuf>,
    only_services: Vec<String>,
    only_executables: Vec<String>,
    serve_sources: bool,
    nats: NatsPart,
    policy: PolicyPart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NatsPart {
    urls: Vec<String>,
    credentials: Option<PathBuf>,
    nkey: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_required: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyPart {
    deny_executables: Vec<String>,
    deny_functions: Vec<String>,
    deny_variables: Vec<String>,
    allow_variables: Vec<String>,
    map_keys_allow: Vec<String>,
    redact_defaults: bool,
}

impl Default for PolicyPart {
    fn default() -> Self {
        Self {
            deny_executables: Vec::new(),
            deny_functions: Vec::new(),
            deny_variables: Vec::new(),
            allow_variables: Vec::new(),
            map_keys_allow: Vec::new(),
            redact_defaults: true,
        }
    }
}

/// Runs the agent.
///
/// # Errors
///
/// The settings make no sense, or a privilege is missing.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let settings = settings(arguments, file(arguments.config.as_deref())?)?;
    let missing = Features::missing_capabilities();
    if !missing.is_empty() {
        return Err(Failure::unable(format!(
            "needs root, or CAP_BPF + CAP_PERFMON + CAP_SYS_PTRACE; this process lacks {}; see riptrace doctor",
            missing.join(" + ")
        )));
    }
    agent::run(&settings).map(|()| Exit::Ok).map_err(|error| match error {
        AgentError::Subject(_) | AgentError::Connection(_) | AgentError::State { .. } => {
            Failure::new(Exit::Usage, error)
        }
        AgentError::System(_) | AgentError::Service(_) => Failure::new(Exit::Failure, error),
    })
}

fn file(path: Option<&Path>) -> Result<SettingsFile, Failure> {
    let (path, is_named) = path.map_or((Path::new(DEFAULT_FILE), false), |path| (path, true));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if !is_named && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(SettingsFile::default());
        }
        Err(error) => {
            let message = format!("cannot read the settings {}: {error}", path.display());
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    toml::from_str(&text)
        .map_err(|error| Failure::new(Exit::Usage, format!("the settings {}: {error}", path.display())))
}

fn settings(arguments: &Arguments, file: SettingsFile) -> Result<Settings, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let several = |given: &[String], of_file: Vec<String>| -> Vec<String> {
        if given.is_empty() { of_file } else { given.to_vec() }
    };
    let prefix = arguments.prefix.clone().or(file.prefix).unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
    let subjects = Subjects::new(&prefix).map_err(|error| Failure::new(Exit::Usage, error))?;
    let mut urls = several(&arguments.nats, file.nats.urls);
    if urls.is_empty() {
        urls.push(DEFAULT_URL.to_owned());
    }
    let nats = ConnectionSettings {
        urls,
        credentials_file: arguments.nats_creds.clone().or(file.nats.credentials),
        nkey_file: arguments.nats_nkey.clone().or(file.nats.nkey),
        user: arguments.nats_user.clone().or(file.nats.user),
        password: arguments.nats_password.clone().or(file.nats.password),
        tls_ca: arguments.nats_tls_ca.clone().or(file.nats.tls_ca),
        tls_certificate: arguments.nats_tls_cert.clone().or(file.nats.tls_cert),
        tls_key: arguments.nats_tls_key.clone().or(file.nats.tls_key),
        tls_required: arguments.nats_tls_required || file.nats.tls_required,
    };
    if nats.tls_certificate.is_some() != nats.tls_key.is_some() {
        return Err(usage(String::from("--nats-tls-cert and --nats-tls-key go together: give both")));
    }
    if nats.password.is_some() && nats.user.is_none() {
        return Err(usage(String::from("a password without a user: give --nats-user too")));
    }
    let host_name = arguments.host_name.clone().or(file.host_name);
    if host_name.as_ref().is_some_and(|name| name.is_empty() || name.len() > MAX_HOST_BYTES) {
        return Err(usage(format!("--host-name must have 1 to {MAX_HOST_BYTES} bytes")));
    }
    let budget = match (arguments.budget, file.budget_percent) {
        (Some(percent), _) => percent / 100.0,
        (None, Some(percent)) => {
            super::probe::percent(&percent.to_string())
                .map_err(|error| usage(format!("budget_percent: {error}")))?
                / 100.0
        }
        (None, None) => DEFAULT_BUDGET,
    };
    let queue_bytes = arguments.queue_bytes.or(file.queue_bytes).unwrap_or(DEFAULT_QUEUE_BYTES);
    if queue_bytes < MIN_QUEUE_BYTES {
        return Err(usage(format!("queue_bytes is {queue_bytes}; it must be at least {MIN_QUEUE_BYTES}")));
    }
    let labels = if arguments.label.is_empty() { labels(&file.labels)? } else { arguments.label.clone() };
    let PolicyPart {
        deny_executables,
        deny_functions,
        deny_variables,
        allow_variables,
        map_keys_allow,
        redact_defaults,
    } = file.policy;
    let redaction = redact::Policy { redact: deny_variables, allow: allow_variables, map_keys_allow };
    let redaction = Rules::new(redact_defaults, &[], Some(&redaction))
        .map_err(|error| usage(format!("the policy: {error}")))?;
    Ok(Settings {
        nats,
        subjects,
        host_name,
        labels,
        budget,
        queue_bytes,
        cache: arguments.cache.clone().or(file.cache),
        state: arguments.state.clone().or(file.state),
        serve_sources: arguments.serve_sources || file.serve_sources,
        only_services: several(&arguments.only_service, file.only_services),
        only_executables: several(&arguments.only_exe, file.only_executables),
        policy: Policy { deny_executables, deny_functions },
        redaction: Arc::new(redaction),
    })
}

fn labels(table: &toml::Table) -> Result<Vec<Label>, Failure> {
    let label = |(name, value): (&String, &toml::Value)| match value.as_str() {
        Some(value) => Ok(Label { name: name.clone(), value: value.to_owned() }),
        None => Err(Failure::new(Exit::Usage, format!("the label {name} has no text: write {name} = \"…\""))),
    };
    table.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn read(flags: &[&str], file: &str) -> Result<Settings, String> {
        let all = std::iter::once("agent").chain(flags.iter().copied());
        let arguments = Alone::try_parse_from(all).map_err(|error| error.to_string())?.arguments;
        let file = toml::from_str(file).map_err(|error| error.to_string())?;
        settings(&arguments, file).map_err(|failure| failure.message)
    }

    const FILE: &str = r#"
host_name = "node-a"
budget_percent = 2
only_services = ["orders"]
labels = { zone = "a" }
[nats]
urls = ["nats://one:4222", "nats://two:4222"]
user = "agent"
password = "secret"
[policy]
deny_functions = ["crypto/*"]
"#;

    #[test]
    fn a_flag_wins_over_the_file() {
        let settings = read(&[], FILE).unwrap();
        assert_eq!(settings.host_name.as_deref(), Some("node-a"));
        assert!((settings.budget - 0.02).abs() < 1e-12);
        assert_eq!(settings.nats.urls.len(), 2);
        assert_eq!(settings.labels, [Label { name: "zone".to_owned(), value: "a".to_owned() }]);
        assert_eq!(settings.policy.deny_functions, ["crypto/*"]);

        let flags =
            ["--host-name", "b", "--nats", "nats://three:4222", "--only-service", "x", "--label", "zone=b"];
        let settings = read(&flags, FILE).unwrap();
        assert_eq!(settings.host_name.as_deref(), Some("b"));
        assert_eq!(settings.nats.urls, ["nats://three:4222"]);
        assert_eq!(settings.only_services, ["x"]);
        assert_eq!(settings.labels, [Label { name: "zone".to_owned(), value: "b".to_owned() }]);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_a_reason() {
        for (flags, file, said) in [
            (&["--prefix", "a b"][..], "", "can't be a prefix"),
            (&["--host-name", ""], "", "1 to 255 bytes"),
            (&["--nats-tls-cert", "c"], "", "go together"),
            (&["--nats-password", "p"], "", "without a user"),
            (&["--label", "zone"], "", "NAME=VALUE"),
            (&["--queue-bytes", "1"], "", "1 is not in"),
            (&[], "queue_bytes = 1", "at least"),
            (&[], "budget_percent = -1", "percent of one core"),
            (&[], "budgets = 1", "unknown field"),
            (&[], "labels = { zone = 1 }", "has no text"),
        ] {
            let error = read(flags, file).unwrap_err();
            assert!(error.contains(said), "{flags:?} {file}: {error}");
        }
    }
}
