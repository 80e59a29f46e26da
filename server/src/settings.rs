//! What the server was told: flags before environment variables before the settings file before what is usual.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use riptrace_common::wire::{profile::ServiceRule, subject::Subjects};
use serde::Deserialize;

/// Where HTTP is served unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7440";

/// Bytes of the stream unless told otherwise.
const DEFAULT_STREAM_BYTES: u64 = 4 << 30;

/// Age of the stream's oldest message unless told otherwise.
const DEFAULT_STREAM_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of the index unless told otherwise.
const DEFAULT_STORE_BYTES: u64 = 16 << 30;

/// Age of the index's oldest hit unless told otherwise.
const DEFAULT_STORE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a settings file at the most.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// RipTrace's central server: tells agents what to trace, collects and orders their hits, keeps and shows them.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "riptrace-server", version)]
pub struct Arguments {
    /// Settings file (TOML); its keys are the long options' names with `_`, and `[[service]]` tables for service rules.
    #[arg(long, env = "RIPTRACE_SERVER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What else can be given in the file.
    #[command(flatten)]
    pub given: Given,
}

/// What can be given as a flag, an environment variable, or in the settings file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    /// The broker (`nats://host:4222`, `tls://…`; several with commas). Without it a private one is started.
    #[arg(long, env = "RIPTRACE_NATS", value_name = "URL")]
    pub nats: Option<String>,
    /// The broker's credentials file (`.creds`).
    #[arg(long, env = "RIPTRACE_NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// A file with the seed of an NKEY.
    #[arg(long, env = "RIPTRACE_NATS_NKEY", value_name = "FILE")]
    pub nats_nkey: Option<PathBuf>,
    /// User of the broker.
    #[arg(long, env = "RIPTRACE_NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// Its password.
    #[arg(long, env = "RIPTRACE_NATS_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    pub nats_password: Option<String>,
    /// Certificates of the authorities that the broker's certificate may be signed by (PEM).
    #[arg(long, env = "RIPTRACE_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,
    /// The client's certificate (PEM).
    #[arg(long, env = "RIPTRACE_NATS_TLS_CERT", value_name = "FILE", requires = "nats_tls_key")]
    pub nats_tls_cert: Option<PathBuf>,
    /// The client certificate's key (PEM).
    #[arg(long, env = "RIPTRACE_NATS_TLS_KEY", value_name = "FILE", requires = "nats_tls_cert")]
    pub nats_tls_key: Option<PathBuf>,
    /// Refuse a connection without TLS.
    #[arg(long, env = "RIPTRACE_NATS_TLS_REQUIRED")]
    pub nats_tls_required: bool,
    /// Port of the private broker on the loopback address; without it the one it had before, or a free one.
    #[arg(long, env = "RIPTRACE_NATS_PORT", value_name = "PORT")]
    pub nats_port: Option<u16>,
    /// What all subjects begin with; empty is allowed.
    #[arg(long, env = "RIPTRACE_PREFIX", value_name = "TOKENS")]
    pub prefix: Option<String>,
    /// Where the server keeps its index, and the private broker its stream.
    #[arg(long, env = "RIPTRACE_DATA", value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Where HTTP is served; port 0: a free one. Other than loopback addresses need a token.
    #[arg(long, env = "RIPTRACE_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// What clients must send as `Authorization: Bearer …`.
    #[arg(long, env = "RIPTRACE_TOKEN", value_name = "TEXT", hide_env_values = true)]
    pub token: Option<String>,
    /// Bytes of the stream at the most (`4GiB`).
    #[arg(long, env = "RIPTRACE_STREAM_BYTES", value_name = "SIZE")]
    pub stream_bytes: Option<Size>,
    /// Age of what the stream keeps (`7d`).
    #[arg(long, env = "RIPTRACE_STREAM_AGE", value_name = "DURATION")]
    pub stream_age: Option<Age>,
    /// Copies of the stream and of the sessions in a clustered broker.
    #[arg(long, env = "RIPTRACE_REPLICAS", value_name = "N")]
    pub replicas: Option<u8>,
    /// Bytes of the index at the most (`16GiB`).
    #[arg(long, env = "RIPTRACE_STORE_BYTES", value_name = "SIZE")]
    pub store_bytes: Option<Size>,
    /// Age of what the index keeps (`30d`).
    #[arg(long, env = "RIPTRACE_STORE_AGE", value_name = "DURATION")]
    pub store_age: Option<Age>,
    /// Rules that name services; only in the file.
    #[arg(skip)]
    pub service: Vec<ServiceRule>,
}

