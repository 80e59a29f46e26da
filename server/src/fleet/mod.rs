//! What the server knows of the fleet and can have it do: hosts, services, sessions, requests to agents. The API and the
//! reconciler share one [`Fleet`].

use riptrace_common::{
    id::{SessionId, TracepointId},
    wire::{
        api::{
            ChangeTracepoint, ClockState, Host, Kill, Killed, Live, NewSession, NewTracepoint, Service,
            Session, SessionStatus, SessionTracepoint,
        },
        message::{Error, ErrorCode},
        subject::Endpoint,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::broadcast;

/// Live events that a slow reader may be behind; past it, it is told that it missed some and reads them from the store.
const LIVE_QUEUE: usize = 4096;

/// The fleet as one server sees it. Cheap to share behind an `Arc`; every method can be called from any task.
#[derive(Debug)]
pub struct Fleet {
    live: broadcast::Sender<(SessionId, Live)>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { live: broadcast::channel(LIVE_QUEUE).0 }
    }
}

fn disconnected() -> Error {
    Error::new(ErrorCode::Unreachable, "the server has no connection to its broker")
}

impl Fleet {
    /// Every host that was heard of, by name.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        Vec::new()
    }

    /// Every service with its instances, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        Vec::new()
    }

    /// The clocks, and up to where the order is final.
    #[must_use]
    pub fn clock_state(&self) -> ClockState {
        ClockState::default()
    }

    /// Every session, the newest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        Vec::new()
    }

    /// A session with the states of its tracepoints.
    ///
    /// # Errors
    ///
    /// There is no such session.
    pub async fn session(&self, _id: &SessionId) -> Result<SessionStatus, Error> {
        Err(disconnected())
    }

    /// Makes a session and arms its tracepoints.
    ///
    /// # Errors
    ///
    /// A location is not one, the broker is away.
    pub async fn create_session(&self, _new: NewSession, _who: &str) -> Result<Session, Error> {
        Err(disconnected())
    }

    /// Lets a session's tracepoints be armed (`true`) or removed (`false`); its hits stay.
    ///
    /// # Errors
    ///
    /// There is no such session, the broker is away.
    pub async fn set_running(&self, _id: &SessionId, _running: bool) -> Result<Session, Error> {
        Err(disconnected())
    }

    /// Removes a session and its tracepoints. Its hits are the store's.
    ///
    /// # Errors
    ///
    /// There is no such session, the broker is away.
    pub async fn delete_session(&self, _id: &SessionId) -> Result<(), Error> {
        Err(disconnected())
    }

    /// Adds a tracepoint to a session.
    ///
    /// # Errors
    ///
    /// There is no such session, the location is none, the broker is away.
    pub async fn add_tracepoint(
        &self,
        _id: &SessionId,
        _new: NewTracepoint,
    ) -> Result<SessionTracepoint, Error> {
        Err(disconnected())
    }

    /// Changes a tracepoint of a session.
    ///
    /// # Errors
    ///
    /// There is none, the broker is away.
    pub async fn change_tracepoint(
        &self,
        _id: &SessionId,
        _tracepoint: &TracepointId,
        _change: ChangeTracepoint,
    ) -> Result<SessionTracepoint, Error> {
        Err(disconnected())
    }

    /// Removes a tracepoint from a session.
    ///
    /// # Errors
    ///
    /// There is none, the broker is away.
    pub async fn remove_tracepoint(&self, _id: &SessionId, _tracepoint: &TracepointId) -> Result<(), Error> {
        Err(disconnected())
    }

    /// Removes tracepoints at once, whoever set them.
    ///
    /// # Errors
    ///
    /// There is no such session or host, the broker is away.
    pub async fn kill(&self, _what: &Kill) -> Result<Killed, Error> {
        Err(disconnected())
    }

    /// Asks a host's agent; long replies are put together from their pages.
    ///
    /// # Errors
    ///
    /// What the agent answered; or it did not.
    pub async fn request<Request: Serialize + Sync, Answer: DeserializeOwned>(
        &self,
        _host: &str,
        _endpoint: Endpoint,
        _request: &Request,
    ) -> Result<Answer, Error> {
        Err(disconnected())
    }

    /// What happens from now on, of all sessions.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(SessionId, Live)> {
        self.live.subscribe()
    }
}
