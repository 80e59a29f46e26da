//! From the tracer's events to batches: each hit gets its tracepoint's name, session, number and coordinated time.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use riptrace_common::{
    id::TracepointId,
    wire::{
        clock::Assigned,
        event::{BudgetAction, Event, Hit, Trigger},
    },
};

use super::super::{
    batch::BatchWriter,
    facts::Identity,
    numbering::Place,
    stamp::{Clock, stamp},
    tracepoint::{Held, Placed},
};
use super::edges::BuiltIns;
use crate::nats::publish::{Outbox, Parcel};

/// Where events go.
#[derive(Debug)]
pub(super) struct Output {
    writer: BatchWriter,
    outbox: Arc<Outbox>,
    clock: Arc<Clock>,
    /// What the clock was at the beginning of this round.
    assigned: Option<Assigned>,
}

impl Output {
    pub(super) fn new(identity: &Identity, outbox: Arc<Outbox>, clock: Arc<Clock>) -> Self {
        let hit = &identity.hit;
        Self { writer: BatchWriter::new(&hit.host, &hit.agent, &hit.boot_id), outbox, clock, assigned: None }
    }

    /// A round of hits begins.
    pub(super) fn begin(&mut self) {
        self.assigned = self.clock.assigned();
    }

    /// The number of the batch that has the last event, unless that was a hit.
    pub(super) fn batch(&self) -> u64 {
        self.writer.seq()
    }

    /// Whether every batch up to this one reached the stream, or was given up.
    pub(super) fn is_acknowledged(&self, batch: u64) -> bool {
        self.outbox.standing().acknowledged_seq >= batch
    }

    /// Takes an event as it is.
    pub(super) fn add(&mut self, event: &Event) {
        let full = self.writer.add(event);
        self.push(full);
    }

    fn push(&self, parcel: Option<Parcel>) {
        // What finds no room is counted.
        parcel.map(|parcel| self.outbox.push(parcel));
    }

    /// Hands over what was collected. Every hit before `complete_ns` was taken.
    pub(super) fn flush(&mut self, complete_ns: u64) {
        let parcel = self.writer.finish();
        self.push(parcel);
        self.outbox.pushed_until(complete_ns);
    }

    /// Takes an event of the tracer's records.
    pub(super) fn take(
        &mut self,
        event: Event,
        held: &mut BTreeMap<TracepointId, Held>,
        places: &BTreeMap<Place, Placed>,
        built_ins: &BuiltIns,
    ) -> ControlFlow<()> {
        match event {
            Event::Hit(mut hit) if hit.edge.is_some() => {
                if built_ins.name(&mut hit) {
                    if let Some(assigned) = &self.assigned {
                        stamp(&mut hit, assigned);
                    }
                    self.add(&Event::Hit(hit));
                }
            }
            Event::Hit(mut hit) => {
                if let Some((place, held)) = find(&hit.tracepoint, held, places) {
                    name(&mut hit, place, held);
                    if let Some(assigned) = &self.assigned {
                        stamp(&mut hit, assigned);
                    }
                    self.add(&Event::Hit(hit));
                }
            }
            Event::Error(mut error) => {
                let of = error.tracepoint.take().and_then(|name| {
                    let (_, held) = find(&name, held, places)?;
                    // A record that can't be decoded leaves a gap.
                    held.numbering.skip();
                    Some(Arc::clone(&held.name))
                });
                error.tracepoint = of;
                self.add(&Event::Error(error));
            }
            other => self.add(&other),
        }
        ControlFlow::Continue(())
    }

    /// Takes an event of the budget; gives the tracepoint that is disarmed by it.
    pub(super) fn take_other(
        &mut self,
        event: Event,
        held: &BTreeMap<TracepointId, Held>,
        places: &BTreeMap<Place, Placed>,
    ) -> Option<TracepointId> {
        let of = |name: &str| {
            let placed = places.get(&name.parse().ok()?)?;
            held.get(&placed.tracepoint).map(|held| Arc::clone(&held.name))
        };
        match event {
            Event::Budget(mut step) => {
                step.tracepoint = of(&step.tracepoint)?;
                let ended =
                    (step.step == BudgetAction::Detach).then(|| TracepointId(step.tracepoint.clone()));
                self.add(&Event::Budget(step));
                ended
            }
            Event::Moved(mut moved) => {
                moved.tracepoint = of(&moved.tracepoint)?;
                self.add(&Event::Moved(moved));
                None
            }
            Event::Error(mut error) => {
                error.tracepoint = error.tracepoint.take().and_then(|name| of(&name));
                self.add(&Event::Error(error));
                None
            }
            other => {
                self.add(&other);
                None
            }
        }
    }
}

/// The tracepoint of a place, by the name that the tracer knows the place by.
fn find<'a>(
    name: &str,
    held: &'a mut BTreeMap<TracepointId, Held>,
    places: &BTreeMap<Place, Placed>,
) -> Option<(Place, &'a mut Held)> {
    let place = name.parse().ok()?;
    let placed = places.get(&place)?;
    Some((place, held.get_mut(&placed.tracepoint)?))
}

/// Gives a hit the names and the number that others know it by.
fn name(hit: &mut Hit, place: Place, held: &mut Held) {
    let kernel_seq = hit.seq;
    hit.tracepoint = Arc::clone(&held.name);
    hit.session.clone_from(&held.session);
    hit.seq = held.numbering.take();
    if hit.event == Trigger::Entry && held.spec.options.returns {
        held.numbering.remember(place, kernel_seq, hit.seq);
    }
    hit.entry_seq = hit.entry_seq.and_then(|entry| held.numbering.entry(place, entry));
    held.captured += 1;
}