/// How to get into the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Credentials file.
    pub credentials: Option<PathBuf>,
    /// File with an NKEY's seed.
    pub nkey: Option<PathBuf>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Authorities.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// No connection without TLS.
    pub tls_required: bool,
}

/// Which broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// One that is there.
    At {
        /// Addresses with commas between.
        url: String,
        /// How to get in.
        access: Access,
    },
    /// One of this server's own.
    Private {
        /// Its port, if it must be this one.
        port: Option<u16>,
    },
}

/// Settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which broker.
    pub broker: Broker,
    /// The subjects of this fleet.
    pub subjects: Subjects,
    /// The data folder.
    pub data: PathBuf,
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// What clients must send.
    pub token: Option<String>,
    /// Limits of the stream.
    pub stream: Retention,
    /// Limits of the index.
    pub store: Retention,
    /// Copies in a cluster.
    pub replicas: usize,
    /// Rules that name services.
    pub service_rules: Vec<ServiceRule>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub age: Duration,
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("the settings file {} can't be read: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Loopback only without a token.
    #[error(
        "{listen} is reachable by others, and no token is set: give one with --token (or RIPTRACE_TOKEN), \
         or listen on a loopback address such as {DEFAULT_LISTEN}"
    )]
    Open {
        /// Where it should listen.
        listen: SocketAddr,
    },
    /// The prefix.
    #[error("{0}")]
    Prefix(#[from] riptrace_common::wire::subject::SubjectError),
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// No place for data.
    #[error("there is no data folder: give one with --data (neither $XDG_DATA_HOME nor $HOME is set)")]
    NoData,
}

impl Settings {
    /// Reads the settings file and puts everything together.
    ///
    /// # Errors
    ///
    /// See [`SettingsError`].
    pub fn new(arguments: Arguments) -> Result<Self, SettingsError> {
        let file = match &arguments.config {
            None => Given::default(),
            Some(path) => {
                read_file(path).map_err(|reason| SettingsError::File { path: path.clone(), reason })?
            }
        };
        Self::check(arguments.given.or(file), default_data)
    }

    fn check(given: Given, default_data: fn() -> Option<PathBuf>) -> Result<Self, SettingsError> {
        let listen = match given.listen {
            Some(listen) => listen,
            None => SocketAddr::from(([127, 0, 0, 1], 7440)),
        };
        let token = given.token.filter(|token| !token.is_empty());
        if !listen.ip().is_loopback() && token.is_none() {
            return Err(SettingsError::Open { listen });
        }
        let user = match (given.nats_user, given.nats_password) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => {
                let text = "--nats-user and --nats-password are given together or not at all";
                return Err(SettingsError::Contradiction(text.to_owned()));
            }
        };
        let access = Access {
            credentials: given.nats_creds,
            nkey: given.nats_nkey,
            user,
            ca: given.nats_tls_ca,
            certificate: given.nats_tls_cert.zip(given.nats_tls_key),
            tls_required: given.nats_tls_required,
        };
        let broker = match given.nats.filter(|url| !url.is_empty()) {
            Some(url) => Broker::At { url, access },
            None if access == Access::default() => Broker::Private { port: given.nats_port },
            None => {
                let text = "credentials of a broker are given, but not which: give --nats URL";
                return Err(SettingsError::Contradiction(text.to_owned()));
            }
        };
        for rule in &given.service {
            if rule.service.is_empty() || (rule.exe.is_none() && rule.module.is_none() && rule.name.is_none())
            {
                let text = format!(
                    "the rule for service {:?} fits nothing: give it a service and one of exe, module, name",
                    rule.service
                );
                return Err(SettingsError::Contradiction(text));
            }
        }
        let subjects = match &given.prefix {
            Some(prefix) => Subjects::new(prefix)?,
            None => Subjects::default(),
        };
        let limits = |bytes: Option<Size>, age: Option<Age>, usual: (u64, Duration)| Retention {
            bytes: bytes.map_or(usual.0, |size| size.0),
            age: age.map_or(usual.1, |age| age.0),
        };
        Ok(Self {
            broker,
            subjects,
            data: given.data.or_else(default_data).ok_or(SettingsError::NoData)?,
            listen,
            token,
            stream: limits(given.stream_bytes, given.stream_age, (DEFAULT_STREAM_BYTES, DEFAULT_STREAM_AGE)),
            store: limits(given.store_bytes, given.store_age, (DEFAULT_STORE_BYTES, DEFAULT_STORE_AGE)),
            replicas: usize::from(given.replicas.unwrap_or(1).clamp(1, 5)),
            service_rules: given.service,
        })
    }
}

