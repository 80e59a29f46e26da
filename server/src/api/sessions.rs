//! Sessions and their tracepoints.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
};
use riptrace_common::{
    id::{SessionId, TracepointId},
    wire::{
        api::{ChangeTracepoint, NewSession, NewTracepoint, Session, SessionStatus, SessionTracepoint},
        message::{Error, ErrorCode},
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Api, Caller, error::Refused};
use crate::accounting;

/// An object without fields: it is done.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub(super) struct Nothing {}

/// The session that is meant by its id, its name, or the beginning of its id.
pub(super) fn find(api: &Api, text: &str) -> Result<SessionId, Refused> {
    find_among(&api.fleet.sessions(), text)
}

fn find_among(sessions: &[Session], text: &str) -> Result<SessionId, Refused> {
    let is_id = |session: &&Session| session.id.as_str() == text;
    let is_name = |session: &&Session| session.name == text;
    let begins = |session: &&Session| !text.is_empty() && session.id.as_str().starts_with(text);
    let ways: [&dyn Fn(&&Session) -> bool; 3] = [&is_id, &is_name, &begins];
    for is_meant in ways {
        match sessions.iter().filter(is_meant).collect::<Vec<_>>().as_slice() {
            [] => {}
            [session] => return Ok(session.id.clone()),
            many => {
                let ids: Vec<&str> = many.iter().take(5).map(|session| session.id.as_str()).collect();
                let text =
                    format!("{text:?} means {} sessions ({}…); give an id", many.len(), ids.join(", "));
                return Err(Refused::new(ErrorCode::Conflict, text));
            }
        }
    }
    Err(Refused::new(ErrorCode::NotFound, format!("no session {text:?}; `riptrace session list` lists them")))
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<Session>> {
    Json(api.fleet.sessions())
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: Result<Json<NewSession>, JsonRejection>,
) -> Result<Json<Session>, Refused> {
    let Json(new) = body?;
    let work = api.fleet.create_session(new.clone(), &caller.who);
    let subject = ("session.create", new.name.clone().unwrap_or_default());
    api.change(&caller, subject, &new, work, |session| Some(session.id.to_string())).await
}

/// A session with what the store knows of it.
pub(super) async fn status(api: &Arc<Api>, id: &SessionId) -> Result<SessionStatus, Refused> {
    let mut status = api.fleet.session(id).await?;
    let session = id.clone();
    let read =
        move |api: &Api| Ok((api.store.counts(&session), api.store.agents(), api.store.watermark_ns()));
    let (counts, agents, watermark_ns) = api.read(read).await?;
    status.stored = counts.stored;
    let is_over = |agent: &_| api.fleet.is_over(agent);
    status.losses = accounting::losses(&counts.tracepoints, &agents, is_over);
    status.unaccounted = accounting::unaccounted(&counts.tracepoints, is_over);
    status.watermark_ns = status.watermark_ns.max(watermark_ns);
    Ok(status)
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Path(session): Path<String>,
) -> Result<Json<SessionStatus>, Refused> {
    let id = find(&api, &session)?;
    Ok(Json(status(&api, &id).await?))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(session): Path<String>,
) -> Result<Json<Nothing>, Refused> {
    let id = find(&api, &session)?;
    let work = async {
        api.fleet.delete_session(&id).await?;
        let (store, session) = (api.store.clone(), id.clone());
        let removed = tokio::task::spawn_blocking(move || store.delete_session(&session)).await;
        let failed = |text: String| {
            Error::new(ErrorCode::Failed, format!("the session is gone, its hits are not: {text}"))
        };
        removed.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        Ok(Nothing {})
    };
    api.change(&caller, ("session.delete", id.to_string()), &(), work, |_| None).await
}

pub(super) async fn start(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(session): Path<String>,
) -> Result<Json<Session>, Refused> {
    let id = find(&api, &session)?;
    let work = api.fleet.set_running(&id, true);
    api.change(&caller, ("session.start", id.to_string()), &(), work, |_| None).await
}

pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(session): Path<String>,
) -> Result<Json<Session>, Refused> {
    let id = find(&api, &session)?;
    let work = api.fleet.set_running(&id, false);
    api.change(&caller, ("session.stop", id.to_string()), &(), work, |_| None).await
}

pub(super) async fn add(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(session): Path<String>,
    body: Result<Json<NewTracepoint>, JsonRejection>,
) -> Result<Json<SessionTracepoint>, Refused> {
    let Json(new) = body?;
    let id = find(&api, &session)?;
    let work = api.fleet.add_tracepoint(&id, new.clone());
    let made = |tracepoint: &SessionTracepoint| Some(format!("{id}/{}", tracepoint.id));
    api.change(&caller, ("tracepoint.add", id.to_string()), &new, work, made).await
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((session, tracepoint)): Path<(String, String)>,
    body: Result<Json<ChangeTracepoint>, JsonRejection>,
) -> Result<Json<SessionTracepoint>, Refused> {
    let Json(change) = body?;
    let id = find(&api, &session)?;
    let tracepoint = TracepointId::from(tracepoint);
    let work = api.fleet.change_tracepoint(&id, &tracepoint, change.clone());
    api.change(&caller, ("tracepoint.change", format!("{id}/{tracepoint}")), &change, work, |_| None).await
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((session, tracepoint)): Path<(String, String)>,
) -> Result<Json<Nothing>, Refused> {
    let id = find(&api, &session)?;
    let tracepoint = TracepointId::from(tracepoint);
    let work = async { api.fleet.remove_tracepoint(&id, &tracepoint).await.map(|()| Nothing {}) };
    api.change(&caller, ("tracepoint.remove", format!("{id}/{tracepoint}")), &(), work, |_| None).await
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::api::SessionState;

    use super::*;

    #[test]
    fn a_session_is_meant_by_id_name_or_beginning() {
        let session = |id: &str, name: &str| Session {
            id: SessionId::from(id),
            name: name.to_owned(),
            state: SessionState::Running,
            created_ns: 0,
            expires_ns: 0,
            created_by: "local".to_owned(),
            tracepoints: Vec::new(),
        };
        let sessions = [
            session("s_ab1", "slow orders"),
            session("s_ab2", "twice"),
            session("s_c", "twice"),
            session("s_ab", "x"),
        ];
        for (text, expect) in [
            ("s_ab1", Ok("s_ab1")),
            ("s_ab", Ok("s_ab")),
            ("slow orders", Ok("s_ab1")),
            ("s_c", Ok("s_c")),
            ("twice", Err("means 2 sessions")),
            ("s_a", Err("means 3 sessions")),
            ("nothing", Err("no session")),
            ("", Err("no session")),
        ] {
            match (find_among(&sessions, text), expect) {
                (Ok(id), Ok(expect)) => assert_eq!(id.as_str(), expect),
                (Err(error), Err(expect)) => assert!(error.text().contains(expect), "{}", error.text()),
                (other, expect) => panic!("{text}: {other:?}, not {expect:?}"),
            }
        }
    }
}
