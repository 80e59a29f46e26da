//! The one thread that owns the tracer and everything that is armed. It sleeps until it is asked something, and looks at
//! the kernel's records every ten milliseconds while anything is armed. All state changes of tracepoints happen here.

mod arming;
mod commands;
mod edges;
mod output;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use riptrace_common::{
    id::TracepointId,
    wire::{
        batch::{Losses, OwnerGeneration, PreviousRun},
        control::{TracepointState, generation},
        event::{DetachReason, Detached, Event, Stats},
    },
};
use tokio::sync::oneshot;

use self::output::Output;
use super::{
    builds::Builds,
    catalogue::Snapshot,
    facts::Identity,
    notes::{Noted, Notes},
    numbering::{Gone, Place},
    policy::Policy,
    settings::Settings,
    shared::{Command, Shared},
    stamp::Clock,
    tracepoint::{Held, Placed},
};
use crate::{
    binary::{FileIdentity, cache::Cache},
    nats::publish::Outbox,
    trace::{ImageId, Tracer, host},
};

/// How often the kernel's records are taken while anything is armed.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often counters are published while they change.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a tracepoint stays armed on a build whose processes all ended: a service that is restarted is traced from its
/// first instruction on.
const KEEP_EMPTY: Duration = Duration::from_secs(60);
/// How long the kernel side stays loaded when nothing is armed.
const KEEP_LOADED: Duration = Duration::from_secs(30);
/// Tracepoints that one event tells of.
const MAX_TOLD: usize = 256;
/// How long the end may take.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The tracer, and the binaries that it knows.
#[derive(Debug)]
struct Loaded {
    tracer: Tracer,
    images: HashMap<FileIdentity, ImageId>,
}

/// A request to remove that is not carried out yet.
#[derive(Debug)]
struct Removal {
    ids: Vec<TracepointId>,
    states: Vec<TracepointState>,
    reply: oneshot::Sender<Vec<TracepointState>>,
}

/// What the owner needs of the rest of the agent.
#[derive(Debug)]
pub struct Surroundings {
    /// Both ways between the owner and the rest.
    pub shared: Arc<Shared>,
    /// Programs.
    pub builds: Arc<Builds>,
    /// Where batches go.
    pub outbox: Arc<Outbox>,
    /// What the server made of this host's clock.
    pub clock: Arc<Clock>,
    /// What the next run is to know.
    pub notes: Arc<Notes>,
}

/// The owner.
#[derive(Debug)]
pub struct Owner {
    shared: Arc<Shared>,
    builds: Arc<Builds>,
    identity: Identity,
    budget: f64,
    policy: Policy,
    cache: Cache,
    notes: Arc<Notes>,
    output: Output,
    snapshot: Snapshot,
    loaded: Option<Loaded>,
    held: BTreeMap<TracepointId, Held>,
    places: BTreeMap<Place, Placed>,
    built_ins: edges::BuiltIns,
    next_place: Place,
    gone: Gone,
    removals: Vec<Removal>,
    /// Creations that wait until what they replace is disarmed.
    replacing: Vec<commands::Creation>,
    /// Counters of tracepoints that were removed.
    finished: Stats,
    state_revision: u64,
    last_stats: Instant,
    /// The batch of the counters that were published last.
    stats_in: u64,
    unused_since: Instant,
}