impl Given {
    /// What is given here, else what is given there.
    fn or(self, other: Self) -> Self {
        Self {
            nats: self.nats.or(other.nats),
            nats_creds: self.nats_creds.or(other.nats_creds),
            nats_nkey: self.nats_nkey.or(other.nats_nkey),
            nats_user: self.nats_user.or(other.nats_user),
            nats_password: self.nats_password.or(other.nats_password),
            nats_tls_ca: self.nats_tls_ca.or(other.nats_tls_ca),
            nats_tls_cert: self.nats_tls_cert.or(other.nats_tls_cert),
            nats_tls_key: self.nats_tls_key.or(other.nats_tls_key),
            nats_tls_required: self.nats_tls_required || other.nats_tls_required,
            nats_port: self.nats_port.or(other.nats_port),
            prefix: self.prefix.or(other.prefix),
            data: self.data.or(other.data),
            listen: self.listen.or(other.listen),
            token: self.token.or(other.token),
            stream_bytes: self.stream_bytes.or(other.stream_bytes),
            stream_age: self.stream_age.or(other.stream_age),
            replicas: self.replicas.or(other.replicas),
            store_bytes: self.store_bytes.or(other.store_bytes),
            store_age: self.store_age.or(other.store_age),
            service: if self.service.is_empty() { other.service } else { self.service },
        }
    }
}

fn read_file(path: &Path) -> Result<Given, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("it has {length} bytes; at most {MAX_FILE_BYTES} are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    toml::from_str(&text).map_err(|error| error.to_string())
}

fn default_data() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = given("XDG_DATA_HOME").or_else(|| given("HOME").map(|home| home.join(".local/share")))?;
    Some(base.join("riptrace"))
}

/// A number of bytes: `1048576`, `512MiB`, `4GiB`, `10GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Quantity")]
pub struct Size(pub u64);

/// A length of time: `90s`, `30m`, `12h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Quantity")]
pub struct Age(pub Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(u64),
    Text(String),
}

impl TryFrom<Quantity> for Size {
    type Error = String;

