//! What the owner of the tracer tells the rest of the agent, and what it is asked.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use riptrace_common::{
    id::Owner as OwnerId,
    wire::{
        batch::{Losses, OwnerGeneration},
        control::{RemoveTracepoints, TracepointSpec, TracepointState},
        message::{Error, ErrorCode},
    },
};
use tokio::sync::{Notify, oneshot};

use super::catalogue::Snapshot;
use crate::trace::Wanted;

/// Commands that wait for the owner.
const MAX_COMMANDS: usize = 256;

/// What the owner of the tracer is asked.
#[derive(Debug)]
pub enum Command {
    /// Hold a tracepoint.
    Create {
        /// What was asked for.
        spec: Box<TracepointSpec>,
        /// The same as the planner takes it.
        wanted: Box<Wanted>,
        /// What became of it.
        reply: oneshot::Sender<Result<TracepointState, Error>>,
    },
    /// Remove tracepoints.
    Remove {
        /// Which.
        which: RemoveTracepoints,
        /// Their last states.
        reply: oneshot::Sender<Vec<TracepointState>>,
    },
    /// Say what is held.
    List {
        /// Of this owner only.
        owner: Option<OwnerId>,
        /// The states.
        reply: oneshot::Sender<Vec<TracepointState>>,
    },
    /// Look at [`Shared::news`].
    Wake,
    /// Remove everything, and end.
    Stop,
}

/// What the owner has counted, and holds.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Hits of this run.
    pub hits: u64,
    /// Of these, those that were handed over as records.
    pub emitted: u64,
    /// `ring_full` and `undecodable`.
    pub losses: Losses,
    /// What each owner's tracepoints are.
    pub generations: Vec<OwnerGeneration>,
    /// Tracepoints that are held.
    pub held: usize,
    /// Counts changes of what became of tracepoints.
    pub state_revision: u64,
    /// Nothing is armed, and everything that was recorded was handed over.
    pub is_idle: bool,
}

/// News for the owner: only the latest matter.
#[derive(Debug, Default)]
pub struct News {
    /// Other processes.
    pub processes: Option<Snapshot>,
    /// Some program is ready.
    pub indexed: bool,
}

/// Both ways between the owner and the rest.
#[derive(Debug)]
pub struct Shared {
    commands: SyncSender<Command>,
    totals: Mutex<Totals>,
    news: Mutex<News>,
    changed: Notify,
}

impl Shared {
    /// The channel, and the owner's end of it.
    #[must_use]
    pub fn new() -> (Arc<Self>, Receiver<Command>) {
        let (commands, receiver) = sync_channel(MAX_COMMANDS);
        let totals = Mutex::new(Totals { is_idle: true, ..Totals::default() });
        (Arc::new(Self { commands, totals, news: Mutex::default(), changed: Notify::new() }), receiver)
    }

    /// Asks the owner.
    ///
    /// # Errors
    ///
    /// It is too busy, or ended.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let ended = || Error::new(ErrorCode::Failed, "the agent is ending");
        match self.commands.try_send(command(sender)) {
            Ok(()) => receiver.await.map_err(|_| ended()),
            Err(TrySendError::Full(_)) => {
                let text = format!("the agent is busy: {MAX_COMMANDS} requests wait; try again");
                Err(Error::new(ErrorCode::Limit, text))
            }
            Err(TrySendError::Disconnected(_)) => Err(ended()),
        }
    }

    /// Tells the owner to end.
    pub fn stop(&self) {
        // Blocks while the owner is busy; it ended already where this fails.
        let _ = self.commands.send(Command::Stop);
    }

    /// Tells the owner of news.
    pub fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
        // Where the channel is full, the owner is awake anyway.
        let _ = self.commands.try_send(Command::Wake);
    }

    /// Takes the news.
    pub(super) fn news(&self) -> News {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a heartbeat would tell of something else than the last one: other processes, other tracepoints.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the owner has counted, and holds now.
    pub(super) fn set_totals(&self, change: impl FnOnce(&mut Totals)) {
        let is_news = {
            let mut totals = self.totals();
            let before = totals.state_revision;
            change(&mut totals);
            totals.state_revision != before
        };
        if is_news {
            self.changed.notify_one();
        }
    }

    /// What the owner last said.
    pub fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
