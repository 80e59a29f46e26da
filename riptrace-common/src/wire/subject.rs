//! Every NATS subject, built and parsed here and nowhere else.
//!
//! All of them are `PREFIX.HOST.ENDPOINT`. The prefix (default [`DEFAULT_PREFIX`]) may have several tokens, so that
//! permissions and imports can be stated in one line, or none. A host name is one token, whatever it is made of.

use std::fmt;

/// The prefix that is used unless another one is given.
pub const DEFAULT_PREFIX: &str = "riptrace.v1";

/// The host token of what servers say to each other and to everyone. No host's name is encoded to it.
const SERVER_TOKEN: &str = "_server";

/// Bytes of a prefix at the most, so that no subject is longer than a broker takes.
const MAX_PREFIX_BYTES: usize = 128;

/// Bytes of a host name at the most (`HOST_NAME_MAX` is 64; encoded, three times as much).
pub const MAX_HOST_BYTES: usize = 255;

/// What an agent answers or publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// Request: host facts and every Go process.
    ProfileGet,
    /// Request: make processes ready, index their binaries.
    Attach,
    /// Request: forget them.
    Detach,
    /// Request: set a tracepoint.
    CreateTracepoint,
    /// Request: remove one, or all of an owner, a session or the host.
    RemoveTracepoint,
    /// Request: what is set, with its state.
    ListTracepoints,
    /// Request: lines of a file that can carry a tracepoint.
    Lines,
    /// Request: functions of a file or package.
    Functions,
    /// Request: what is known of a location.
    Explain,
    /// Request: a source file of the host.
    Source,
    /// Request: one exchange of timestamps.
    ClockSync,
    /// Publication: batches of hits and what else happened.
    Trace,
    /// Publication: liveness, and what the agent holds.
    Heartbeat,
}

impl Endpoint {
    /// Those that answer requests.
    pub const REQUESTS: [Self; 11] = [
        Self::ProfileGet,
        Self::Attach,
        Self::Detach,
        Self::CreateTracepoint,
        Self::RemoveTracepoint,
        Self::ListTracepoints,
        Self::Lines,
        Self::Functions,
        Self::Explain,
        Self::Source,
        Self::ClockSync,
    ];

    /// Those that are published.
    pub const PUBLICATIONS: [Self; 2] = [Self::Trace, Self::Heartbeat];

    /// The end of the subject, behind the host.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::ProfileGet => "profile.get",
            Self::Attach => "debugger.attach",
            Self::Detach => "debugger.detach",
            Self::CreateTracepoint => "debugger.createTracepoint",
            Self::RemoveTracepoint => "debugger.removeTracepoint",
            Self::ListTracepoints => "debugger.listTracepoints",
            Self::Lines => "debugger.lines",
            Self::Functions => "debugger.functions",
            Self::Explain => "debugger.explain",
            Self::Source => "debugger.source",
            Self::ClockSync => "clock.sync",
            Self::Trace => "debugger.trace",
            Self::Heartbeat => "heartbeat",
        }
    }

    fn of_suffix(suffix: &str) -> Option<Self> {
        Self::REQUESTS.into_iter().chain(Self::PUBLICATIONS).find(|endpoint| endpoint.suffix() == suffix)
    }
}

/// Why a prefix or a host name can't be part of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectError {
    /// The prefix.
    Prefix {
        /// What was given.
        prefix: String,
    },
    /// The host name.
    Host {
        /// What was given.
        host: String,
    },
}

impl fmt::Display for SubjectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { prefix } => write!(
                formatter,
                "{prefix:?} can't be a prefix of subjects: give dot-separated tokens of letters, digits, '-' and '_', \
                 {MAX_PREFIX_BYTES} bytes at the most, not beginning with '$'; or nothing"
            ),
            Self::Host { host } => write!(
                formatter,
                "{host:?} can't be a host's name here: it must have 1 to {MAX_HOST_BYTES} bytes; give one with --host-name"
            ),
        }
    }
}

impl std::error::Error for SubjectError {}

/// The subjects of one fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    /// With its closing dot; or empty.
    prefix: String,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { prefix: format!("{DEFAULT_PREFIX}.") }
    }
}

impl Subjects {
    /// The subjects below a prefix; an empty one gives `HOST.ENDPOINT`.
    ///
    /// # Errors
    ///
    /// The prefix can't be part of a subject.
    pub fn new(prefix: &str) -> Result<Self, SubjectError> {
        if prefix.is_empty() {
            return Ok(Self { prefix: String::new() });
        }
        let is_token = |token: &str| {
            !token.is_empty()
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.split('.').all(is_token) {
            return Err(SubjectError::Prefix { prefix: prefix.to_owned() });
        }
        Ok(Self { prefix: format!("{prefix}.") })
    }

    /// The prefix as it was given.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.prefix.trim_end_matches('.')
    }

    /// The subject of an endpoint of a host.
    ///
    /// # Errors
    ///
    /// The name is empty or too long.
    pub fn of(&self, host: &str, endpoint: Endpoint) -> Result<String, SubjectError> {
        Ok(format!("{}{}.{}", self.prefix, encode_host(host)?, endpoint.suffix()))
    }

    /// The same endpoint of every host.
    #[must_use]
    pub fn of_all(&self, endpoint: Endpoint) -> String {
        format!("{}*.{}", self.prefix, endpoint.suffix())
    }

    /// Where the holder of the lease writes clock estimates and watermarks.
    #[must_use]
    pub fn server_order(&self) -> String {
        format!("{}{SERVER_TOKEN}.order", self.prefix)
    }

