//! Batches on their way into the stream: a bounded queue, many in flight at once, each repeated until the broker has
//! acknowledged or refused it. What does not fit is counted.
//!
//! [`Outbox`] is shared by who fills it (the owner of the tracer), who empties it ([`run`]) and who reports how it stands
//! (heartbeats).

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{
    Client, HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use riptrace_common::wire::batch::Losses;
use tokio::sync::{mpsc, watch};

/// Batches that wait for the broker's word at the same time.
const MAX_IN_FLIGHT: usize = 64;
/// How long the broker may take to acknowledge one before it is sent again.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long handing a batch to the client may take: it blocks while the connection can't take more.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before a batch is sent again, at first; it doubles up to [`MAX_RETRY_DELAY`].
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(50);
/// The longest such pause.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// Why nothing is stored is said this often at the most.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Room that only batches without hits may take: what became of tracepoints is told when the queue is full of hits, too.
const WORDS_BYTES: u64 = 1024 * 1024;

/// What a batch counts in the queue beside its payload.
const PARCEL_OVERHEAD_BYTES: u64 = 512;

/// A batch that is ready to be sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The batch's number in this run, from 1.
    pub seq: u64,
    /// `Nats-Msg-Id`.
    pub message_id: String,
    /// The message.
    pub payload: Bytes,
    /// Hits of tracepoints in it.
    pub hits: u64,
    /// It has no hits, nor messages that were seen, but what became of tracepoints: it is not given up.
    pub is_word: bool,
    /// No hit in it is earlier than this kernel time.
    pub from_ktime_ns: u64,
}

impl Parcel {
    fn bytes(&self) -> u64 {
        self.payload.len() as u64 + PARCEL_OVERHEAD_BYTES
    }
}

/// How the outbox stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Hits in acknowledged batches.
    pub published: u64,
    /// Hits that wait.
    pub queued: u64,
    /// Batches that wait.
    pub batches: u64,
    /// Every batch up to this one was acknowledged, or lost.
    pub acknowledged_seq: u64,
    /// Every hit before this kernel time is in an acknowledged batch, or counted as lost.
    pub complete_until_ktime_ns: u64,
    /// Hits that will not get there.
    pub losses: Losses,
}

#[derive(Debug, Default)]
struct State {
    published: u64,
    queued: u64,
    queued_bytes: u64,
    /// Batches that wait, with their first kernel times.
    waiting: BTreeMap<u64, u64>,
    /// The last batch that was given a number.
    last_seq: u64,
    /// Every hit before this kernel time was pushed.
    pushed_until_ktime_ns: u64,
    queue_full: u64,
    refused: u64,
}

/// The queue and its accounts.
#[derive(Debug)]
pub struct Outbox {
    max_bytes: u64,
    state: Mutex<State>,
    sender: mpsc::UnboundedSender<Parcel>,
}

impl Outbox {
    /// A queue of so many bytes, and its other end.
    #[must_use]
    pub fn new(max_bytes: u64) -> (Arc<Self>, mpsc::UnboundedReceiver<Parcel>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { max_bytes, state: Mutex::default(), sender }), receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch into the queue. False: there was no room, and its hits are counted as lost.
    pub fn push(&self, parcel: Parcel) -> bool {
        let mut state = self.state();
        state.last_seq = state.last_seq.max(parcel.seq);
        let max_bytes = self.max_bytes + if parcel.is_word { WORDS_BYTES } else { 0 };
        if state.queued_bytes + parcel.bytes() > max_bytes {
            state.queue_full += parcel.hits;
            return false;
        }
        state.queued += parcel.hits;
        state.queued_bytes += parcel.bytes();
        state.waiting.insert(parcel.seq, parcel.from_ktime_ns);
        // Without a receiver the program is ending, and the accounts say that the batch waits.
        let _ = self.sender.send(parcel);
        true
    }

    /// Every hit before this kernel time was pushed.
    pub fn pushed_until(&self, ktime_ns: u64) {
        let mut state = self.state();
        state.pushed_until_ktime_ns = state.pushed_until_ktime_ns.max(ktime_ns);
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let state = self.state();
        let first_waiting = state.waiting.keys().next().copied();
        let earliest = state.waiting.values().min().copied().unwrap_or(u64::MAX);
        Standing {
            published: state.published,
            queued: state.queued,
            batches: state.waiting.len() as u64,
            acknowledged_seq: first_waiting.map_or(state.last_seq, |seq| seq - 1),
            complete_until_ktime_ns: state.pushed_until_ktime_ns.min(earliest),
            losses: Losses { queue_full: state.queue_full, refused: state.refused, ..Losses::default() },
        }
    }

