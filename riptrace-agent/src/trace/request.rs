//! What the tracer is asked to arm.

use std::{path::PathBuf, sync::Arc};

use super::{ImageId, TracepointId, Wanted};
use crate::plan::{CaptureLimits, SitePlan};

/// Which processes a tracepoint is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessScope {
    /// Every process of the binary, those that start later too.
    All,
    /// These, and never others.
    Only(Vec<u32>),
    /// These for now; [`Tracer::set_processes`] changes them.
    Changing(Vec<u32>),
}

/// A tracepoint to be armed.
#[derive(Debug)]
pub struct Request {
    /// Its name.
    pub id: Arc<str>,
    /// The location as it was asked for.
    pub requested: String,
    /// The binary.
    pub image: ImageId,
    /// Any path to the binary's file.
    pub attach_path: PathBuf,
    /// Where, and what is captured there.
    pub plans: Vec<SitePlan>,
    /// Which processes.
    pub processes: ProcessScope,
    /// Capture limits.
    pub limits: CaptureLimits,
    /// Hits a second; 0: no limit.
    pub rate_per_second: u32,
    /// Hits in all; 0: no limit.
    pub limit: u64,
    /// A tracepoint that is armed already, whose hits count towards the limit too.
    pub limit_with: Option<TracepointId>,
    /// The share of the hits that is captured, 0 to 1.
    pub sample: f64,
    /// Count and price the hits, capture nothing.
    pub dry_run: bool,
    /// Frames of the call stack; 0: none.
    pub stack_frames: u32,
    /// What the plans were made from: to plan less, should it cost too much.
    pub wanted: Wanted,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Request {
    /// Every hit, whole, without a call stack: `id` stands at the location of `wanted`, of which `plans` were made.
    #[must_use]
    pub fn of(
        id: impl Into<Arc<str>>,
        image: ImageId,
        attach_path: PathBuf,
        plans: Vec<SitePlan>,
        processes: ProcessScope,
        wanted: Wanted,
    ) -> Self {
        Self {
            id: id.into(),
            requested: wanted.location.to_string(),
            image,
            attach_path,
            plans,
            processes,
            limits: wanted.limits,
            rate_per_second: 0,
            limit: 0,
            limit_with: None,
            sample: 1.0,
            dry_run: false,
            stack_frames: 0,
            wanted,
            warnings: Vec::new(),
        }
    }
}
