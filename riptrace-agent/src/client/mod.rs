//! The fleet's HTTP API as the command line uses it. The types are those of `wire::api`.

mod live;

use std::{io::Read, time::Duration};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use riptrace_common::wire::{
    api::{
        API_PATH, ChangeTracepoint, HitPage, HitQuery, Host, Kill, Killed, NewSession, NewTracepoint,
        Service, Session, SessionStatus, SessionTracepoint,
    },
    message::{self, ErrorCode},
};
use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent, Body,
    http::{Request, Response},
};

pub use live::LiveEvents;

/// Where a server listens unless it is told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7440";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Asking all agents of a large fleet takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer that is kept in memory; exports are streamed.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// What may not stand in one part of a path.
const IN_PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'/').add(b'<').add(b'>').add(b'?');

/// Why the server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It can't be reached.
    #[error(
        "cannot reach the server at {server}: {source}; say where it is with --server or RIPTRACE_SERVER"
    )]
    Unreachable {
        /// Where it should be.
        server: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// It refused.
    #[error("{0}")]
    Refused(#[from] message::Error),
    /// It answered something that is none of its answers.
    #[error("what answers at {server} is no RipTrace server, or one of another version: {reason}")]
    Foreign {
        /// Where.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// Why it was refused, for programs.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.code),
            _ => None,
        }
    }
}

/// A server.
#[derive(Clone, Debug)]
pub struct Client {
    server: String,
    token: Option<String>,
    agent: Agent,
}

impl Client {
    /// The server at an address; nothing is asked yet.
    #[must_use]
    pub fn new(server: &str, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .user_agent(concat!("riptrace/", env!("CARGO_PKG_VERSION")))
            .build();
        let server = server.trim_end_matches('/');
        let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        Self { server, token, agent: config.new_agent() }
    }

    /// Every host that was heard of.
    pub fn hosts(&self) -> Result<Vec<Host>, ClientError> {
        self.get("/hosts")
    }

    /// Every service with its instances.
    pub fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.get("/services")
    }

    /// Every session.
    pub fn sessions(&self) -> Result<Vec<Session>, ClientError> {
        self.get("/sessions")
    }

    /// A session with what became of its tracepoints. An id may be its beginning, or the session's name.
    pub fn session(&self, id: &str) -> Result<SessionStatus, ClientError> {
        self.get(&session_path(id, ""))
    }

    /// Makes a session.
    pub fn create_session(&self, new: &NewSession) -> Result<Session, ClientError> {
        self.send("POST", "/sessions", new)
    }

    /// Arms a session's tracepoints, or disarms them.
    pub fn set_running(&self, id: &str, running: bool) -> Result<Session, ClientError> {
        self.send("POST", &session_path(id, if running { "/start" } else { "/stop" }), &())
    }

    /// Removes a session with its hits.
    pub fn delete_session(&self, id: &str) -> Result<(), ClientError> {
        self.send::<_, serde_json::Value>("DELETE", &session_path(id, ""), &()).map(drop)
    }

    /// Adds a tracepoint.
    pub fn add_tracepoint(&self, id: &str, new: &NewTracepoint) -> Result<SessionTracepoint, ClientError> {
        self.send("POST", &session_path(id, "/tracepoints"), new)
    }

    /// Changes a tracepoint.
    pub fn change_tracepoint(
        &self,
        id: &str,
        tracepoint: &str,
        change: &ChangeTracepoint,
    ) -> Result<SessionTracepoint, ClientError> {
        self.send("PATCH", &session_path(id, &format!("/tracepoints/{}", part(tracepoint))), change)
    }

    /// Removes a tracepoint.
    pub fn remove_tracepoint(&self, id: &str, tracepoint: &str) -> Result<(), ClientError> {
        let path = session_path(id, &format!("/tracepoints/{}", part(tracepoint)));
        self.send::<_, serde_json::Value>("DELETE", &path, &()).map(drop)
    }

    /// A page of a session's hits.
    pub fn hits(&self, id: &str, query: &HitQuery) -> Result<HitPage, ClientError> {
        let fields = serde_json::to_value(query).map_err(|error| self.foreign(&error))?;
        let mut request = Request::builder().method("GET").uri(self.url(&session_path(id, "/hits")));
        let mut pairs = Vec::new();
        for (name, value) in fields.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            pairs.push(format!("{name}={}", utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC)));
        }
        if !pairs.is_empty() {
            request = request.uri(format!("{}?{}", self.url(&session_path(id, "/hits")), pairs.join("&")));
        }
        self.answer(self.run(request, &[])?)
    }

    /// What happens in a session behind an event, by its id ([`LiveEvents::last_id`]); "0": all of it.
    pub fn live(&self, id: &str, cursor: &str) -> Result<LiveEvents, ClientError> {
        let cursor = utf8_percent_encode(cursor, IN_PATH);
        let path = format!("{}?cursor={cursor}", session_path(id, "/live"));
        let request =
            Request::builder().method("GET").uri(self.url(&path)).header("Accept", "text/event-stream");
        let response = self.accepted(self.run(request, &[])?)?;
        Ok(LiveEvents::new(response.into_body().into_with_config().limit(u64::MAX).reader()))
    }

    /// A session as an evidence file.
    pub fn export(&self, id: &str) -> Result<impl Read + use<>, ClientError> {
        let request = Request::builder().method("GET").uri(self.url(&session_path(id, "/export")));
        let response = self.accepted(self.run(request, &[])?)?;
        Ok(response.into_body().into_with_config().limit(u64::MAX).reader())
    }

    /// The kill switch.
    pub fn kill(&self, what: &Kill) -> Result<Killed, ClientError> {
        self.send("POST", "/kill", what)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.run(Request::builder().method("GET").uri(self.url(path)), &[])?)
    }

    fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let text = serde_json::to_vec(body).map_err(|error| self.foreign(&error))?;
        let request =
            Request::builder().method(method).uri(self.url(path)).header("Content-Type", "application/json");
        self.answer(self.run(request, &text)?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{API_PATH}{path}", self.server)
    }

    fn run(&self, request: ureq::http::request::Builder, body: &[u8]) -> Result<Response<Body>, ClientError> {
        let request = match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        let unreachable =
            |source| ClientError::Unreachable { server: self.server.clone(), source: Box::new(source) };
        let request = request.body(body).map_err(|error| unreachable(error.into()))?;
        // A body with DELETE is nothing that the standard forbids, and saves a second way.
        let request = self.agent.configure_request(request).allow_non_standard_methods(true).build();
        self.agent.run(request).map_err(unreachable)
    }

    /// The response, unless it says that it was refused.
    fn accepted(&self, response: Response<Body>) -> Result<Response<Body>, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.into_body().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        let text = text.map_err(|error| self.foreign(&error))?;
        Err(match serde_json::from_str::<message::Error>(&text) {
            Ok(error) => ClientError::Refused(error),
            Err(_) => self.foreign(&format!("status {status}")),
        })
    }

    fn answer<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, ClientError> {
        let body = self.accepted(response)?.into_body().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = body.map_err(|error| self.foreign(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.foreign(&error))
    }

    fn foreign(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Foreign { server: self.server.clone(), reason: reason.to_string() }
    }
}

fn session_path(id: &str, rest: &str) -> String {
    format!("/sessions/{}{rest}", part(id))
}

fn part(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}
