//! What the owner is asked: create, remove, list, and news of processes and programs.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc, time::Instant};

use riptrace_common::{
    id::{Owner as OwnerId, TracepointId},
    wire::{
        control::{RemoveTracepoints, TracepointSpec, TracepointState},
        event::DetachReason,
        message::{Error, ErrorCode},
    },
};
use tokio::sync::oneshot;

use super::{
    super::{
        catalogue::{Known, Snapshot},
        options::time_to_live,
        shared::Command,
        tracepoint::Held,
    },
    Owner, Removal,
};
use crate::trace::{Wanted, host};

/// Tracepoints that are held at the most.
const MAX_HELD: usize = 1024;

/// A tracepoint that is asked for.
#[derive(Debug)]
pub(super) struct Creation {
    spec: Box<TracepointSpec>,
    wanted: Box<Wanted>,
    reply: oneshot::Sender<Result<TracepointState, Error>>,
}

impl Owner {
    pub(super) fn carry_out(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Create { spec, wanted, reply } => self.create(Creation { spec, wanted, reply }),
            Command::Remove { which, reply } => self.remove_all(&which, reply),
            Command::List { owner, reply } => {
                // Who asked may be gone.
                let _ = reply.send(self.list(owner.as_ref()));
            }
            Command::Wake => self.take_news(),
            Command::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    pub(super) fn take_news(&mut self) {
        let news = self.shared.news();
        if let Some(snapshot) = news.processes {
            self.forget_processes(&snapshot);
            self.snapshot = snapshot;
        } else if !news.indexed {
            return;
        }
        let ids: Vec<TracepointId> = self.held.keys().cloned().collect();
        let mut changed = false;
        for id in ids {
            changed |= self.reconcile(&id);
        }
        if changed {
            self.changed();
        }
    }

    /// What hits say of a process is kept; of those that are others than before, it is looked at anew.
    fn forget_processes(&mut self, next: &Snapshot) {
        let Some(loaded) = &mut self.loaded else { return };
        let before: HashSet<*const Known> = self.snapshot.iter().map(Arc::as_ptr).collect();
        for known in next.iter().filter(|known| !before.contains(&Arc::as_ptr(known))) {
            loaded.tracer.forget_process(known.process.pid);
        }
    }

    fn create(&mut self, creation: Creation) {
        self.take_news();
        let Creation { spec, wanted, reply } = creation;
        let is_full = self.held.len() >= MAX_HELD;
        let result = match self.held.get_mut(&spec.id) {
            Some(held) if held.removing => {
                // It is being removed: the new one waits for that.
                self.replacing.push(Creation { spec, wanted, reply });
                return;
            }
            Some(held) if held.spec.owner != spec.owner => Err(Error::new(
                ErrorCode::Conflict,
                format!("tracepoint {} is held for {:?}; take another id", spec.id, held.spec.owner.as_str()),
            )),
            Some(held) if held.spec.revision > spec.revision => Err(Error::new(
                ErrorCode::Conflict,
                format!(
                    "tracepoint {} is held in revision {}, and {} is older",
                    spec.id, held.spec.revision, spec.revision
                ),
            )),
            Some(held) if held.is_same(&spec) => {
                held.expires = Instant::now() + time_to_live(&spec);
                held.spec.ttl_seconds = spec.ttl_seconds;
                held.spec.origin = spec.origin.or_else(|| held.spec.origin.take());
                Ok(self.state_of(&spec.id))
            }
            Some(_) => {
                let id = spec.id.clone();
                self.replacing.push(Creation { spec, wanted, reply });
                self.remove(&id, DetachReason::Removed);
                return;
            }
            None if is_full => Err(Error::new(
                ErrorCode::Limit,
                format!("this agent holds {MAX_HELD} tracepoints already; remove some"),
            )),
            None => self.hold(*spec, *wanted),
        };
        let result = result.and_then(|state| {
            state.ok_or_else(|| Error::new(ErrorCode::Failed, "the tracepoint was removed meanwhile"))
        });
        // Who asked may be gone; the tracepoint stays until its time to live ends.
        let _ = reply.send(result);
    }

    fn hold(&mut self, spec: TracepointSpec, wanted: Wanted) -> Result<Option<TracepointState>, Error> {
        let id = spec.id.clone();
        let expires = Instant::now() + time_to_live(&spec);
        let gone = self.gone.recall(&id);
        self.held.insert(id.clone(), Held::new(spec, wanted, host::monotonic_ns(), expires, gone));
        self.reconcile(&id);
        let Some(held) = self.held.get(&id) else { return Ok(None) };
        // What the host's own rules forbid everywhere is not held at all.
        if held.places.is_empty()
            && held.indexing.is_empty()
            && !held.failures.is_empty()
            && held.failures.iter().all(|failed| failed.forbidden)
        {
            let reasons: Vec<&str> =
                held.failures.iter().map(|failed| failed.failure.reason.as_str()).collect();
            let error = Error::new(ErrorCode::Forbidden, reasons.join("; "));
            if let Some(held) = self.held.remove(&id) {
                self.gone.remember(id, &held.numbering, held.earlier);
            }
            return Err(error);
        }
        self.changed();
        Ok(self.state_of(&id))
    }

    fn state_of(&self, id: &TracepointId) -> Option<TracepointState> {
        self.held.get(id).map(|held| self.state(held))
    }

    fn list(&mut self, owner: Option<&OwnerId>) -> Vec<TracepointState> {
        self.take_news();
        let is_asked_for = |held: &&Held| owner.is_none_or(|owner| held.spec.owner == *owner);
        self.held.values().filter(is_asked_for).map(|held| self.state(held)).collect()
    }

    fn remove_all(&mut self, which: &RemoveTracepoints, reply: oneshot::Sender<Vec<TracepointState>>) {
        let RemoveTracepoints { id, session, owner } = which;
        let is_meant = |held: &Held| {
            id.as_ref().is_none_or(|id| held.spec.id == *id)
                && session.as_ref().is_none_or(|session| held.spec.session.as_ref() == Some(session))
                && owner.as_ref().is_none_or(|owner| held.spec.owner == *owner)
        };
        // Replacements that wait are removed before they are there.
        self.replacing.retain(|waiting| {
            let spec = &waiting.spec;
            !(id.as_ref().is_none_or(|id| spec.id == *id)
                && session.as_ref().is_none_or(|session| spec.session.as_ref() == Some(session))
                && owner.as_ref().is_none_or(|owner| spec.owner == *owner))
        });
        let ids: Vec<TracepointId> =
            self.held.iter().filter(|(_, held)| is_meant(held)).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            let _ = reply.send(Vec::new());
            return;
        }
        self.removals.push(Removal { ids: ids.clone(), states: Vec::new(), reply });
        for id in ids {
            self.remove(&id, DetachReason::Removed);
        }
    }

    /// A tracepoint is gone: who asked for that gets its last state.
    pub(super) fn answer_removals(&mut self, id: &TracepointId, state: &TracepointState) {
        for removal in &mut self.removals {
            let before = removal.ids.len();
            removal.ids.retain(|waiting| waiting != id);
            if removal.ids.len() < before {
                removal.states.push(state.clone());
            }
        }
        let (done, waiting) = std::mem::take(&mut self.removals)
            .into_iter()
            .partition::<Vec<_>, _>(|removal| removal.ids.is_empty());
        self.removals = waiting;
        for removal in done {
            let _ = removal.reply.send(removal.states);
        }
    }

    /// What waited until a tracepoint was gone is created now.
    pub(super) fn create_replacement(&mut self, id: &TracepointId) {
        let (next, waiting) = std::mem::take(&mut self.replacing)
            .into_iter()
            .partition::<Vec<_>, _>(|creation| creation.spec.id == *id);
        self.replacing = waiting;
        for creation in next {
            self.create(creation);
        }
    }
}
