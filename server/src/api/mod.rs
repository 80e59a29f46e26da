//! The HTTP API: `docs/schema/openapi.json` describes it, made of the same table ([`routes::table`]) that the router is.
//!
//! Reading the store is done on threads that may wait; everything else on the tasks that axum makes.

mod ask;
mod error;
mod fleet;
mod follow;
mod guard;
mod health;
mod hits;
pub mod openapi;
mod routes;
mod sessions;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts},
    http::{HeaderValue, header, request::Parts},
    middleware,
    response::Response,
};
use riptrace_common::wire::message::{Error, ErrorCode, MAX_REQUEST_BYTES};
use serde::Serialize;
use tokio::{net::TcpListener, sync::Semaphore};
use tower_http::compression::CompressionLayer;

use self::error::Refused;
use crate::{
    audit::{Happened, Log},
    fleet::Fleet,
    store::{Store, StoreError},
};

/// The file of the audit log, beside the store's.
const AUDIT_FILE: &str = "audit.jsonl";
/// Readers that follow sessions at a time.
const MAX_FOLLOWERS: usize = 256;
/// Exports at a time: each holds a version of the store's file.
const MAX_EXPORTS: usize = 4;

/// What the handlers share.
#[derive(Debug)]
pub struct Api {
    fleet: Arc<Fleet>,
    store: Store,
    audit: Log,
    token: Option<String>,
    followers: Arc<Semaphore>,
    exports: Arc<Semaphore>,
}

impl Api {
    /// An API over a fleet and a store. The audit log is beside the store's file.
    ///
    /// # Errors
    ///
    /// The audit log can't be opened.
    pub fn new(fleet: Arc<Fleet>, store: Store, token: Option<String>) -> anyhow::Result<Arc<Self>> {
        let audit = Log::open(&store.path().with_file_name(AUDIT_FILE))?;
        let token = token.filter(|token| !token.is_empty());
        Ok(Arc::new(Self {
            fleet,
            store,
            audit,
            token,
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
        }))
    }

    /// Readers that follow sessions now.
    fn following(&self) -> usize {
        MAX_FOLLOWERS - self.followers.available_permits()
    }

    /// Reads the store on a thread that may wait.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refused> {
        let api = Arc::clone(self);
        match tokio::task::spawn_blocking(move || read(&api)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Refused::new(ErrorCode::Failed, format!("reading the store ended: {error}"))),
        }
    }

    /// Does a change and writes down who asked for it and what became of it. `subject` is what is changed; for what is made
    /// by the change, `subject_of` names it.
    async fn change<T>(
        &self,
        caller: &Caller,
        (action, subject): (&'static str, String),
        detail: &(impl Serialize + Sync),
        work: impl Future<Output = Result<T, Error>>,
        subject_of: impl FnOnce(&T) -> Option<String>,
    ) -> Result<Json<T>, Refused> {
        self.audit.ready()?;
        let result = work.await;
        let subject = result.as_ref().ok().and_then(subject_of).unwrap_or(subject);
        let happened = Happened {
            who: caller.who.clone(),
            action,
            subject,
            detail: serde_json::to_value(detail).unwrap_or_default(),
            peer: caller.peer.clone(),
            error: result.as_ref().err().map(ToString::to_string),
        };
        // It is done; that it could not be written down yet stops the next change.
        if let Err(error) = self.audit.append(happened) {
            tracing::error!("{error}");
        }
        Ok(Json(result?))
    }
}

/// Who asks.
#[derive(Clone, Debug)]
struct Caller {
    who: String,
    peer: Option<String>,
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.to_string());
        let who = if api.token.is_some() { "token" } else { "local" };
        Ok(Self { who: who.to_owned(), peer })
    }
}

/// The router of all routes.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for route in routes::table() {
        router = router.route(&route.full_path(), route.handler);
    }
    let nowhere = || async {
        Refused::new(ErrorCode::NotFound, "there is nothing here; /api/v1/openapi.json says what there is")
    };
    let not_so = || async {
        Refused::with_status(
            axum::http::StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::BadRequest,
            "not with this method; /api/v1/openapi.json says with which",
        )
    };
    router
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard::guard))
        .layer(middleware::map_response(headers))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(CompressionLayer::new())
        .with_state(api)
}

/// What each answer says to browsers: not to guess what it is, and not to keep it.
async fn headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answers requests until `stop` is done; then those that are being answered have their end.
///
/// # Errors
///
/// The audit log can't be opened, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    fleet: Arc<Fleet>,
    store: Store,
    token: Option<String>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let api = Api::new(fleet, store, token)?;
    let (followers, exports) = (Arc::clone(&api.followers), Arc::clone(&api.exports));
    let stop = async move {
        stop.await;
        // Who follows a session would never end.
        followers.close();
        exports.close();
    };
    let service = router(api).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await.context("cannot answer HTTP requests")
}