    fn try_from(quantity: Quantity) -> Result<Self, String> {
        match quantity {
            Quantity::Number(bytes) => Ok(Self(bytes)),
            Quantity::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<Quantity> for Age {
    type Error = String;

    fn try_from(quantity: Quantity) -> Result<Self, String> {
        match quantity {
            Quantity::Number(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Quantity::Text(text) => text.parse(),
        }
    }
}

/// A number and what stands behind it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |unit: &str| match unit {
            "" | "B" => Some(1),
            "kB" | "KB" => Some(1000),
            "MB" => Some(1_000_000),
            "GB" => Some(1_000_000_000),
            "TB" => Some(1_000_000_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            "TiB" => Some(1 << 40),
            _ => None,
        };
        let size = split(text).and_then(|(number, rest)| number.checked_mul(unit(rest)?));
        size.filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no size: give a number with MiB, GiB, MB, GB or nothing"))
    }
}

impl std::str::FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |unit: &str| match unit {
            "s" | "" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            "d" => Some(24 * 3600),
            _ => None,
        };
        let seconds = split(text).and_then(|(number, rest)| number.checked_mul(unit(rest)?));
        seconds
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| format!("{text:?} is no length of time: give a number with s, m, h or d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Given {
        let all = std::iter::once(&"riptrace-server").chain(arguments);
        Arguments::try_parse_from(all).unwrap().given
    }

    fn check(given: Given) -> Result<Settings, String> {
        Settings::check(given, || Some(PathBuf::from("/data"))).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_given_is_a_private_broker_on_loopback() {
        let settings = check(parse(&[])).unwrap();
        assert_eq!(settings.listen.to_string(), DEFAULT_LISTEN);
        assert_eq!(settings.broker, Broker::Private { port: None });
        assert_eq!(settings.subjects, Subjects::default());
        assert_eq!(settings.data, PathBuf::from("/data"));
    }

    #[test]
    fn what_others_can_reach_needs_a_token() {
        for (arguments, open) in [
            (&["--listen", "0.0.0.0:80"][..], true),
            (&["--listen", "[::]:80"], true),
            (&["--listen", "10.0.0.1:80", "--token", ""], true),
            (&["--listen", "10.0.0.1:80", "--token", "x"], false),
            (&["--listen", "[::1]:0"], false),
            (&["--listen", "127.9.9.9:0"], false),
        ] {
            let result = check(parse(arguments));
            assert_eq!(result.is_err_and(|text| text.contains("--token")), open, "{arguments:?}");
        }
    }

    #[test]
    fn a_flag_comes_before_the_file() {
        let file = r#"
            nats = "nats://file:4222"
            prefix = "acme.v1"
            stream_bytes = "10GiB"
            stream_age = 60
            [[service]]
            service = "orders"
            exe = "/srv/*"
        "#;
        let file: Given = toml::from_str(file).unwrap();
        let settings = check(parse(&["--nats", "nats://flag:4222"]).or(file)).unwrap();
        assert!(matches!(settings.broker, Broker::At { url, .. } if url == "nats://flag:4222"));
        assert_eq!(settings.subjects.prefix(), "acme.v1");
        assert_eq!(settings.stream, Retention { bytes: 10 << 30, age: Duration::from_secs(60) });
        assert_eq!(settings.service_rules.len(), 1);
        assert!(
            toml::from_str::<Given>("colour = 1").is_err_and(|error| error.to_string().contains("colour"))
        );
    }

    #[test]
    fn contradictions_are_named() {
        for (arguments, word) in [
            (&["--nats-user", "a"][..], "--nats-password"),
            (&["--nats-creds", "/x"], "--nats URL"),
            (&["--prefix", "a..b"], "prefix"),
        ] {
            let text = check(parse(arguments)).unwrap_err();
            assert!(text.contains(word), "{text}");
        }
        let rule = ServiceRule { service: "a".to_owned(), ..ServiceRule::default() };
        let text = check(Given { service: vec![rule], ..Given::default() }).unwrap_err();
        assert!(text.contains("fits nothing"), "{text}");
    }

    #[test]
    fn sizes_and_ages_have_units() {
        for (text, bytes) in [("1", 1), ("2KiB", 2048), ("3 MB", 3_000_000), ("1TiB", 1 << 40)] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for (text, seconds) in [("90", 90), ("2m", 120), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Age(Duration::from_secs(seconds))));
        }
        for text in ["", "x", "0", "-1", "1 mile", "99999999999999999999", "18446744073709551615TiB"] {
            assert!(text.parse::<Size>().is_err() && text.parse::<Age>().is_err(), "{text}");
        }
    }
}
