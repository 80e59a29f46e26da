//! What is done again and again and may take its time, because files are read and written: looking for processes where the
//! kernel does not tell of them, forgetting programs, notes for the next run.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;

use super::{endpoints::Endpoints, notes::Notes, shared::Shared};
use crate::nats::publish::Outbox;

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// While no tracepoint waits for processes, they are looked for in every so many rounds.
const IDLE_SCAN_ROUNDS: u32 = 5;

/// What the rounds are about.
#[derive(Debug)]
pub struct Upkeep {
    /// Processes and programs.
    pub endpoints: Arc<Endpoints>,
    /// Whether tracepoints are held.
    pub shared: Arc<Shared>,
    /// What the broker has.
    pub outbox: Arc<Outbox>,
    /// For the next run.
    pub notes: Arc<Notes>,
}

impl Upkeep {
    /// Works until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0_u32;
        loop {
            ticks.tick().await;
            let is_idle_round = round.is_multiple_of(IDLE_SCAN_ROUNDS);
            round = round.wrapping_add(1);
            let is_idle = self.shared.totals().held == 0 && self.outbox.standing().batches == 0;
            if is_idle && !is_idle_round {
                continue;
            }
            if self.endpoints.has_to_look() {
                self.endpoints.look_for_processes().await;
            }
            if is_idle_round {
                self.endpoints.forget_unused();
            }
            self.note(false).await;
        }
    }

    /// Notes how far this run got; `ended`: it ends, and told everything.
    pub async fn note(self: &Arc<Self>, ended: bool) {
        let this = Arc::clone(self);
        let noting = tokio::task::spawn_blocking(move || {
            this.notes.acknowledged(this.outbox.standing().acknowledged_seq);
            this.notes.update(|note| note.ended = ended);
            this.notes.save();
        });
        if let Err(error) = noting.await {
            tracing::error!(%error, "how far this run got was not noted");
        }
    }
}
