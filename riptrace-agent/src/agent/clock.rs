//! Answers exchanges of timestamps, on a connection and a thread of its own: whatever else the agent does, an answer
//! does not wait for it.

use std::sync::Arc;

use async_nats::Client;
use futures::StreamExt;
use riptrace_common::{
    id::AgentId,
    wire::{
        clock::{SyncReply, SyncRequest},
        message::{Error, ErrorCode, Incoming, Reply, read_request},
    },
};

use super::stamp::Clock;
use crate::{nats::service::error_text, trace::host};

/// Answers for as long as the connection lives.
///
/// # Errors
///
/// The connection is closed.
pub async fn answer(
    client: Client,
    subject: String,
    agent: AgentId,
    boot_id: String,
    clock: Arc<Clock>,
) -> Result<(), async_nats::Error> {
    let mut requests = client.subscribe(subject).await?;
    while let Some(request) = requests.next().await {
        let receive_ktime_ns = host::monotonic_ns();
        let Some(reply_to) = request.reply else { continue };
        let text = match read_request::<SyncRequest>(&request.payload) {
            Ok(Incoming::Body(SyncRequest { server_send_ns, assigned })) => {
                let mut reply = SyncReply {
                    agent: agent.clone(),
                    boot_id: boot_id.clone(),
                    server_send_ns,
                    receive_ktime_ns,
                    send_ktime_ns: 0,
                    realtime_minus_ktime_ns: host::realtime_minus_monotonic_ns(),
                    boottime_minus_ktime_ns: host::boottime_minus_monotonic_ns(),
                };
                if let Some(assigned) = assigned {
                    clock.assign(assigned);
                }
                reply.send_ktime_ns = host::monotonic_ns();
                serde_json::to_vec(&Reply::from(Ok(reply))).unwrap_or_default()
            }
            Ok(Incoming::Page(_)) => {
                error_text(Error::new(ErrorCode::NotFound, "an exchange of timestamps has no pages"))
            }
            Err(error) => error_text(error),
        };
        if let Err(error) = client.publish(reply_to, text.into()).await {
            tracing::debug!(%error, "an exchange of timestamps could not be answered");
        }
    }
    Ok(())
}
