//! Reads the stream from where the store was left, and has it indexed: hits, their places, the accounting.
//!
//! ```text
//! JetStream ─ordered consumer─▶ fetch (task) ─bounded queue─▶ Indexer (thread) ─▶ Store, live events
//! ```
//!
//! When the store is slow or its disk is full, the queue fills, fetching stops, and the stream keeps what is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull::Config};
use bytes::Bytes;
use futures::StreamExt;
use riptrace_common::wire::batch::Heartbeat;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{fleet::Fleet, nats::Nats, store::Store};

mod decode;
mod indexer;
#[cfg(test)]
pub(crate) mod testing;
mod trace_ids;

use indexer::Indexer;

/// Messages that wait for the indexer, each of at most a few hundred KiB.
const QUEUE: usize = 64;

/// Messages that are written in one transaction at the most.
const MESSAGES_PER_COMMIT: usize = 256;

/// A transaction takes no more messages after so long.
const COMMIT_PERIOD: Duration = Duration::from_millis(50);

/// Messages that the broker sends ahead.
const FETCH_MESSAGES: usize = 64;

/// A request for messages lasts so long; the broker shows that it is there in between, twice as often as it must.
const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The broker forgets a consumer that nobody asks for messages.
const INACTIVE: Duration = Duration::from_secs(60);

/// Pause before the stream is read again after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// So long hosts may take to say what runs there before hits are collected, so that hits get their service's name.
const HOSTS_PATIENCE: Duration = Duration::from_millis(1500);

/// A message of the stream.
#[derive(Debug)]
pub struct Fetched {
    /// Its place in the stream.
    pub stream_seq: u64,
    /// Its subject.
    pub subject: String,
    /// What it says.
    pub payload: Bytes,
}

/// The collector, running.
#[derive(Debug)]
pub struct Collector {
    fetcher: JoinHandle<()>,
    indexer: JoinHandle<()>,
}

impl Collector {
    /// Begins where the store was left.
    ///
    /// # Errors
    ///
    /// The store can't be read.
    pub fn start(
        fleet: Arc<Fleet>,
        nats: Nats,
        store: Store,
        heard: mpsc::Receiver<Heartbeat>,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let indexer = Indexer::resume(Arc::clone(&fleet), store, nats.subjects.clone());
        let indexer = indexer.context("the store can't be read")?;
        let next = indexer.next();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let indexing = {
            let stop = stop.clone();
            tokio::task::spawn_blocking(move || index(indexer, receiver, heard, &stop))
        };
        let fetcher = tokio::spawn(async move {
            let mut stopped = stop;
            tokio::select! {
                () = fetch(&fleet, &nats, next, &sender) => {}
                _ = async { drop(stopped.wait_for(|stop| *stop).await) } => {}
            }
        });
        Ok(Self { fetcher, indexer: indexing })
    }

    /// Waits until what was fetched is written.
    pub async fn join(self) {
        for result in [self.fetcher.await, self.indexer.await] {
            if let Err(error) = result {
                tracing::error!(%error, "the collector failed");
            }
        }
    }
}

/// Reads the stream, for ever.
async fn fetch(fleet: &Fleet, nats: &Nats, mut next: u64, queue: &mpsc::Sender<Fetched>) {
    let begin = Instant::now();
    while fleet.services().is_empty() && begin.elapsed() < HOSTS_PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        match fetch_once(fleet, nats, &mut next, queue).await {
            Ok(()) => return,
            Err(error) => {
                fleet.set_problem("stream", Some(format!("the stream can't be read: {error:#}")));
                tracing::warn!(error = format!("{error:#}"), "the stream can't be read; trying again");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the queue is closed, or the stream can't be read.
async fn fetch_once(
    fleet: &Fleet,
    nats: &Nats,
    next: &mut u64,
    queue: &mpsc::Sender<Fetched>,
) -> anyhow::Result<()> {
    let stream = nats.jetstream.get_stream(nats.subjects.stream_name()).await?;
    let last = stream.cached_info().state.last_sequence;
    anyhow::ensure!(
        last + 1 >= *next,
        "it ends at message {last}, but message {} was read from it before: it is another stream than the one that the \
         index was made of; remove the index from the data folder, and it is made anew",
        *next - 1
    );
    let config = Config {
        description: Some("the index of a RipTrace server".to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *next },
        // The index itself knows how far it is.
        ack_policy: AckPolicy::None,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: INACTIVE,
        ..Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let messages =
        consumer.stream().max_messages_per_batch(FETCH_MESSAGES).expires(EXPIRES).heartbeat(HEARTBEAT);
    let mut messages = messages.messages().await?;
    let mut delivered = 0;
    fleet.set_problem("stream", None);
    while let Some(message) = messages.next().await {
        let message = message?;
        let (stream_seq, consumer_seq) = {
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            (info.stream_sequence, info.consumer_sequence)
        };
        // Nothing is acknowledged, so what is lost on the way is not sent again: then begin anew behind the last one.
        delivered += 1;
        anyhow::ensure!(consumer_seq == delivered, "message {delivered} of the consumer was lost on the way");
        let message = message.message;
        let fetched = Fetched { stream_seq, subject: message.subject.to_string(), payload: message.payload };
        if queue.send(fetched).await.is_err() {
            return Ok(());
        }
        *next = stream_seq + 1;
    }
    anyhow::bail!("the consumer ended")
}

/// Indexes what comes, until nothing more can come.
fn index(
    mut indexer: Indexer,
    mut messages: mpsc::Receiver<Fetched>,
    mut heard: mpsc::Receiver<Heartbeat>,
    stop: &watch::Receiver<bool>,
) {
    while let Some(first) = messages.blocking_recv() {
        let begin = Instant::now();
        indexer.take(&first);
        let mut taken = 1;
        while taken < MESSAGES_PER_COMMIT && begin.elapsed() < COMMIT_PERIOD {
            let Ok(message) = messages.try_recv() else { break };
            indexer.take(&message);
            taken += 1;
        }
        while let Ok(heartbeat) = heard.try_recv() {
            indexer.heard(&heartbeat);
        }
        if !indexer.commit(stop) {
            return;
        }
    }
    indexer.close(stop);
}
