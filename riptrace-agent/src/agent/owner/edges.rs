//! Built-in tracepoints where messages leave and enter the processes that a session traces: what orders the hits of
//! several hosts. They are armed on a build as long as a session's tracepoint is armed there, and belong to nobody.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use riptrace_common::wire::event::{DetachReason, Hit};

use super::{super::numbering::Place, Owner};
use crate::{
    binary::FileIdentity,
    trace::{self, ProcessScope, Request, edges, host},
};

/// How long they stay once no tracepoint needs them: what its last hits were part of is still under way.
const LINGER: Duration = Duration::from_millis(500);

/// The built-in tracepoints of a build.
#[derive(Debug, Default)]
pub(super) struct OfBuild {
    pids: Vec<u32>,
    armed: Vec<(Place, trace::TracepointId)>,
    unneeded_since: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct BuiltIns {
    builds: BTreeMap<(u64, u64), OfBuild>,
    /// What each place is called: the same function of two builds is two tracepoints, each with dense numbers.
    names: BTreeMap<Place, Arc<str>>,
    /// `Owner::state_revision` of the last look.
    looked_at: Option<u64>,
}

impl BuiltIns {
    /// Whether any is armed.
    pub(super) fn is_empty(&self) -> bool {
        self.builds.is_empty()
    }

    /// Gives a hit the name that others know it by; false: it is none of a built-in tracepoint.
    pub(super) fn name(&self, hit: &mut Hit) -> bool {
        let name = hit.tracepoint.parse().ok().and_then(|place| self.names.get(&place));
        let Some(name) = name else { return false };
        hit.tracepoint = Arc::clone(name);
        true
    }

    /// Forgets them all: the kernel side is gone.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Owner {
    /// Arms what tracepoints need, and disarms what none needs any more.
    pub(super) fn keep_edges(&mut self, now: Instant) {
        let lingering = self.built_ins.builds.values().any(|build| build.unneeded_since.is_some());
        if self.built_ins.looked_at == Some(self.state_revision) && !lingering {
            return;
        }
        self.built_ins.looked_at = Some(self.state_revision);
        let mut needed: BTreeMap<(u64, u64), (FileIdentity, Vec<u32>)> = BTreeMap::new();
        for placed in self.places.values().filter(|placed| placed.is_live()) {
            if self.held.get(&placed.tracepoint).is_some_and(|held| held.session.is_some()) {
                let file = (placed.file.device, placed.file.inode);
                let (_, pids) = needed.entry(file).or_insert_with(|| (placed.file, Vec::new()));
                pids.extend(
                    placed.pids.iter().filter(|pid| !pids.contains(pid)).copied().collect::<Vec<_>>(),
                );
            }
        }
        for (file, (identity, pids)) in &mut needed {
            pids.sort_unstable();
            self.keep_edges_of(*file, identity, pids);
        }
        let unneeded: Vec<(u64, u64)> =
            self.built_ins.builds.keys().filter(|file| !needed.contains_key(file)).copied().collect();
        for file in unneeded {
            let Some(build) = self.built_ins.builds.get_mut(&file) else { continue };
            if now.duration_since(*build.unneeded_since.get_or_insert(now)) >= LINGER {
                self.remove_edges(file);
            }
        }
    }

    /// Sees the messages of further processes of a build. Called before a session's tracepoint is armed for them: a request
    /// whose beginning was not seen leaves its hits without their trace, and unordered.
    pub(super) fn see_messages(&mut self, identity: &FileIdentity, pids: &[u32]) {
        let file = (identity.device, identity.inode);
        let mut all = self.built_ins.builds.get(&file).map(|build| build.pids.clone()).unwrap_or_default();
        all.extend(pids);
        all.sort_unstable();
        all.dedup();
        self.keep_edges_of(file, identity, &all);
    }

    fn keep_edges_of(&mut self, file: (u64, u64), identity: &FileIdentity, pids: &[u32]) {
        let Some(loaded) = &mut self.loaded else { return };
        let is_new = !self.built_ins.builds.contains_key(&file);
        let image_id = loaded.images.get(identity).copied();
        if is_new && image_id.is_none() {
            return;
        }
        let build = self.built_ins.builds.entry(file).or_default();
        build.unneeded_since = None;
        if !is_new {
            if build.pids != pids {
                for (_, armed) in &build.armed {
                    if let Err(error) = loaded.tracer.set_processes(*armed, pids) {
                        tracing::warn!(%error, "the kernel side can't be told whose messages are seen");
                    }
                }
                build.pids = pids.to_vec();
            }
            return;
        }
        build.pids = pids.to_vec();
        let Some(image_id) = image_id else { return };
        let known = self.snapshot.iter().find(|known| pids.contains(&known.process.pid));
        let (Some(image), Some(known)) = (loaded.tracer.image(image_id), known) else { return };
        for (built_in, wanted) in edges::requests(image) {
            let planned = match loaded.tracer.plan(image_id, &wanted) {
                Ok(planned) => planned,
                Err(error) => {
                    tracing::info!(%error, tracepoint = built_in.id, "messages can't be seen there");
                    continue;
                }
            };
            let place = self.next_place;
            let scope = ProcessScope::Changing(pids.to_vec());
            let path = known.process.attach_path();
            let request = Request::of(place.to_string(), image_id, path, planned.plans, scope, wanted);
            match loaded.tracer.arm(request) {
                Ok((armed, _)) => {
                    self.next_place += 1;
                    build.armed.push((place, armed));
                    self.built_ins.names.insert(place, Arc::from(format!("{}.{place}", built_in.id)));
                    let ktime_ns = host::monotonic_ns();
                    tracing::debug!(ktime_ns, tracepoint = built_in.id, "messages are seen there");
                }
                Err(error) => {
                    tracing::warn!(%error, tracepoint = built_in.id, "messages can't be seen there");
                }
            }
        }
    }

    fn remove_edges(&mut self, file: (u64, u64)) {
        let (Some(build), Some(loaded)) = (self.built_ins.builds.remove(&file), &mut self.loaded) else {
            return;
        };
        for (place, armed) in build.armed {
            self.built_ins.names.remove(&place);
            if let Err(error) = loaded.tracer.remove(armed, DetachReason::Removed) {
                tracing::warn!(%error, "a built-in tracepoint could not be removed");
            }
        }
    }
}
