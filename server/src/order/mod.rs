//! The strict order: all hits of a fleet in one sequence that respects everything that is known to have happened before
//! something else, and a reason for every neighbour pair. `docs/order.md` says what is proven and what is not.
//!
//! Pure: a [`Sequencer`] is fed the stream in its order (hits with [`Sequencer::hit`], marks with [`Sequencer::mark`]) and
//! gives back what is final. Its answers depend on the stream alone: every server that reads the same stream computes the
//! same order, whatever order the hits between two marks came in.
//!
//! ```text
//! hit ──▶ pending (by host, by kernel time) ──mark──▶ required ──▶ merge ──▶ place ──▶ Placed (order, sort key, certificate)
//!            sends and receives by traceparent ──────▶ sources ──▶  ▲          └──▶ Evidence ──▶ certify(a, b)
//! ```

mod clocks;
mod evidence;
mod finalise;
mod frontier;
mod goroutine;
mod hit;
mod late;
mod merge;
mod message;
mod place;
mod sequencer;
#[cfg(any(test, feature = "simulator"))]
pub mod simulator;
mod sort_key;
#[cfg(test)]
mod tests;

pub use evidence::{Evidence, Interval, Received, Started, certify};
pub use frontier::{Bound, Carrier, FRONTIER_BOUNDS};
pub use hit::{DomainId, HitKey, HitMeta, Moment, Process};
pub use sequencer::{Checkpoint, Finalized, Limits, Placed, Provisional, Sequencer};
pub use sort_key::SortKey;
