//! Live hits as server-sent events. They are read from the store behind the reader's cursor whenever something was written,
//! so that a reader that is slow, or comes back, misses none.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::Stream;
use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Live, SessionState},
        message::ErrorCode,
    },
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{Api, error::Refused, sessions::find};
use crate::store::Cursor;

/// Events that wait for the reader; past it, the store is not read on.
const EVENT_QUEUE: usize = 256;
/// Events that are read from the store at once.
const READ_AT_ONCE: usize = 500;
/// How often a quiet connection shows that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long hits of a session that stopped are waited for: those that are on their way, and places that are not final.
const LINGER: Duration = Duration::from_secs(10);
/// How long the first of them are waited for.
const LINGER_AT_LEAST: Duration = Duration::from_secs(1);

/// From where on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct LiveQuery {
    /// Behind this: an event's id, a page's `live`, a hit's `arrival`; 0: from the beginning; absent: from now on. The header
    /// Last-Event-ID goes before it.
    cursor: Option<String>,
}

pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    Path(session): Path<String>,
    headers: HeaderMap,
    query: Result<Query<LiveQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refused> {
    let Query(query) = query?;
    let id = find(&api, &session)?;
    let Ok(permit) = Arc::clone(&api.followers).try_acquire_owned() else {
        return Err(Refused::new(ErrorCode::Limit, "too many follow hits at this server already"));
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let from = last.or(query.cursor);
    let session = id.clone();
    let cursor = api
        .read(move |api| match from {
            Some(text) => api.store.live_cursor(&session, &text),
            None => api.store.live_from_now(&session),
        })
        .await?;
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    tokio::spawn(run(api, id, cursor, events, permit));
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// A reader is gone.
struct Gone;

type Events = mpsc::Sender<Result<Event, Infallible>>;

async fn send(events: &Events, cursor: Option<Cursor>, live: &Live) -> Result<(), Gone> {
    let mut event = Event::default().data(serde_json::to_string(live).unwrap_or_default());
    if let Some(cursor) = cursor {
        event = event.id(cursor.to_string());
    }
    events.send(Ok(event)).await.map_err(|_| Gone)
}

async fn run(
    api: Arc<Api>,
    session: SessionId,
    cursor: Cursor,
    events: Events,
    permit: OwnedSemaphorePermit,
) {
    let followers = Arc::clone(&api.followers);
    tokio::select! {
        // The reader left, or the store failed, which is logged: both end the stream, and the reader can come back.
        _ = tell(&api, &session, cursor, &events) => {}
        () = events.closed() => {}
        () = closed(&followers) => {}
    }
    drop(permit);
}

/// Waits until the server stops: nothing is to be had of the semaphore then.
async fn closed(followers: &Semaphore) {
    // More than there are: it waits until the semaphore is closed.
    let _ = followers.acquire_many(u32::MAX >> 4).await;
}

async fn tell(api: &Arc<Api>, session: &SessionId, mut cursor: Cursor, events: &Events) -> Result<(), Gone> {
    // First, so that nothing that is written from now on is overlooked.
    let mut changed = api.store.changed();
    let mut states = api.fleet.subscribe();
    let mut watermark_ns = 0;
    let is_stopped = |known: &riptrace_common::wire::api::Session| {
        known.id == *session && known.state == SessionState::Stopped
    };
    let mut stopped_at = api.fleet.sessions().iter().any(is_stopped).then(Instant::now);
    loop {
        loop {
            let id = session.clone();
            let read = api.read(move |api| api.store.live(&id, cursor, READ_AT_ONCE)).await;
            let live = read.map_err(|error| {
                tracing::error!("live hits of {session}: {}", error.text());
                Gone
            })?;
            for (next, event) in &live.events {
                cursor = *next;
                send(events, Some(cursor), event).await?;
            }
            if live.watermark_ns > watermark_ns && !live.more {
                watermark_ns = live.watermark_ns;
                send(events, None, &Live::Watermark { watermark_ns }).await?;
            }
            if !live.more {
                break;
            }
        }
        if let Some(at) = stopped_at {
            let id = session.clone();
            let provisional = api.read(move |api| Ok(api.store.provisional_count(&id))).await;
            let is_over = at.elapsed() >= LINGER_AT_LEAST && provisional.is_ok_and(|count| count == 0);
            if is_over || at.elapsed() >= LINGER {
                return send(events, None, &Live::Stopped).await;
            }
        }
        tokio::select! {
            result = changed.changed() => result.map_err(|_| Gone)?,
            event = states.recv() => match event {
                Ok((of, Live::Stopped)) if of == *session => stopped_at = stopped_at.or(Some(Instant::now())),
                Ok((of, state @ Live::State(_))) if of == *session => send(events, None, &state).await?,
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => send(events, None, &Live::Missed { events: count }).await?,
                Err(RecvError::Closed) => return Err(Gone),
            },
            () = tokio::time::sleep(LINGER_AT_LEAST), if stopped_at.is_some() => {}
        }
    }
}
