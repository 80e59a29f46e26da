//! What is known of goroutines: who started them, and the last message that they got from their own host.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    evidence::{Received, Started},
    hit::Moment,
};

/// What is known of a goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub started: Option<Started>,
    /// With the moment when it came.
    pub received: Option<(Moment, Received)>,
}

/// A process of the fleet and a goroutine in it.
pub(super) type GoroutineId = (u64, u64);

/// Facts of the goroutines about which one was learned last.
#[derive(Clone, Debug, Default)]
pub(super) struct Goroutines {
    facts: HashMap<GoroutineId, Facts>,
    /// By when they were first heard of.
    order: VecDeque<GoroutineId>,
}

impl Goroutines {
    pub fn get(&self, id: GoroutineId) -> Option<&Facts> {
        if self.facts.is_empty() { None } else { self.facts.get(&id) }
    }

    /// Changes what is known; forgets the oldest when there are more than `limit`.
    pub fn learn(&mut self, id: GoroutineId, limit: usize, change: impl FnOnce(&mut Facts)) {
        change(self.facts.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Facts::default()
        }));
        while self.order.len() > limit {
            if let Some(oldest) = self.order.pop_front() {
                self.facts.remove(&oldest);
            }
        }
    }

    pub fn saved(&self) -> Vec<(GoroutineId, Facts)> {
        self.order.iter().filter_map(|id| Some((*id, *self.facts.get(id)?))).collect()
    }

    pub fn of(saved: Vec<(GoroutineId, Facts)>) -> Self {
        Self { order: saved.iter().map(|(id, _)| *id).collect(), facts: saved.into_iter().collect() }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.facts.len()
    }
}
