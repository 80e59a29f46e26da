//! From a location to the addresses that are armed for it.

use std::sync::Arc;

use riptrace_common::wire::event::{Location, Trigger};

use crate::dwarf::Function;

/// An address that stands for a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Link-time address of the instruction.
    pub link_address: u64,
    /// What it stands for.
    pub location: Location,
    /// Why it gives a hit.
    pub trigger: Trigger,
    /// The function whose code holds it; `None` without debug data.
    pub function: Option<Arc<Function>>,
    /// The instruction there, in words.
    pub instruction: String,
    /// The kernel emulates the instruction: a hit costs one trap, not two.
    pub fast: bool,
}
