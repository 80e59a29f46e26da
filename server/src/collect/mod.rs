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

/// What the indexer is given.
#[derive(Debug)]
enum Item {
    /// Messages are of this stream from here on.
    Stream {
        /// When the broker made it.
        created_ns: i64,
        /// It is another one than before.
        anew: bool,
    },
    /// The next one.
    Message(Fetched),
}

/// How far the stream was fetched.
#[derive(Debug)]
struct Reached {
    /// When it was made, once that is known.
    created_ns: Option<i64>,
    /// The message that is to be fetched next.
    next: u64,
}

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
        let reached = Reached { created_ns: indexer.stream(), next: indexer.next() };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let indexing = {
            let stop = stop.clone();
            tokio::task::spawn_blocking(move || index(indexer, receiver, heard, &stop))
        };
        let fetcher = tokio::spawn(async move {
            let mut stopped = stop;
            tokio::select! {
                () = fetch(&fleet, &nats, reached, &sender) => {}
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
async fn fetch(fleet: &Fleet, nats: &Nats, mut reached: Reached, queue: &mpsc::Sender<Item>) {
    let begin = Instant::now();
    while fleet.services().is_empty() && begin.elapsed() < HOSTS_PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        match fetch_once(fleet, nats, &mut reached, queue).await {
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
    reached: &mut Reached,
    queue: &mpsc::Sender<Item>,
) -> anyhow::Result<()> {
    let stream = nats.jetstream.get_stream(nats.subjects.stream_name()).await?;
    let info = stream.cached_info();
    let created_ns = i64::try_from(info.created.unix_timestamp_nanos())?;
    // It may have outgrown the one before already; restored from an old copy, it is shorter and was made at the same time.
    let anew = reached.created_ns.is_some_and(|known| known != created_ns)
        || info.state.last_sequence + 1 < reached.next;
    if anew {
        tracing::warn!(
            read = reached.next - 1,
            last = info.state.last_sequence,
            "the stream was made anew: it is read from its beginning, behind what is in the index"
        );
        reached.next = 1;
    }
    if anew || reached.created_ns.is_none() {
        reached.created_ns = Some(created_ns);
        if queue.send(Item::Stream { created_ns, anew }).await.is_err() {
            return Ok(());
        }
    }
    let config = Config {
        description: Some("the index of a RipTrace server".to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: reached.next },
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
        if queue.send(Item::Message(fetched)).await.is_err() {
            return Ok(());
        }
        reached.next = stream_seq + 1;
    }
    anyhow::bail!("the consumer ended")
}

/// False: it was asked to stop.
fn take(indexer: &mut Indexer, item: &Item, stop: &watch::Receiver<bool>) -> bool {
    match item {
        Item::Message(message) => indexer.take(message),
        Item::Stream { created_ns, anew } => return indexer.begin(*created_ns, *anew, stop),
    }
    true
}

/// Indexes what comes, until nothing more can come.
fn index(
    mut indexer: Indexer,
    mut messages: mpsc::Receiver<Item>,
    mut heard: mpsc::Receiver<Heartbeat>,
    stop: &watch::Receiver<bool>,
) {
    while let Some(first) = messages.blocking_recv() {
        let begin = Instant::now();
        if !take(&mut indexer, &first, stop) {
            return;
        }
        let mut taken = 1;
        while taken < MESSAGES_PER_COMMIT && begin.elapsed() < COMMIT_PERIOD {
            let Ok(item) = messages.try_recv() else { break };
            if !take(&mut indexer, &item, stop) {
                return;
            }
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
