//! Pages of hits, and the evidence file.

use std::{ops::ControlFlow, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use riptrace_common::wire::{
    api::{HitPage, HitQuery},
    message::ErrorCode,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Api,
    error::Refused,
    sessions::{find, status},
};
use crate::evidence;

/// Pieces of an export that wait for their reader.
const EXPORT_QUEUE: usize = 4;

pub(super) async fn page(
    State(api): State<Arc<Api>>,
    Path(session): Path<String>,
    query: Result<Query<HitQuery>, QueryRejection>,
) -> Result<Json<HitPage>, Refused> {
    let Query(query) = query?;
    let id = find(&api, &session)?;
    let page = api.read(move |api| api.store.hits(&id, &query)).await?;
    Ok(Json(page))
}

pub(super) async fn export(
    State(api): State<Arc<Api>>,
    Path(session): Path<String>,
) -> Result<Response, Refused> {
    let id = find(&api, &session)?;
    let Ok(permit) = Arc::clone(&api.exports).try_acquire_owned() else {
        return Err(Refused::new(
            ErrorCode::Limit,
            "other sessions are being exported; try again when they are done",
        ));
    };
    let status = status(&api, &id).await?;
    let clocks = api.fleet.clock_state();
    let name: String =
        id.as_str().chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).collect();
    let (pieces, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(EXPORT_QUEUE);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut take = |piece: Vec<u8>| match pieces.blocking_send(Ok(piece.into())) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_gone) => ControlFlow::Break(()),
        };
        if let Err(error) = evidence::write(&api.store, status, clocks, &mut take) {
            tracing::error!("an export broke off: {error}");
            // The connection is cut, so that nobody takes the part for the whole.
            let _ = pieces.blocking_send(Err(std::io::Error::other(error)));
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.riptrace.jsonl\"")),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver).boxed())).into_response())
}
