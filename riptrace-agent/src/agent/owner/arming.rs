//! Which builds a tracepoint belongs on, and getting it there.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use riptrace_common::{
    abi::limits,
    id::TracepointId,
    wire::{
        control::{BindFailure, Origin},
        event::Event,
    },
};

use super::{
    super::{
        catalogue::Known,
        follow::{Followed, follow, origin},
        notes::warn_of_pins,
        numbering::Place,
        tracepoint::{Failed, Placed},
    },
    KEEP_EMPTY, Loaded, Owner,
};
use crate::{
    binary::FileIdentity,
    plan::sites::LocationRequest,
    probe::{Kernel, KernelOptions, ProbeError},
    trace::{Image, Planner, ProcessScope, Request, Tracer, host, kernel_options},
};

/// Places that can be armed at the same time. The kernel side keeps counters of each for each processor.
const MAX_PLACES: u32 = 1024;

/// Warnings of a binding; the latest are kept.
const MAX_WARNINGS: usize = 16;

/// Processes of one file that a tracepoint is for.
type Group = Vec<Arc<Known>>;

/// Why a tracepoint is not armed on a build.
struct Refusal {
    reason: String,
    stale: bool,
    forbidden: bool,
    again: bool,
}

impl Refusal {
    fn of_build(reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), stale: false, forbidden: false, again: false }
    }

    fn of_kernel(error: &ProbeError) -> Self {
        Self { again: true, ..Self::of_build(error) }
    }
}

impl Owner {
    /// Arms a tracepoint on every build that has processes for it, and tells the kernel side which processes they are.
    /// Whether anything changed.
    pub(super) fn reconcile(&mut self, id: &TracepointId) -> bool {
        let Some(held) = self.held.get(id).filter(|held| held.is_wanted()) else { return false };
        let mut groups: BTreeMap<(u64, u64), Group> = BTreeMap::new();
        for known in self.snapshot.iter().filter(|known| held.spec.matches(&known.facts)) {
            let file = known.file();
            groups.entry((file.device, file.inode)).or_default().push(Arc::clone(known));
        }
        self.see_messages_first(id, &groups);
        let mut changed = self.update_places(id, &groups);
        let Some(held) = self.held.get_mut(id) else { return changed };
        // Only what still runs is worth telling.
        let pids = |file: &FileIdentity| -> Vec<u32> {
            let group = groups.get(&(file.device, file.inode));
            group.into_iter().flatten().map(|known| known.process.pid).collect()
        };
        let failures = held.failures.len();
        held.failures.retain_mut(|failed| {
            failed.failure.pids = pids(&failed.file);
            !failed.failure.pids.is_empty() && !failed.again
        });
        changed |= held.failures.len() != failures;
        let indexing = std::mem::take(&mut held.indexing);
        // Builds that are there together are armed where it was asked for; later ones are followed to.
        let mut learned = None;
        for group in groups.values() {
            changed |= self.arm(id, group, &mut learned);
        }
        if let Some(held) = self.held.get_mut(id) {
            held.learned = held.learned.take().or(learned);
        }
        changed | self.held.get(id).is_some_and(|held| held.indexing != indexing)
    }

    /// Messages of processes that are new where a session's tracepoint is armed are seen before its hits.
    fn see_messages_first(&mut self, id: &TracepointId, groups: &BTreeMap<(u64, u64), Group>) {
        let Some(held) = self.held.get(id).filter(|held| held.spec.session.is_some()) else { return };
        let live = held
            .places
            .iter()
            .filter_map(|place| self.places.get(place))
            .filter(|placed| placed.stopped_ns.is_none());
        let grown: Vec<(FileIdentity, Vec<u32>)> = live
            .filter_map(|placed| {
                let group = groups.get(&(placed.file.device, placed.file.inode))?;
                let of_file = group.iter().filter(|known| known.file() == placed.file);
                let pids = of_file.map(|known| known.process.pid);
                let new: Vec<u32> = pids.filter(|pid| !placed.pids.contains(pid)).collect();
                (!new.is_empty()).then_some((placed.file, new))
            })
            .collect();
        for (file, pids) in grown {
            self.see_messages(&file, &pids);
        }
    }