    /// The name of the stream that keeps what agents publish. Fleets that share a broker have one each.
    #[must_use]
    pub fn stream_name(&self) -> String {
        self.named("RIPTRACE_TRACE")
    }

    /// The name of the key-value bucket of sessions and tracepoints.
    #[must_use]
    pub fn state_bucket(&self) -> String {
        self.named("RIPTRACE_STATE")
    }

    /// The name of the key-value bucket of the servers' lease.
    #[must_use]
    pub fn lease_bucket(&self) -> String {
        self.named("RIPTRACE_LEASE")
    }

    fn named(&self, base: &str) -> String {
        match self.prefix() {
            DEFAULT_PREFIX => base.to_owned(),
            "" => format!("{base}_"),
            // A dot may not be in a stream's name; `_` followed by a letter keeps the names apart.
            other => format!("{base}_{}", other.replace('_', "__").replace('.', "_d")),
        }
    }

    /// What a subject means.
    #[must_use]
    pub fn parse(&self, subject: &str) -> Option<Parsed> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let (token, suffix) = rest.split_once('.')?;
        if token == SERVER_TOKEN {
            return (suffix == "order").then_some(Parsed::ServerOrder);
        }
        Some(Parsed::Agent { host: decode_host(token)?, endpoint: Endpoint::of_suffix(suffix)? })
    }
}

/// What a subject means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An endpoint of a host.
    Agent {
        /// The host's name.
        host: String,
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// [`Subjects::server_order`].
    ServerOrder,
}

/// A host's name as one token: letters, digits and `-` stand for themselves, every other byte is `_` and two upper-case
/// hexadecimal digits.
fn encode_host(host: &str) -> Result<String, SubjectError> {
    if host.is_empty() || host.len() > MAX_HOST_BYTES {
        return Err(SubjectError::Host { host: host.to_owned() });
    }
    let mut token = String::with_capacity(host.len());
    for byte in host.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            token.push(char::from(byte));
        } else {
            token.push_str(&format!("_{byte:02X}"));
        }
    }
    Ok(token)
}

/// The reverse of [`encode_host`]; `None` for a token that it never gives.
fn decode_host(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'_' {
            bytes.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        rest = behind;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
    }
    let host = String::from_utf8(bytes).ok()?;
    // Lower-case digits, an escaped letter: another spelling of the same name would be another subject.
    (encode_host(&host).ok()? == token).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_of_every_host_is_parsed_back() {
        for prefix in ["", "riptrace.v1", "acme-1.prod.riptrace"] {
            let subjects = Subjects::new(prefix).unwrap();
            for host in
                ["node-a", "a.b.example", "two words", "*", ">", "_server", "", "größe", "$SYS", "a_b"]
            {
                for endpoint in Endpoint::REQUESTS.into_iter().chain(Endpoint::PUBLICATIONS) {
                    let Ok(subject) = subjects.of(host, endpoint) else {
                        assert_eq!(host, "");
                        continue;
                    };
                    assert!(subject.is_ascii() && !subject.contains([' ', '*', '>', '$']), "{subject}");
                    let tokens = if prefix.is_empty() { 0 } else { prefix.split('.').count() };
                    assert_eq!(subject.split('.').count(), tokens + 1 + endpoint.suffix().split('.').count());
                    let parsed = Parsed::Agent { host: host.to_owned(), endpoint };
                    assert_eq!(subjects.parse(&subject), Some(parsed));
                }
            }
            assert_eq!(subjects.parse(&subjects.server_order()), Some(Parsed::ServerOrder));
        }
    }

    #[test]
    fn without_a_prefix_the_subjects_are_the_bare_ones() {
        let subjects = Subjects::new("").unwrap();
        assert_eq!(subjects.of("web1", Endpoint::ProfileGet).unwrap(), "web1.profile.get");
        assert_eq!(subjects.of("web1", Endpoint::Trace).unwrap(), "web1.debugger.trace");
        assert_eq!(Subjects::default().of_all(Endpoint::Heartbeat), "riptrace.v1.*.heartbeat");
    }

    #[test]
    fn other_subjects_mean_nothing() {
        let subjects = Subjects::default();
        for subject in [
            "",
            "riptrace.v1",
            "riptrace.v1.a",
            "riptrace.v1.a.debugger",
            "riptrace.v1.a.debugger.trace.x",
            "riptrace.v2.a.heartbeat",
            "riptrace.v1._server.heartbeat",
            "riptrace.v1._2e.heartbeat",
            "riptrace.v1._41.heartbeat",
            "riptrace.v1._4.heartbeat",
            "riptrace.v1._FF.heartbeat",
            "riptrace.v1..heartbeat",
        ] {
            assert_eq!(subjects.parse(subject), None, "{subject}");
        }
    }

    #[test]
    fn fleets_on_one_broker_have_streams_of_their_own() {
        let names: Vec<_> = ["", "riptrace.v1", "a.b", "a_b", "a_db"]
            .map(|prefix| Subjects::new(prefix).unwrap().stream_name())
            .into();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert!(
            names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        );
    }

    #[test]
    fn a_prefix_is_made_of_tokens() {
        for prefix in [".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$SYS", "ä", &"a".repeat(129)] {
            assert!(Subjects::new(prefix).is_err(), "{prefix}");
        }
        assert!(Subjects::default().of(&"h".repeat(256), Endpoint::Trace).is_err());
    }
}