impl Owner {
    /// An owner of nothing.
    #[must_use]
    pub fn new(settings: &Settings, identity: &Identity, around: Surroundings) -> Self {
        let Surroundings { shared, builds, outbox, clock, notes } = around;
        let now = Instant::now();
        Self {
            shared,
            builds,
            identity: identity.clone(),
            budget: settings.budget,
            policy: settings.policy.clone(),
            cache: super::catalogue::cache_of(settings),
            notes,
            output: Output::new(identity, outbox, clock),
            snapshot: Arc::from([]),
            loaded: None,
            held: BTreeMap::new(),
            places: BTreeMap::new(),
            built_ins: edges::BuiltIns::default(),
            next_place: 1,
            gone: Gone::default(),
            removals: Vec::new(),
            replacing: Vec::new(),
            finished: Stats::default(),
            state_revision: 0,
            last_stats: now,
            stats_in: 0,
            unused_since: now,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self, commands: &Receiver<Command>) {
        self.tell_of_previous();
        let mut last_turn = Instant::now();
        loop {
            let command = match self.wait(last_turn) {
                Some(timeout) => match commands.recv_timeout(timeout) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                None => match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_) => break,
                },
            };
            if let Some(command) = command
                && self.carry_out(command).is_break()
            {
                break;
            }
            if last_turn.elapsed() >= POLL_INTERVAL || self.places.is_empty() {
                last_turn = Instant::now();
                self.turn();
            }
        }
        self.stop();
    }

    /// Says, in the first batch, what earlier runs counted that ended without a word.
    fn tell_of_previous(&mut self) {
        for mut run in self.notes.previous() {
            let all = std::mem::take(&mut run.tracepoints);
            for some in all.chunks(MAX_TOLD) {
                self.output
                    .add(&Event::PreviousRun(PreviousRun { tracepoints: some.to_vec(), ..run.clone() }));
            }
        }
        self.notes.told_of_previous(self.output.batch());
        self.output.flush(host::monotonic_ns());
    }

    /// How long there is nothing to do; `None`: until something is asked.
    fn wait(&self, last_turn: Instant) -> Option<Duration> {
        if !self.places.is_empty() || !self.built_ins.is_empty() {
            return Some(POLL_INTERVAL.saturating_sub(last_turn.elapsed()));
        }
        let now = Instant::now();
        let unload = self.loaded.is_some().then(|| self.unused_since + KEEP_LOADED);
        let expires = self.held.values().map(|held| held.expires).min();
        unload.into_iter().chain(expires).min().map(|at| at.saturating_duration_since(now))
    }

    /// Takes the kernel's records, and does what has become due.
    fn turn(&mut self) {
        let now = Instant::now();
        self.poll();
        self.keep_within_budget();
        self.end_what_reached_its_limit();
        self.finish_stopped();
        self.expire(now);
        self.keep_edges(now);
        let is_due = now.duration_since(self.last_stats) >= STATS_INTERVAL;
        if is_due && !self.places.is_empty() {
            self.last_stats = now;
            self.leave_empty(now);
            self.report_stats();
            self.tell_totals();
        }
        self.unload(now);
        self.flush();
    }

    fn poll(&mut self) {
        let Self { loaded: Some(loaded), output, held, places, built_ins, .. } = self else { return };
        output.begin();
        let _ = loaded.tracer.poll(&mut |event| output.take(event, held, places, built_ins));
    }

    /// Hands over what was collected.
    fn flush(&mut self) {
        // Messages are seen a little longer than there are tracepoints.
        let is_idle = self.places.is_empty() && self.built_ins.is_empty();
        let complete_ns = match &self.loaded {
            Some(loaded) if !is_idle => loaded.tracer.complete_until_ns(),
            _ => host::monotonic_ns(),
        };
        self.output.flush(complete_ns);
        self.shared.totals().is_idle = is_idle;
    }

    fn keep_within_budget(&mut self) {
        let Some(loaded) = &mut self.loaded else { return };
        for event in loaded.tracer.watch_cost() {
            if let Event::Moved(moved) = &event
                && let Ok(place) = moved.tracepoint.parse()
                && let Some(placed) = self.places.get_mut(&place)
            {
                placed.attached.sites.clone_from(&moved.sites);
                self.changed();
            }
            let ended = self.output.take_other(event, &self.held, &self.places);
            if let Some(id) = ended {
                self.end(&id, DetachReason::Budget);
            }
        }
    }

    fn end_what_reached_its_limit(&mut self) {
        let reached: Vec<TracepointId> = self
            .held
            .iter()
            .filter(|(_, held)| {
                let limit = held.spec.options.limit;
                held.is_wanted() && limit > 0 && held.captured >= limit
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in reached {
            self.end(&id, DetachReason::Limit);
        }
    }

    fn expire(&mut self, now: Instant) {
        let expired: Vec<TracepointId> = self
            .held
            .iter()
            .filter(|(_, held)| !held.removing && held.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.remove(&id, DetachReason::Ttl);
        }
    }

    /// Disarms a tracepoint for good; it stays in the list until it is removed.
    fn end(&mut self, id: &TracepointId, reason: DetachReason) {
        let Some(held) = self.held.get_mut(id) else { return };
        held.ended.get_or_insert(reason);
        let places: Vec<Place> = held.places.iter().copied().collect();
        for place in places {
            self.stop_place(place);
        }
        self.settle(id);
        self.changed();
    }

    /// Disarms a tracepoint, and forgets it once its last records are handed over.
    fn remove(&mut self, id: &TracepointId, reason: DetachReason) {
        if let Some(held) = self.held.get_mut(id) {
            held.removing = true;
            self.end(id, reason);
        }
    }

    /// Stops a build's hits at once; what was recorded is still handed over.
    fn stop_place(&mut self, place: Place) {
        let (Some(placed), Some(loaded)) = (self.places.get_mut(&place), &mut self.loaded) else { return };
        if placed.stopped_ns.is_some() {
            return;
        }
        if let Err(error) = loaded.tracer.stop(placed.armed) {
            tracing::warn!(%error, tracepoint = %placed.tracepoint, "a tracepoint could not be disarmed");
        }
        placed.stopped_ns = Some(host::monotonic_ns());
    }

    /// Forgets the places whose records were all handed over.
    fn finish_stopped(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        let complete_ns = loaded.tracer.complete_until_ns();
        let done: Vec<Place> = self
            .places
            .iter()
            .filter(|(_, placed)| placed.stopped_ns.is_some_and(|stopped_ns| stopped_ns < complete_ns))
            .map(|(place, _)| *place)
            .collect();
        self.finish_places(&done);
    }

    fn finish_places(&mut self, places: &[Place]) {
        let mut done = Vec::with_capacity(places.len());
        for place in places {
            let (Some(placed), Some(loaded)) = (self.places.remove(place), &self.loaded) else { continue };
            let stats = loaded.tracer.stats(placed.armed);
            if let Some(held) = self.held.get_mut(&placed.tracepoint) {
                held.places.remove(place);
                match stats {
                    Ok(stats) => held.past.add(&stats),
                    Err(error) => tracing::warn!(%error, "counters are lost"),
                }
            }
            self.notes.update(|note| drop(note.places.remove(place)));
            self.note_held(&placed.tracepoint);
            done.push(placed);
        }
        if done.is_empty() {
            return;
        }
        // What was counted there is noted before the kernel forgets it.
        self.notes.save();
        for placed in done {
            if let Some(loaded) = &mut self.loaded
                && let Err(error) = loaded.tracer.remove(placed.armed, DetachReason::Removed)
            {
                tracing::warn!(%error, tracepoint = %placed.tracepoint, "a tracepoint could not be removed");
            }
            if self.places.is_empty() {
                self.unused_since = Instant::now();
            }
            self.settle(&placed.tracepoint);
        }
        self.changed();
    }

    /// Notes what a tracepoint counted, for the next run.
    fn note_held(&self, id: &TracepointId) {
        let Some(held) = self.held.get(id) else { return };
        let last = self.stats(held);
        let mut past = held.earlier.clone();
        past.add(&held.past);
        let session = held.spec.session.clone();
        self.notes.update(|note| {
            note.tracepoints.insert(id.clone(), Noted { session, past, last, final_batch: None });
        });
    }

    /// Says that a tracepoint ended, once nothing of it is left in the kernel, and forgets it if it is to be removed.
    fn settle(&mut self, id: &TracepointId) {
        let Some(held) = self.held.get(id) else { return };
        let Some(reason) = held.ended.filter(|_| held.places.is_empty()) else { return };
        let stats = self.stats(held);
        let Some(held) = self.held.get_mut(id) else { return };
        if !held.end_reported {
            self.output.add(&Event::Stats(stats.clone()));
            self.output.add(&Event::Detached(Detached { tracepoint: Arc::clone(&held.name), reason }));
            held.final_batch = Some(self.output.batch());
        }
        if !held.removing {
            held.end_reported = true;
            return;
        }
        let state = held.state(std::iter::empty(), stats, Instant::now());
        if let Some(held) = self.held.remove(id) {
            self.finished.add(&held.past);
            let mut all = held.earlier;
            all.add(&held.past);
            self.notes.update(|note| {
                if let Some(noted) = note.tracepoints.get_mut(id) {
                    (noted.past, noted.last) = (all.clone(), all.clone());
                    noted.final_batch = held.final_batch;
                }
            });
            self.gone.remember(id.clone(), &held.numbering, all);
        }
        self.answer_removals(id, &state);
        self.create_replacement(id);
    }

    /// The counters of a tracepoint, all builds together. As its hits' numbers they go on when it is asked for again.
    fn stats(&self, held: &Held) -> Stats {
        let mut stats = held.earlier.clone();
        stats.add(&self.stats_since_asked(held));
        stats.tracepoint = Arc::clone(&held.name);
        stats
    }

    fn stats_since_asked(&self, held: &Held) -> Stats {
        let mut stats = held.past.clone();
        if let Some(loaded) = &self.loaded {
            for placed in held.places.iter().filter_map(|place| self.places.get(place)) {
                match loaded.tracer.stats(placed.armed) {
                    Ok(of_place) => stats.add(&of_place),
                    Err(error) => tracing::debug!(%error, "counters can't be read now"),
                }
            }
        }
        stats
    }

    fn state(&self, held: &Held) -> TracepointState {
        let places = held.places.iter().filter_map(|place| self.places.get(place));
        held.state(places, self.stats(held), Instant::now())
    }

    /// Publishes the counters that changed.
    fn report_stats(&mut self) {
        // While the last ones wait for the broker, newer ones would only fill the queue.
        if !self.output.is_acknowledged(self.stats_in) {
            return;
        }
        let changed: Vec<(TracepointId, Stats)> = self
            .held
            .iter()
            .filter(|(_, held)| held.is_wanted())
            .map(|(id, held)| (id, held, self.stats(held)))
            .filter(|(_, held, stats)| stats.hits != held.reported_hits)
            .map(|(id, _, stats)| (id.clone(), stats))
            .collect();
        for (id, stats) in changed {
            if let Some(held) = self.held.get_mut(&id) {
                held.reported_hits = stats.hits;
            }
            self.output.add(&Event::Stats(stats));
            self.stats_in = self.output.batch();
        }
    }

    /// Something about a tracepoint is another than before.
    fn changed(&mut self) {
        self.state_revision += 1;
        self.tell_totals();
    }

    fn tell_totals(&self) {
        let mut all = self.finished.clone();
        for (id, held) in &self.held {
            all.add(&self.stats_since_asked(held));
            self.note_held(id);
        }
        self.shared.set_totals(|totals| {
            totals.hits = all.hits;
            totals.emitted = all.emitted;
            totals.losses =
                Losses { ring_full: all.dropped, undecodable: all.undecodable, ..Losses::default() };
            totals.held = self.held.len();
            totals.state_revision = self.state_revision;
            totals.generations = self.generations();
        });
    }

    fn generations(&self) -> Vec<OwnerGeneration> {
        let mut owners: BTreeMap<_, Vec<(&TracepointId, u64)>> = BTreeMap::new();
        for (id, held) in self.held.iter().filter(|(_, held)| !held.removing) {
            owners.entry(&held.spec.owner).or_default().push((id, held.spec.revision));
        }
        owners
            .into_iter()
            .map(|(owner, held)| OwnerGeneration { owner: owner.clone(), generation: generation(held) })
            .collect()
    }

    /// Gives the kernel side back when it was not needed for a while.
    fn unload(&mut self, now: Instant) {
        let is_unused = self.places.is_empty() && self.built_ins.is_empty();
        if is_unused && now.duration_since(self.unused_since) >= KEEP_LOADED {
            self.loaded = None;
            self.built_ins.clear();
        }
    }

    /// Removes everything, hands over what was recorded, and says how it ended.
    fn stop(mut self) {
        self.replacing.clear();
        let ids: Vec<TracepointId> = self.held.keys().cloned().collect();
        for id in &ids {
            self.remove(id, DetachReason::Removed);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.places.is_empty() && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
            self.poll();
            self.finish_stopped();
        }
        if let Some(loaded) = &mut self.loaded {
            loaded.tracer.discard();
        }
        let left: Vec<Place> = self.places.keys().copied().collect();
        self.finish_places(&left);
        self.built_ins.clear();
        self.flush();
        self.tell_totals();
    }
}
