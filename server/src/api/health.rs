//! Whether the server is well, its figures, and its own description.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{Api, openapi};
use crate::metrics;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let mut problems = api.fleet.problems();
    problems.extend(api.audit.ready().err().map(|error| error.to_string()));
    if problems.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let text = api.read(|api| Ok(metrics::text(&api.fleet, &api.store, api.following()))).await;
    let text = match text {
        Ok(text) => text,
        Err(refused) => return refused.into_response(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn openapi() -> Json<Value> {
    Json(openapi::document())
}