    /// Tells the kernel side which processes give hits on the builds on which the tracepoint is armed.
    fn update_places(&mut self, id: &TracepointId, groups: &BTreeMap<(u64, u64), Group>) -> bool {
        let Self { held, places, loaded: Some(loaded), .. } = self else { return false };
        let Some(held) = held.get(id) else { return false };
        let mut changed = false;
        for place in &held.places {
            let Some(placed) = places.get_mut(place).filter(|placed| placed.stopped_ns.is_none()) else {
                continue;
            };
            let group = groups.get(&(placed.file.device, placed.file.inode));
            let of_file = group.into_iter().flatten().filter(|known| known.file() == placed.file);
            let pids: Vec<u32> = of_file.map(|known| known.process.pid).collect();
            if pids == placed.pids {
                continue;
            }
            changed = true;
            let new = group.into_iter().flatten().filter(|known| !placed.pids.contains(&known.process.pid));
            let gaps: Vec<String> = new.filter_map(|known| gap(known, held.since_ns)).collect();
            if pids.is_empty() {
                // The last set stays: an empty one would mean every process.
                placed.empty_since = Some(Instant::now());
            } else {
                placed.empty_since = None;
                if let Err(error) = loaded.tracer.set_processes(placed.armed, &pids) {
                    tracing::warn!(%error, tracepoint = %id, "the kernel side can't be told of processes");
                }
            }
            placed.pids = pids;
            placed.attached.warnings.extend(gaps);
            let surplus = placed.attached.warnings.len().saturating_sub(MAX_WARNINGS);
            placed.attached.warnings.drain(..surplus);
        }
        changed
    }

    /// Disarms builds whose processes ended a while ago.
    pub(super) fn leave_empty(&mut self, now: Instant) {
        let empty: Vec<Place> = self
            .places
            .iter()
            .filter(|(_, placed)| {
                let is_over = placed.empty_since.is_some_and(|since| now.duration_since(since) >= KEEP_EMPTY);
                // The first place of a tracepoint with a limit counts for all of them.
                is_over && self.held.get(&placed.tracepoint).is_none_or(|held| held.spec.options.limit == 0)
            })
            .map(|(place, _)| *place)
            .collect();
        for place in empty {
            self.stop_place(place);
        }
    }

    /// Arms a tracepoint on one build, unless it is armed there or can't be. Whether anything changed.
    fn arm(&mut self, id: &TracepointId, group: &Group, learned: &mut Option<Origin>) -> bool {
        let Some(first) = group.first() else { return false };
        let file = first.file();
        let Some(held) = self.held.get_mut(id) else { return false };
        let is_there = held.places.iter().any(|place| {
            self.places.get(place).is_some_and(|placed| placed.file == file && placed.stopped_ns.is_none())
        });
        if is_there || held.failures.iter().any(|failed| failed.file == file) {
            return false;
        }
        let result = match &first.forbidden {
            Some(reason) => Err(Refusal { forbidden: true, ..Refusal::of_build(reason) }),
            None => match self.builds.get(first) {
                None => {
                    held.indexing.insert(key(&file));
                    return true;
                }
                Some(Err(reason)) => Err(Refusal::of_build(reason)),
                Some(Ok(image)) => self.bind(id, group, &image).map(|origin| {
                    *learned = learned.take().or(origin);
                }),
            },
        };
        if let Err(Refusal { reason, stale, forbidden, again }) = result
            && let Some(held) = self.held.get_mut(id)
        {
            let failure = BindFailure {
                executable: first.facts.exe.clone(),
                build_id: first.facts.build_id.clone(),
                pids: group.iter().map(|known| known.process.pid).collect(),
                stale,
                reason,
            };
            held.failures.push(Failed { file, failure, forbidden, again });
        }
        true
    }

