//! Hosts, services, clocks, the kill switch, the audit log.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
};
use riptrace_common::wire::{
    api::{AuditEntry, ClockState, Host, Kill, Killed, Service},
    message::ErrorCode,
    profile::GoProcess,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Api, Caller, error::Refused, sessions};

pub(super) async fn hosts(State(api): State<Arc<Api>>) -> Json<Vec<Host>> {
    Json(api.fleet.hosts())
}

pub(super) async fn processes(
    State(api): State<Arc<Api>>,
    Path(host): Path<String>,
) -> Result<Json<Vec<GoProcess>>, Refused> {
    if !api.fleet.hosts().iter().any(|known| known.facts.host == host) {
        return Err(no_host(&host));
    }
    let services = api.fleet.services();
    let instances = services.into_iter().flat_map(|service| service.instances);
    let mut processes: Vec<GoProcess> =
        instances.filter(|instance| instance.host == host).map(|instance| instance.process).collect();
    processes.sort_by_key(|process| process.pid);
    Ok(Json(processes))
}

fn no_host(host: &str) -> Refused {
    Refused::new(ErrorCode::NotFound, format!("no host {host:?} was heard of; `riptrace hosts` lists them"))
}

pub(super) async fn services(State(api): State<Arc<Api>>) -> Json<Vec<Service>> {
    Json(api.fleet.services())
}

pub(super) async fn clock(State(api): State<Arc<Api>>) -> Json<ClockState> {
    Json(api.fleet.clock_state())
}

pub(super) async fn kill(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: Result<Json<Kill>, JsonRejection>,
) -> Result<Json<Killed>, Refused> {
    let Json(mut kill) = body?;
    if let Kill::Session(session) = &mut kill {
        *session = sessions::find(&api, session.as_str())?;
    }
    let subject = match &kill {
        Kill::Session(session) => format!("session {session}"),
        Kill::Host(host) => format!("host {host}"),
        Kill::All => "all".to_owned(),
    };
    api.change(&caller, ("kill", subject), &kill, api.fleet.kill(&kill), |_| None).await
}

/// Which entries.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct AuditQuery {
    /// Behind the one with this number.
    #[serde(default)]
    after: u64,
}

pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Vec<AuditEntry>>, Refused> {
    let Query(query) = query?;
    let log = Arc::clone(&api);
    let entries = tokio::task::spawn_blocking(move || log.audit.entries(query.after)).await;
    match entries {
        Ok(entries) => Ok(Json(entries?)),
        Err(error) => Err(Refused::new(ErrorCode::Failed, format!("reading the audit log ended: {error}"))),
    }
}