    fn settle(&self, parcel: &Parcel, outcome: &Outcome) {
        let mut state = self.state();
        match outcome {
            Outcome::Stored => state.published += parcel.hits,
            Outcome::Refused(_) => state.refused += parcel.hits,
            Outcome::NoRoom(_) if !parcel.is_word => state.refused += parcel.hits,
            Outcome::NoRoom(_) | Outcome::Again(_) => return,
        }
        state.waiting.remove(&parcel.seq);
        state.queued = state.queued.saturating_sub(parcel.hits);
        state.queued_bytes = state.queued_bytes.saturating_sub(parcel.bytes());
    }
}

/// What became of an attempt.
#[derive(Debug)]
enum Outcome {
    /// It is in the stream.
    Stored,
    /// The broker will never take it.
    Refused(String),
    /// The broker has no room. Hits are given up, so that later ones find room in the queue; what has none is tried again.
    NoRoom(String),
    /// To be tried again.
    Again(String),
}

/// Empties the outbox, for ever.
pub async fn run(
    outbox: Arc<Outbox>,
    mut queue: mpsc::UnboundedReceiver<Parcel>,
    client: Client,
    subject: String,
    mut connected: watch::Receiver<bool>,
) {
    let context = jetstream::new(client);
    let mut in_flight: FuturesUnordered<BoxFuture<'static, (Parcel, Outcome)>> = FuturesUnordered::new();
    let mut again: BTreeMap<u64, Parcel> = BTreeMap::new();
    let mut delay = FIRST_RETRY_DELAY;
    let mut not_before: Option<tokio::time::Instant> = None;
    let mut complaints = Complaints::default();
    loop {
        let is_connected = *connected.borrow_and_update();
        let may_send = is_connected && in_flight.len() < MAX_IN_FLIGHT;
        let moment = not_before;
        let pause = async {
            match moment {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            changed = connected.changed() => {
                if changed.is_err() {
                    return;
                }
                // Whatever is in flight is told by its own watch; a fresh connection is tried at once.
                not_before = None;
                delay = FIRST_RETRY_DELAY;
                continue;
            }
            Some((parcel, outcome)) = in_flight.next(), if !in_flight.is_empty() => {
                outbox.settle(&parcel, &outcome);
                match outcome {
                    Outcome::Stored => {
                        delay = FIRST_RETRY_DELAY;
                        not_before = None;
                    }
                    Outcome::Refused(reason) => complaints.say("the broker refuses hits", &reason),
                    Outcome::NoRoom(reason) if !parcel.is_word => {
                        complaints.say("the broker has no room for hits", &reason);
                    }
                    Outcome::NoRoom(reason) | Outcome::Again(reason) => {
                        complaints.say("hits are not stored yet", &reason);
                        again.insert(parcel.seq, parcel);
                        if not_before.is_none() {
                            not_before = Some(tokio::time::Instant::now() + delay);
                            delay = (delay * 2).min(MAX_RETRY_DELAY);
                        }
                    }
                }
                continue;
            }
            () = pause, if not_before.is_some() => {
                not_before = None;
                continue;
            }
            parcel = async { again.pop_first().map(|(_, parcel)| parcel) },
                if may_send && not_before.is_none() && !again.is_empty() => parcel,
            parcel = queue.recv(), if may_send && not_before.is_none() && again.is_empty() => match parcel {
                Some(parcel) => Some(parcel),
                None => return,
            },
        };
        if let Some(parcel) = next {
            let sent = send(&context, &subject, parcel, connected.clone()).await;
            in_flight.push(sent);
        }
    }
}

/// Hands a batch to the connection, and gives what waits for the broker's word.
async fn send(
    context: &jetstream::Context,
    subject: &str,
    parcel: Parcel,
    mut connected: watch::Receiver<bool>,
) -> BoxFuture<'static, (Parcel, Outcome)> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, parcel.message_id.as_str());
    let sent = context.publish_with_headers(subject.to_owned(), headers, parcel.payload.clone());
    let done = |outcome| -> BoxFuture<'static, (Parcel, Outcome)> {
        let parcel = parcel.clone();
        Box::pin(async move { (parcel, outcome) })
    };
    let acknowledgement = match tokio::time::timeout(SEND_TIMEOUT, sent).await {
        Err(_) => return done(Outcome::Again(String::from("the connection takes no more"))),
        Ok(Err(error)) => return done(outcome_of(&error)),
        Ok(Ok(acknowledgement)) => acknowledgement,
    };
    Box::pin(async move {
        let lost = async {
            // A broker that went away will not acknowledge what it got.
            while connected.wait_for(|connected| !connected).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            biased;
            result = tokio::time::timeout(ACK_TIMEOUT, acknowledgement.into_future()) => match result {
                Err(_) => Outcome::Again(String::from("no acknowledgement in time")),
                Ok(Ok(_)) => Outcome::Stored,
                Ok(Err(error)) => outcome_of(&error),
            },
            () = lost => Outcome::Again(String::from("the connection broke")),
        };
        (parcel, outcome)
    })
}

