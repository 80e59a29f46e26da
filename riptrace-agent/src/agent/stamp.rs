//! The coordinated time of a hit: what the server last made of this host's clock.

use std::sync::{Mutex, PoisonError};

use riptrace_common::wire::{clock::Assigned, event::Hit};

use crate::decode::time::rfc3339_utc;

/// What the server assigned, shared between who is told and who stamps.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Assigned>>);

impl Clock {
    /// Takes a newer estimate.
    pub fn assign(&self, assigned: Assigned) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(assigned);
    }

    /// The last estimate.
    #[must_use]
    pub fn assigned(&self) -> Option<Assigned> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the coordinated time into a hit.
pub fn stamp(hit: &mut Hit, assigned: &Assigned) {
    let (time_ns, uncertainty_ns) = assigned.time_of(hit.ktime_ns);
    hit.time_ns = time_ns;
    hit.time = rfc3339_utc(time_ns);
    hit.uncertainty_ns = Some(uncertainty_ns);
    hit.clock_epoch = Some(assigned.epoch);
}
