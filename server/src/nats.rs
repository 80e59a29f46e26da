//! The connection to the broker, and what must be there: the stream, the buckets.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        self,
        kv::{self, Store},
        stream::{self, DiscardPolicy, StorageType},
    },
};
use riptrace_common::wire::subject::{Endpoint, Subjects};

use crate::settings::{Access, Retention};

/// A lease that was not renewed for so long is over.
pub const LEASE: Duration = Duration::from_secs(4);

/// A request of JetStream may take this long.
const JETSTREAM_PATIENCE: Duration = Duration::from_secs(10);

/// The broker knows a message again, by its id, for so long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Bytes of the stream below which it makes no sense.
const MIN_STREAM_BYTES: u64 = 16 << 20;

/// JetStream's code for "no storage left for such a stream".
const INSUFFICIENT_STORAGE: u64 = 10047;

/// What the parts of the server share of the broker.
#[derive(Clone, Debug)]
pub struct Nats {
    /// Requests, heartbeats, marks.
    pub client: Client,
    /// The stream's side of it.
    pub jetstream: jetstream::Context,
    /// The subjects.
    pub subjects: Subjects,
    /// Sessions, and hosts to be cleared.
    pub state: Store,
    /// The servers' lease.
    pub lease: Store,
}

/// Connects, again and again; the first time it waits until there is a connection.
///
/// # Errors
///
/// A file of the credentials can't be read.
pub async fn connect(url: &str, access: &Access, name: &str) -> anyhow::Result<Client> {
    let mut options = ConnectOptions::new()
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts).unwrap_or(u32::MAX).min(6);
            Duration::from_millis(25 << exponent)
        })
        .event_callback(|event| async move {
            match event {
                Event::Connected => tracing::info!("connected to the broker"),
                Event::Disconnected => tracing::warn!("lost the broker; connecting again"),
                other => tracing::warn!(event = %other, "the broker's connection"),
            }
        });
    if access.tls_required {
        options = options.require_tls(true);
    }
    if let Some(path) = &access.credentials {
        let read = options.credentials_file(path).await;
        options =
            read.with_context(|| format!("the broker's credentials file {} can't be read", path.display()))?;
    }
    if let Some(path) = &access.nkey {
        let read = tokio::fs::read_to_string(path).await;
        let seed = read.with_context(|| format!("the NKEY's file {} can't be read", path.display()))?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some((user, password)) = &access.user {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(path) = &access.ca {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &access.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    let addresses: Vec<&str> = url.split(',').map(str::trim).collect();
    options.connect(addresses).await.with_context(|| format!("the broker {url} can't be connected to"))
}

impl Nats {
    /// Makes sure that stream and buckets are there and have these limits.
    ///
    /// # Errors
    ///
    /// The broker has no JetStream, or no room, or forbids it.
    pub async fn prepare(
        client: Client,
        subjects: Subjects,
        retention: Retention,
        replicas: usize,
    ) -> anyhow::Result<Self> {
        let jetstream = jetstream::ContextBuilder::new().timeout(JETSTREAM_PATIENCE).build(client.clone());
        prepare_stream(&jetstream, &subjects, retention, replicas).await?;
        let bucket = |bucket: String, max_age: Duration, description: &str| kv::Config {
            bucket,
            description: description.to_owned(),
            history: 1,
            max_age,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let state = bucket(subjects.state_bucket(), Duration::ZERO, "RipTrace's sessions and tracepoints");
        let lease = bucket(subjects.lease_bucket(), LEASE, "which of RipTrace's servers coordinates");
        let state = jetstream.create_or_update_key_value(state).await;
        let lease = jetstream.create_or_update_key_value(lease).await;
        Ok(Self {
            client,
            jetstream,
            subjects,
            state: state.context("the bucket of sessions can't be made")?,
            lease: lease.context("the bucket of the servers' lease can't be made")?,
        })
    }
}

async fn prepare_stream(
    jetstream: &jetstream::Context,
    subjects: &Subjects,
    retention: Retention,
    replicas: usize,
) -> anyhow::Result<()> {
    let mut bytes = retention.bytes.max(MIN_STREAM_BYTES);
    loop {
        let config = stream::Config {
            name: subjects.stream_name(),
            description: Some("what RipTrace's agents saw, and the servers' marks of order".to_owned()),
            subjects: vec![subjects.of_all(Endpoint::Trace), subjects.server_order()],
            max_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            max_age: retention.age,
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            num_replicas: replicas,
            duplicate_window: DUPLICATE_WINDOW.min(retention.age),
            allow_direct: true,
            ..stream::Config::default()
        };
        let error = match jetstream.create_or_update_stream(config).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let no_room = matches!(
            error.kind(),
            jetstream::context::CreateStreamErrorKind::JetStream(cause)
                if cause.error_code().0 == INSUFFICIENT_STORAGE
        );
        // JetStream sets the bytes aside; a smaller stream is better than none.
        if !no_room {
            return Err(error).context("the stream can't be made: does the broker have JetStream?");
        }
        if bytes / 2 < MIN_STREAM_BYTES {
            bail!("the broker has no room for a stream of {bytes} bytes: {error}");
        }
        tracing::warn!(bytes, "the broker has no room for a stream of this size; taking half of it");
        bytes /= 2;
    }
}
