//! What an agent is told: validated, with defaults filled in. `cli::agent` makes it of flags, environment and file.

use std::{path::PathBuf, sync::Arc, time::Duration};

use riptrace_common::wire::{profile::Label, subject::Subjects};

use super::policy::Policy;
use crate::{nats::connection::ConnectionSettings, redact::Rules};

/// What all tracepoints of an agent may take, as a share of one core.
pub const DEFAULT_BUDGET: f64 = 0.05;
/// Bytes of hits that wait for the broker.
pub const DEFAULT_QUEUE_BYTES: u64 = 64 * 1024 * 1024;
/// How long the end may take: what is queued then is lost.
pub const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// Settings of an agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The broker.
    pub nats: ConnectionSettings,
    /// The subjects of the fleet.
    pub subjects: Subjects,
    /// The host's name in the fleet; `None`: the machine's own.
    pub host_name: Option<String>,
    /// What else is said of the host.
    pub labels: Vec<Label>,
    /// What all tracepoints together may take, as a share of one core; 0: no limit.
    pub budget: f64,
    /// Bytes of hits that wait for the broker at the most.
    pub queue_bytes: u64,
    /// Where inflated debug data and indexes are kept; `None`: the user's cache.
    pub cache: Option<PathBuf>,
    /// Where the agent notes what its next run is to know; `None`: nowhere.
    pub state: Option<PathBuf>,
    /// Source files may be read by the server.
    pub serve_sources: bool,
    /// Only processes of these services are looked at; none: all.
    pub only_services: Vec<String>,
    /// Only processes of these executables are looked at; none: all.
    pub only_executables: Vec<String>,
    /// What may never be traced, whoever asks.
    pub policy: Policy,
    /// What is never copied, whoever asks.
    pub redaction: Arc<Rules>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nats: ConnectionSettings {
                urls: vec![String::from("nats://127.0.0.1:4222")],
                ..Default::default()
            },
            subjects: Subjects::default(),
            host_name: None,
            labels: Vec::new(),
            budget: DEFAULT_BUDGET,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            cache: None,
            state: None,
            serve_sources: false,
            only_services: Vec::new(),
            only_executables: Vec::new(),
            policy: Policy::default(),
            redaction: Arc::default(),
        }
    }
}
