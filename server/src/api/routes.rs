//! The one table of routes: the router and the OpenAPI document are made of it.

use std::sync::Arc;

use axum::{
    http::Method,
    routing::{MethodRouter, delete, get, patch, post},
};
use riptrace_common::wire::{
    api::{
        API_PATH, Ask, AuditEntry, ChangeTracepoint, ClockState, HitPage, HitQuery, Host, Kill, Killed, Live,
        NewSession, NewTracepoint, Service, Session, SessionStatus, SessionTracepoint, StoredHit,
    },
    control::{
        ExplainReply, ExplainRequest, FunctionsReply, FunctionsRequest, LinesReply, LinesRequest,
        SourceReply, SourceRequest,
    },
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{Api, ask, fleet, follow, health, hits, sessions};

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a route answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Json(SchemaOf),
    /// Server-sent events, each with one of these.
    Events(SchemaOf),
    /// JSON lines, behind the first line each with one of these.
    Lines(SchemaOf),
    Text,
    /// A JSON document of its own.
    Document,
}

/// A route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Below [`API_PATH`], unless [`Route::is_outside`].
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) body: Option<SchemaOf>,
    pub(super) answer: Answer,
    pub(super) is_outside: bool,
    pub(super) handler: MethodRouter<Arc<Api>>,
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        (name, summary): (&'static str, &'static str),
        handler: MethodRouter<Arc<Api>>,
    ) -> Self {
        Self {
            method,
            path,
            name,
            summary,
            query: None,
            body: None,
            answer: Answer::Text,
            is_outside: false,
            handler,
        }
    }

    fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    fn gives<T: JsonSchema>(self) -> Self {
        self.answers(Answer::Json(SchemaGenerator::subschema_for::<T>))
    }

    fn answers(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    fn outside(mut self) -> Self {
        self.is_outside = true;
        self
    }

    pub(super) fn full_path(&self) -> String {
        format!("{}{}", if self.is_outside { "" } else { API_PATH }, self.path)
    }
}

/// Every route.
pub(super) fn table() -> Vec<Route> {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const DELETE: Method = Method::DELETE;
    let new = Route::new;
    vec![
        new(GET, "/hosts", ("listHosts", "Every host that was heard of"), get(fleet::hosts))
            .gives::<Vec<Host>>(),
        new(
            GET,
            "/hosts/{host}/processes",
            ("listProcesses", "The Go processes of a host"),
            get(fleet::processes),
        )
        .gives::<Vec<riptrace_common::wire::profile::GoProcess>>(),
        new(GET, "/services", ("listServices", "Every service with its instances"), get(fleet::services))
            .gives::<Vec<Service>>(),
        new(
            GET,
            "/clock",
            ("clockState", "The clocks, and up to where the order is final"),
            get(fleet::clock),
        )
        .gives::<ClockState>(),
        new(POST, "/kill", ("kill", "Remove tracepoints at once, whoever set them"), post(fleet::kill))
            .takes::<Kill>()
            .gives::<Killed>(),
        new(
            GET,
            "/audit",
            ("audit", "Who changed what, and when: behind an entry, the oldest first"),
            get(fleet::audit),
        )
        .query::<fleet::AuditQuery>()
        .gives::<Vec<AuditEntry>>(),
        new(GET, "/sessions", ("listSessions", "Every session, the newest first"), get(sessions::list))
            .gives::<Vec<Session>>(),
        new(
            POST,
            "/sessions",
            ("createSession", "Make a session and arm its tracepoints"),
            post(sessions::create),
        )
        .takes::<NewSession>()
        .gives::<Session>(),
        new(
            GET,
            "/sessions/{session}",
            ("getSession", "A session with the states of its tracepoints"),
            get(sessions::show),
        )
        .gives::<SessionStatus>(),
        new(
            DELETE,
            "/sessions/{session}",
            ("deleteSession", "Remove a session, its tracepoints and its hits"),
            delete(sessions::delete),
        )
        .gives::<sessions::Nothing>(),
        new(
            POST,
            "/sessions/{session}/start",
            ("startSession", "Arm a session's tracepoints"),
            post(sessions::start),
        )
        .gives::<Session>(),
        new(
            POST,
            "/sessions/{session}/stop",
            ("stopSession", "Remove a session's tracepoints; its hits stay"),
            post(sessions::stop),
        )
        .gives::<Session>(),
        new(
            POST,
            "/sessions/{session}/tracepoints",
            ("addTracepoint", "Add a tracepoint to a session"),
            post(sessions::add),
        )
        .takes::<NewTracepoint>()
        .gives::<SessionTracepoint>(),
        new(
            Method::PATCH,
            "/sessions/{session}/tracepoints/{tracepoint}",
            ("changeTracepoint", "Change a tracepoint"),
            patch(sessions::change),
        )
        .takes::<ChangeTracepoint>()
        .gives::<SessionTracepoint>(),
        new(
            DELETE,
            "/sessions/{session}/tracepoints/{tracepoint}",
            ("removeTracepoint", "Remove a tracepoint from a session; its hits stay"),
            delete(sessions::remove),
        )
        .gives::<sessions::Nothing>(),
        new(
            GET,
            "/sessions/{session}/hits",
            ("listHits", "Hits in their order: those whose place is final, then the others by time"),
            get(hits::page),
        )
        .query::<HitQuery>()
        .gives::<HitPage>(),
        new(
            GET,
            "/sessions/{session}/live",
            (
                "followHits",
                "Hits as they come, and as their places become final; Last-Event-ID goes on behind an event",
            ),
            get(follow::follow),
        )
        .query::<follow::LiveQuery>()
        .answers(Answer::Events(SchemaGenerator::subschema_for::<Live>)),
        new(
            GET,
            "/sessions/{session}/export",
            ("exportSession", "The evidence file: a line with the header, then one for each hit"),
            get(hits::export),
        )
        .answers(Answer::Lines(SchemaGenerator::subschema_for::<StoredHit>)),
        new(
            POST,
            "/lines",
            ("lines", "Which lines of a file can carry a tracepoint"),
            post(ask::ask::<LinesRequest>),
        )
        .takes::<Ask<LinesRequest>>()
        .gives::<LinesReply>(),
        new(
            POST,
            "/functions",
            ("functions", "The functions of a file or package"),
            post(ask::ask::<FunctionsRequest>),
        )
        .takes::<Ask<FunctionsRequest>>()
        .gives::<FunctionsReply>(),
        new(
            POST,
            "/explain",
            ("explain", "What is known of a location before anything is armed"),
            post(ask::ask::<ExplainRequest>),
        )
        .takes::<Ask<ExplainRequest>>()
        .gives::<ExplainReply>(),
        new(POST, "/source", ("source", "A source file of a host"), post(ask::ask::<SourceRequest>))
            .takes::<Ask<SourceRequest>>()
            .gives::<SourceReply>(),
        new(GET, "/openapi.json", ("openapi", "This document"), get(health::openapi))
            .answers(Answer::Document),
        new(GET, "/healthz", ("healthz", "Whether the server runs"), get(health::healthz)).outside(),
        new(
            GET,
            "/readyz",
            ("readyz", "Whether the server can do its work, or why not"),
            get(health::readyz),
        )
        .outside(),
        new(GET, "/metrics", ("metrics", "Figures for Prometheus"), get(health::metrics)).outside(),
    ]
}
