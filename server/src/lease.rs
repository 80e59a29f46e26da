//! Which of the servers coordinates: it reconciles, exchanges timestamps and writes marks of order. A key in the broker's
//! bucket, made by whoever comes first, renewed by compare-and-set, gone by itself when it is not renewed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::jetstream::kv::Store;
use tokio::task::JoinHandle;

use crate::nats;

/// The key.
const KEY: &str = "holder";

/// How often it is renewed, or tried for.
const PERIOD: Duration = Duration::from_secs(1);

/// So long before the broker lets the key go, the holder stops counting on it.
const MARGIN: Duration = Duration::from_secs(1);

/// Whether this server coordinates. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Until when, and how often it was taken.
    held: Arc<Mutex<Held>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    until: Option<Instant>,
    revision: u64,
    /// Counts the times that it was taken by this server.
    term: u64,
}

impl Lease {
    /// Whether this server coordinates at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.term().is_some()
    }

    /// The term in which it does: another number than before when it did not in between.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        let held = self.get();
        held.until.filter(|until| Instant::now() < *until).map(|_| held.term)
    }

    fn get(&self) -> Held {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, held: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Begins to try for it, and to keep it.
    #[must_use]
    pub fn start(&self, bucket: Store, server: String) -> JoinHandle<()> {
        let lease = self.clone();
        tokio::spawn(async move {
            loop {
                lease.step(&bucket, &server).await;
                tokio::time::sleep(PERIOD).await;
            }
        })
    }

    async fn step(&self, bucket: &Store, server: &str) {
        let held = self.get();
        // The broker counts from when it has written it, which is later.
        let asked = Instant::now();
        let value = || server.to_owned().into();
        let until = Some(asked + nats::LEASE.saturating_sub(MARGIN));
        if held.until.is_some() {
            match bucket.update(KEY, value(), held.revision).await {
                Ok(revision) => self.set(Held { until, revision, ..held }),
                Err(error) => {
                    // It may be kept still, if the broker is only slow: `until` says how long that is assumed.
                    let is_over = Instant::now() >= held.until.unwrap_or(asked)
                        || error.kind() == async_nats::jetstream::kv::UpdateErrorKind::WrongLastRevision;
                    if is_over {
                        tracing::warn!(%error, "another server coordinates now");
                        self.set(Held { until: None, ..held });
                    }
                }
            }
            return;
        }
        match bucket.create(KEY, value()).await {
            Ok(revision) => {
                tracing::info!("this server coordinates the fleet");
                self.set(Held { until, revision, term: held.term + 1 });
            }
            Err(error) if crate::fleet::sessions::is_taken(error.kind()) => {}
            Err(error) => tracing::debug!(%error, "the lease could not be asked for"),
        }
    }

    /// Lets it go, so that another server need not wait.
    pub async fn give_up(&self, bucket: &Store) {
        let held = self.get();
        if !self.is_held() {
            return;
        }
        self.set(Held { until: None, ..held });
        if let Err(error) = bucket.delete_expect_revision(KEY, Some(held.revision)).await {
            tracing::debug!(%error, "the lease could not be given up; it ends by itself");
        }
    }
}
