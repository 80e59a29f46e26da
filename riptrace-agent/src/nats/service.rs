//! Answers requests: every endpoint is a subscription of its own, found by `nats micro ls`. What is asked and answered is
//! text here; [`Answers`] knows what it means.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_nats::{
    Client,
    service::{Service, ServiceExt},
};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use riptrace_common::wire::{
    message::{Error, ErrorCode, Incoming, Page, Reply, VERSION, read_request},
    subject::{Endpoint, Subjects},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::pages::Pages;

/// The service's name.
pub const SERVICE_NAME: &str = "riptrace-agent";
/// Requests that are worked on at the same time; more wait for their turn.
const MAX_CONCURRENT: usize = 32;
/// Kept of a message for what is around the reply itself.
const ENVELOPE_BYTES: usize = 1024;

/// Knows what requests mean.
pub trait Answers: Send + Sync + 'static {
    /// The text of the answer to a request.
    fn answer(self: Arc<Self>, endpoint: Endpoint, request: Bytes) -> BoxFuture<'static, Vec<u8>>;
}

/// Subscribes to the endpoints, and answers until the service is dropped or stopped.
///
/// # Errors
///
/// The client is closed.
pub async fn serve(
    client: &Client,
    subjects: &Subjects,
    host: &str,
    agent: &str,
    metadata: HashMap<String, String>,
    endpoints: &[Endpoint],
    answers: Arc<dyn Answers>,
) -> Result<Service, async_nats::Error> {
    let service = client
        .service_builder()
        .description("RipTrace node agent: tracepoints in the Go processes of one host")
        .metadata(metadata)
        // Two agents with one name both answer, so that it shows.
        .queue_group(agent)
        .start(SERVICE_NAME, env!("CARGO_PKG_VERSION"))
        .await?;
    let concurrent = Arc::new(Semaphore::new(MAX_CONCURRENT));
    for &endpoint in endpoints {
        let subject = subjects.of(host, endpoint)?;
        let name = endpoint.suffix().replace('.', "-");
        let mut requests = service.endpoint_builder().name(name).add(subject).await?;
        let (answers, concurrent) = (Arc::clone(&answers), Arc::clone(&concurrent));
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let Ok(permit) = Arc::clone(&concurrent).acquire_owned().await else { return };
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    let text = answers.answer(endpoint, request.message.payload.clone()).await;
                    // Who asked without a subject to answer to does not want to know.
                    if let Err(error) = request.respond(Ok(text.into())).await {
                        tracing::debug!(%error, "a request could not be answered");
                    }
                    drop(permit);
                });
            }
        });
    }
    Ok(service)
}

/// Reads requests and writes replies, in pages where they are too long.
#[derive(Debug)]
pub struct Desk {
    client: Client,
    /// What names of replies begin with.
    agent: String,
    pages: Mutex<Pages>,
}

impl Desk {
    /// Replies over this connection.
    #[must_use]
    pub fn new(client: Client, agent: &str) -> Self {
        Self { client, agent: agent.to_owned(), pages: Mutex::default() }
    }

    /// Reads a request, has it carried out, and writes the reply.
    pub async fn handle<T, R, F>(&self, request: &[u8], carry_out: impl FnOnce(T) -> F) -> Vec<u8>
    where
        T: DeserializeOwned,
        R: Serialize,
        F: Future<Output = Result<R, Error>>,
    {
        match read_request::<T>(request) {
            Ok(Incoming::Body(body)) => self.write(carry_out(body).await),
            Ok(Incoming::Page(wanted)) => {
                let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
                match pages.page(&wanted, Instant::now()) {
                    Ok(page) => page_text(page),
                    Err(error) => error_text(error),
                }
            }
            Err(error) => error_text(error),
        }
    }

    fn write<R: Serialize>(&self, result: Result<R, Error>) -> Vec<u8> {
        let body = match result {
            Ok(body) => body,
            Err(error) => return error_text(error),
        };
        let text = match serde_json::to_string(&body) {
            Ok(text) => text,
            Err(error) => return error_text(Error::new(ErrorCode::Failed, error.to_string())),
        };
        let room = self.client.max_payload().saturating_sub(ENVELOPE_BYTES);
        if text.len() <= room {
            return format!("{{\"v\":{VERSION},\"ok\":{text}}}").into_bytes();
        }
        // As a JSON string, the text of JSON is at most twice as long.
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        match pages.cut(&self.agent, &text, room / 2, Instant::now()) {
            Some(page) => page_text(page),
            None => error_text(Error::new(ErrorCode::Failed, "the reply could not be cut into pages")),
        }
    }
}

fn page_text(page: Page) -> Vec<u8> {
    let reply: Reply<()> = Reply { v: VERSION, ok: None, error: None, page: Some(page) };
    serde_json::to_vec(&reply).unwrap_or_default()
}

/// The reply that says why there is none.
#[must_use]
pub fn error_text(error: Error) -> Vec<u8> {
    let reply: Reply<()> = Reply::from(Err(error));
    serde_json::to_vec(&reply).unwrap_or_default()
}