/// Errors that another attempt does not change: there is no room.
const REFUSALS: [ErrorCode; 7] = [
    ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ErrorCode::INSUFFICIENT_RESOURCES,
    ErrorCode::MEMORY_RESOURCES_EXCEEDED,
    ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM,
    ErrorCode::STREAM_STORE_FAILED,
    ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
];

fn outcome_of(error: &PublishError) -> Outcome {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Outcome::Refused(text),
        PublishErrorKind::Other if code.is_some_and(|code| REFUSALS.contains(&code)) => Outcome::NoRoom(text),
        _ => Outcome::Again(text),
    }
}

/// Says the same thing once in a while only.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<tokio::time::Instant>,
}

impl Complaints {
    fn say(&mut self, what: &str, reason: &str) {
        let now = tokio::time::Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY) {
            self.last = Some(now);
            tracing::warn!(reason, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(seq: u64, hits: u64, from_ktime_ns: u64) -> Parcel {
        Parcel {
            seq,
            message_id: format!("a:{seq}"),
            payload: Bytes::from(vec![0; 488]),
            hits,
            is_word: hits == 0,
            from_ktime_ns,
        }
    }

    #[test]
    fn everything_is_accounted_for() {
        let (outbox, _queue) = Outbox::new(3 * 1000);
        assert!(outbox.push(parcel(1, 10, 100)));
        assert!(outbox.push(parcel(2, 20, 200)));
        assert!(outbox.push(parcel(3, 30, 300)));
        assert!(!outbox.push(parcel(4, 40, 400)), "there is no room");
        outbox.pushed_until(500);
        let standing = outbox.standing();
        assert_eq!((standing.queued, standing.losses.queue_full), (60, 40));
        assert_eq!((standing.acknowledged_seq, standing.complete_until_ktime_ns), (0, 100));

        outbox.settle(&parcel(2, 20, 200), &Outcome::Stored);
        assert_eq!(outbox.standing().complete_until_ktime_ns, 100, "the first one still waits");
        outbox.settle(&parcel(1, 10, 100), &Outcome::Again(String::new()));
        assert_eq!(outbox.standing().acknowledged_seq, 0);
        outbox.settle(&parcel(1, 10, 100), &Outcome::Stored);
        assert_eq!((outbox.standing().acknowledged_seq, outbox.standing().complete_until_ktime_ns), (2, 300));
        outbox.settle(&parcel(3, 30, 300), &Outcome::Refused(String::new()));
        let standing = outbox.standing();
        assert_eq!((standing.published, standing.queued, standing.losses.refused), (30, 0, 30));
        assert_eq!((standing.acknowledged_seq, standing.complete_until_ktime_ns), (4, 500));
        assert!(outbox.push(parcel(5, 1, 600)), "there is room again");
        outbox.settle(&parcel(5, 1, 600), &Outcome::NoRoom(String::new()));
        assert_eq!((outbox.standing().losses.refused, outbox.standing().batches), (31, 0));
    }

    #[test]
    fn what_became_of_tracepoints_is_not_given_up_for_want_of_room() {
        let (outbox, _queue) = Outbox::new(1000);
        assert!(outbox.push(parcel(1, 10, 100)));
        assert!(!outbox.push(parcel(2, 10, 100)));
        assert!(outbox.push(parcel(3, 0, u64::MAX)), "it has room of its own");
        outbox.settle(&parcel(3, 0, u64::MAX), &Outcome::NoRoom(String::new()));
        assert_eq!(outbox.standing().batches, 2, "it still waits");
        for seq in 0.. {
            if !outbox.push(parcel(seq, 0, u64::MAX)) {
                assert!((1000..2000).contains(&seq), "there is a bound: {seq}");
                break;
            }
        }
    }
}