    /// Arms a tracepoint on a build. Gives what it is there, if that is not known yet.
    fn bind(&mut self, id: &TracepointId, group: &Group, image: &Image) -> Result<Option<Origin>, Refusal> {
        let Some(first) = group.first() else { return Ok(None) };
        let file = first.file();
        self.load().map_err(|error| Refusal::of_kernel(&error))?;
        let (Some(loaded), Some(held)) = (&mut self.loaded, self.held.get_mut(id)) else { return Ok(None) };
        let image_id = match loaded.images.get(&file) {
            Some(image) => *image,
            None => {
                let added =
                    loaded.tracer.add_image(image.clone()).map_err(|error| Refusal::of_kernel(&error))?;
                loaded.images.insert(file, added);
                added
            }
        };
        let mut wanted = held.wanted.clone();
        let build_id = first.facts.build_id.as_deref();
        let followed = follow(image, build_id, &wanted.location, held.origin());
        let moved_to = match followed {
            Followed::Same => None,
            Followed::Moved(location) => {
                wanted.location = location;
                Some(wanted.location.to_string())
            }
            Followed::Stale(reason) => return Err(Refusal { stale: true, ..Refusal::of_build(reason) }),
        };
        let planned = loaded.tracer.plan(image_id, &wanted).map_err(Refusal::of_build)?;
        if let Some(reason) =
            planned.plans.iter().find_map(|plan| self.policy.denies_location(&plan.location))
        {
            return Err(Refusal { forbidden: true, ..Refusal::of_build(reason) });
        }
        let origin = match (&wanted.location, held.origin(), planned.plans.first()) {
            (LocationRequest::Line { .. }, None, Some(plan)) => {
                origin(image, build_id, first.facts.vcs_revision.as_deref(), &plan.location)
            }
            _ => None,
        };
        let options = &held.spec.options;
        let pids: Vec<u32> = group.iter().map(|known| known.process.pid).collect();
        let is_in_session = held.spec.session.is_some();
        let limit_with =
            held.places.iter().find_map(|place| self.places.get(place)).map(|placed| placed.armed);
        let requested = held.spec.location.clone();
        let (rate, limit, sample, dry_run, stack) =
            (options.rate, options.limit, options.sample, options.dry_run, options.stack);
        let scope = match held.spec.target.pid {
            Some(_) => ProcessScope::Only(pids.clone()),
            None => ProcessScope::Changing(pids.clone()),
        };
        // From now on there may be hits.
        self.shared.totals().is_idle = false;
        if is_in_session {
            self.see_messages(&file, &pids);
        }
        let place = self.next_place;
        let request = Request {
            id: Arc::from(place.to_string()),
            requested,
            image: image_id,
            attach_path: first.process.attach_path(),
            plans: planned.plans,
            processes: scope,
            limits: wanted.limits,
            rate_per_second: rate,
            limit,
            limit_with: limit_with.filter(|_| limit > 0),
            sample,
            dry_run,
            stack_frames: stack,
            wanted,
            warnings: planned.warnings,
        };
        // Should this process be killed, the next one has to know whose they are.
        self.next_place += 1;
        self.notes.update(|note| drop(note.places.insert(place, id.clone())));
        self.note_held(id);
        self.notes.save();
        let (Some(loaded), Some(held)) = (&mut self.loaded, self.held.get_mut(id)) else { return Ok(None) };
        let (armed, mut attached) = loaded.tracer.arm(request).map_err(|error| {
            self.notes.update(|note| drop(note.places.remove(&place)));
            Refusal::of_kernel(&error)
        })?;
        attached.tracepoint = Arc::clone(&held.name);
        attached.executable.clone_from(&first.facts.exe);
        attached.warnings.extend(group.iter().filter_map(|known| gap(known, held.since_ns)));
        self.output.add(&Event::Attached(attached.clone()));
        held.places.insert(place);
        let placed = Placed {
            tracepoint: id.clone(),
            armed,
            file,
            build_id: first.facts.build_id.clone(),
            pids,
            attached,
            moved_to,
            empty_since: None,
            stopped_ns: None,
        };
        self.places.insert(place, placed);
        Ok(origin)
    }

    /// Loads the kernel side, if it is not there.
    fn load(&mut self) -> Result<(), ProbeError> {
        if self.loaded.is_some() {
            return Ok(());
        }
        let options = KernelOptions {
            max_tracepoints: MAX_PLACES,
            open_calls: limits::MAX_OPEN_CALLS,
            conditions: true,
            calls: true,
            pins: self.notes.pins(),
            ..kernel_options(&self.cache)
        };
        let kernel = match Kernel::load(&options) {
            Err(ProbeError::Pins(error)) => {
                warn_of_pins(&error);
                Kernel::load(&KernelOptions { pins: None, ..options })?
            }
            loaded => loaded?,
        };
        let mut tracer = Tracer::start(kernel, Planner::default())?;
        tracer.identify(Arc::clone(&self.identity.hit.host), Arc::clone(&self.identity.hit.agent));
        if let Err(error) = tracer.measure_trap_cost() {
            tracing::warn!(%error, "the cost of a trap can't be measured here; an upper bound is assumed");
        }
        tracer.set_budget((self.budget > 0.0).then_some(self.budget));
        tracing::info!(ktime_ns = host::monotonic_ns(), "the kernel side is loaded");
        self.loaded = Some(Loaded { tracer, images: std::collections::HashMap::new() });
        Ok(())
    }
}

/// A process that began when the tracepoint was held already was traced a little later: how much.
fn gap(known: &Known, since_ns: u64) -> Option<String> {
    let began_ns = known.began_ns.filter(|began_ns| *began_ns > since_ns)?;
    #[expect(clippy::cast_precision_loss, reason = "told to a person")]
    let late_ms = host::monotonic_ns().saturating_sub(began_ns) as f64 / 1e6;
    Some(format!("process {} is traced from {late_ms:.1} ms after its start on", known.process.pid))
}

/// Names a file in a set.
fn key(file: &FileIdentity) -> u64 {
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    hasher.finish()
}
