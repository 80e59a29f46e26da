//! The pipeline of one machine: from planned sites to a stream of events. `riptrace probe` runs it.
//!
//! [`Tracer`] owns all state: the kernel's programs and maps, the registry of types, the traced binaries, the armed
//! tracepoints, and the records that wait for their turn. It does nothing by itself: whoever owns it calls
//! [`Tracer::poll`].

mod armed;
pub mod budget;
mod closures;
pub mod edges;
pub mod host;
mod image;
pub mod inspect;
mod kept;
mod kernel_facts;
mod limits;
mod moving;
mod order;
mod outputs;
mod passages;
mod planner;
mod planning;
mod preload;
mod processes;
mod proofs;
mod records;
mod request;
mod results;
mod scope;
mod stacks;
pub mod survey;
mod wanted;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Sender},
    time::Instant,
};

use bytes::Bytes;
use riptrace_common::{
    abi::program::{self, TRACEPOINT_DRY_RUN, TRACEPOINT_ENABLED},
    wire::event::{Attached, DetachReason, Detached, SiteInfo},
};

use self::{
    budget::{Budget, Level, Settled},
    edges::Edges,
    kept::KeptOfCalls,
    order::Reorder,
    passages::BranchWatch,
    processes::Processes,
    stacks::Stacks,
};
pub use self::{
    host::utc_offset_seconds,
    image::Image,
    kernel_facts::kernel_options,
    outputs::Expressions,
    planner::Planner,
    planning::plan_alone,
    request::{ProcessScope, Request},
    scope::ParsedExpr,
    wanted::{PlanFailure, PlannedLocation, SiteChoice, Wanted, parse_captures},
};
use crate::{
    decode::HostFacts,
    fast_map::FastMap,
    plan::{CallRole, CaptureLimits, SitePlan, cost::capture_ns, types::TypeRegistry},
    probe::{AttachmentId, Kernel, ProbeError, Scope, SiteHandle, TrapCost},
    ring::RingReader,
};

/// Names a traced binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageId(usize);

/// Names an armed tracepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TracepointId(u32);

#[derive(Debug)]
struct Armed {
    id: Arc<str>,
    image: ImageId,
    limits: CaptureLimits,
    attachment: Option<AttachmentId>,
    /// Any path to the binary's file.
    attach_path: PathBuf,
    scope: Scope,
    since: Instant,
    /// When it was stopped.
    until: Option<Instant>,
    /// How far down the ladder of the budget.
    level: Level,
    wanted: Wanted,
    /// The armed sites.
    handles: Vec<SiteHandle>,
    /// Some site's instruction is single-stepped.
    is_stepped: bool,
    /// What the traps at former sites cost.
    settled: Settled,
    /// Some site is a branch that may lead elsewhere.
    branch_watch: Option<BranchWatch>,
    /// In a dry run, what a capture is estimated to take.
    dry_run_capture_ns: Option<u64>,
    /// Records that could not be decoded.
    undecodable: u64,
    /// Records that were taken from the ring and thrown away.
    discarded: u64,
    /// Hits of a built-in tracepoint that were no edges.
    not_edges: u64,
    /// Records whose stack was not known.
    stacks_unavailable: u64,
    /// It follows calls to their end.
    has_calls: bool,
}

#[derive(Debug)]
struct ArmedSite {
    generation: u32,
    plan: SitePlan,
}

#[derive(Debug)]
struct KnownImage {
    image: Image,
    /// Index among the kernel side's images.
    index: u32,
}

/// One machine's tracepoints.
#[derive(Debug)]
pub struct Tracer {
    kernel: Kernel,
    ring: RingReader,
    registry: TypeRegistry,
    images: Vec<KnownImage>,
    armed: FastMap<u32, Armed>,
    sites: FastMap<u32, ArmedSite>,
    processes: Processes,
    host: HostFacts,
    waiting: Reorder,
    stacks: Stacks,
    edges: Edges,
    kept_of_calls: KeptOfCalls,
    /// When the latest hit began that was taken from the ring.
    newest_ns: u64,
    /// Every hit that began before this was handed over.
    complete_until_ns: u64,
    batch: Vec<Bytes>,
    trap_cost: Option<TrapCost>,
    budget: Option<Budget>,
    /// Gets every record as it came.
    copies: Option<Sender<Bytes>>,
}

/// Which processes trap.
fn scope_of(processes: &ProcessScope) -> Scope {
    match processes {
        ProcessScope::Only(pids) if pids.len() == 1 => {
            pids.first().map_or(Scope::AllProcesses, |pid| Scope::Process(*pid))
        }
        _ => Scope::AllProcesses,
    }
}

/// The sites that a tracepoint is said to have.
fn shown_sites(plans: &[SitePlan]) -> Vec<SiteInfo> {
    plans.iter().filter(|plan| !plan.is_internal()).map(|plan| plan.info.clone()).collect()
}

impl Tracer {
    /// Takes a loaded kernel side, and what was planned while it loaded. Nothing traps yet.
    ///
    /// # Errors
    ///
    /// The kernel side has no room for the binaries, or its records have a reader already.
    pub fn start(mut kernel: Kernel, planner: Planner) -> Result<Self, ProbeError> {
        let ring = kernel.ring()?;
        let Planner { registry, images } = planner;
        for known in &images {
            let index = kernel.add_image(&known.image.abi())?;
            if let Some(types) = known.image.types() {
                kernel.allow_keys(types.rules().allowed_keys())?;
            }
            if index != known.index {
                return Err(ProbeError::Unknown { what: "image", index: known.index.into() });
            }
        }
        let stacks = Stacks::new(kernel.sent_stack_slots());
        Ok(Self {
            kernel,
            ring,
            registry,
            images,
            armed: FastMap::default(),
            sites: FastMap::default(),
            processes: Processes::default(),
            host: host::facts(),
            waiting: Reorder::default(),
            stacks,
            edges: Edges::default(),
            kept_of_calls: KeptOfCalls::default(),
            newest_ns: 0,
            complete_until_ns: 0,
            batch: Vec::new(),
            trap_cost: None,
            budget: None,
            copies: None,
        })
    }

    /// Says what hits call this host and this run.
    pub fn identify(&mut self, host: Arc<str>, agent: Arc<str>) {
        self.host.host = host;
        self.host.agent = agent;
    }

    /// Another process has this pid since, or it executes another program.
    pub fn forget_process(&mut self, pid: u32) {
        self.processes.forget(pid);
    }

    /// Every hit that began before this time of the kernel's clock was handed over by [`Tracer::poll`], as far as there is
    /// a record of it.
    #[must_use]
    pub fn complete_until_ns(&self) -> u64 {
        self.complete_until_ns
    }

    /// The binary.
    #[must_use]
    pub fn image(&self, id: ImageId) -> Option<&Image> {
        self.images.get(id.0).map(|known| &known.image)
    }

    /// Takes a binary while tracepoints are armed.
    ///
    /// # Errors
    ///
    /// The kernel side has no room for it.
    pub fn add_image(&mut self, image: Image) -> Result<ImageId, ProbeError> {
        let index = self.kernel.add_image(&image.abi())?;
        if let Some(types) = image.types() {
            self.kernel.allow_keys(types.rules().allowed_keys())?;
        }
        self.images.push(KnownImage { image, index });
        Ok(ImageId(self.images.len() - 1))
    }

    /// Plans a location while tracepoints are armed: as [`Planner::plan`].
    ///
    /// # Errors
    ///
    /// The location can't be bound, or an expression names nothing.
    pub fn plan(&mut self, image: ImageId, wanted: &Wanted) -> Result<PlannedLocation, PlanFailure> {
        let Self { registry, images, .. } = self;
        let known = images.get(image.0).ok_or(PlanFailure::UnknownImage)?;
        planning::plan(registry, &known.image, known.index, wanted)
    }

    /// Replaces the set of processes that give hits; it must not be empty.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn set_processes(&mut self, id: TracepointId, pids: &[u32]) -> Result<(), ProbeError> {
        self.kernel.set_processes(id.0, pids)
    }

    /// Hands every record over as the kernel side wrote it, besides decoding it.
    pub fn copy_records_to(&mut self, copies: Sender<Bytes>) {
        self.copies = Some(copies);
    }

    /// Arms a tracepoint.
    ///
    /// # Errors
    ///
    /// The kernel refused; nothing of the tracepoint stays behind.
    pub fn arm(&mut self, request: Request) -> Result<(TracepointId, Attached), ProbeError> {
        let known = self
            .images
            .get(request.image.0)
            .ok_or(ProbeError::Unknown { what: "image", index: request.image.0 as u64 })?;
        let executable = known.image.executable.path().display().to_string();
        let image_index = known.index;
        self.kernel.upload(&self.registry.take_upload())?;
        let tgids = match &request.processes {
            ProcessScope::All => &[][..],
            ProcessScope::Only(pids) | ProcessScope::Changing(pids) => pids,
        };
        let tracepoint = program::Tracepoint {
            flags: TRACEPOINT_ENABLED | if request.dry_run { TRACEPOINT_DRY_RUN } else { 0 },
            tgid: 0,
            rate_per_second: request.rate_per_second,
            stack_frames: request.stack_frames,
            limit: request.limit,
            max_depth: request.limits.max_depth,
            max_string: request.limits.max_string,
            max_items: request.limits.max_items,
            max_bytes: request.limits.max_bytes,
            limit_owner_plus_one: request.limit_with.map_or(0, |owner| owner.0 + 1),
            sample_threshold: limits::sample_threshold(request.sample),
        };
        let index = self.kernel.add_tracepoint(&tracepoint, tgids)?;
        if let Err(error) = self.kernel.name_tracepoint(index, &request.id) {
            self.kernel.remove_tracepoint(index)?;
            return Err(error);
        }
        match self.attach(index, image_index, &request) {
            Ok((attachment, handles)) => {
                let captures = request.plans.iter().map(|plan| capture_ns(plan, request.stack_frames));
                let sites = shown_sites(&request.plans);
                let is_stepped = request.plans.iter().any(SitePlan::is_stepped);
                let may_pass = request.plans.iter().any(SitePlan::may_pass);
                let has_calls = request.plans.iter().any(|plan| plan.call != CallRole::None);
                self.armed.insert(
                    index,
                    Armed {
                        id: Arc::clone(&request.id),
                        image: request.image,
                        limits: request.limits,
                        attachment: Some(attachment),
                        scope: scope_of(&request.processes),
                        attach_path: request.attach_path,
                        since: Instant::now(),
                        until: None,
                        level: Level::default(),
                        handles,
                        is_stepped,
                        settled: Settled::default(),
                        branch_watch: may_pass.then(|| BranchWatch::new(host::monotonic_ns())),
                        dry_run_capture_ns: captures.max().filter(|_| request.dry_run),
                        wanted: request.wanted,
                        undecodable: 0,
                        discarded: 0,
                        not_edges: 0,
                        stacks_unavailable: 0,
                        has_calls,
                    },
                );
                let attached = Attached {
                    redaction: self.redaction(request.image),
                    tracepoint: request.id,
                    requested: request.requested,
                    executable,
                    sites,
                    warnings: request.warnings,
                };
                Ok((TracepointId(index), attached))
            }
            Err(error) => {
                self.kernel.remove_tracepoint(index)?;
                Err(error)
            }
        }
    }

    fn redaction(&self, image: ImageId) -> Arc<str> {
        let types = self.image(image).and_then(Image::types);
        types.map_or_else(|| "off".into(), |types| Arc::clone(types.rules().description()))
    }

    /// Writes the sites and sets the traps.
    fn attach(
        &mut self,
        tracepoint: u32,
        image: u32,
        request: &Request,
    ) -> Result<(AttachmentId, Vec<SiteHandle>), ProbeError> {
        let plans: Vec<&SitePlan> = request.plans.iter().collect();
        let handles = self.kernel.add_sites(tracepoint, image, &plans)?;
        let scope = scope_of(&request.processes);
        let attachment = self.set_traps(&handles, &request.plans, &request.attach_path, scope)?;
        Ok((attachment, handles))
    }

    /// Sets the traps of written sites.
    fn set_traps(
        &mut self,
        handles: &[SiteHandle],
        plans: &[SitePlan],
        attach_path: &Path,
        scope: Scope,
    ) -> Result<AttachmentId, ProbeError> {
        // Known before the first trap, so that no record comes from a site that nobody knows.
        for (handle, plan) in handles.iter().zip(plans) {
            self.sites.insert(handle.index, ArmedSite { generation: handle.generation, plan: plan.clone() });
        }
        let points: Vec<_> = plans.iter().map(|plan| plan.file_offset).zip(handles.iter().copied()).collect();
        self.kernel.attach(attach_path, &points, scope)
    }

    /// Stops new hits of a tracepoint, at once; its counters and records stay.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn stop(&mut self, id: TracepointId) -> Result<(), ProbeError> {
        self.kernel.disable(id.0)?;
        let Some(armed) = self.armed.get_mut(&id.0) else { return Ok(()) };
        armed.until.get_or_insert_with(Instant::now);
        match armed.attachment.take() {
            Some(attachment) => self.kernel.detach(attachment),
            None => Ok(()),
        }
    }

    /// Forgets a stopped tracepoint.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn remove(&mut self, id: TracepointId, reason: DetachReason) -> Result<Option<Detached>, ProbeError> {
        self.stop(id)?;
        self.kernel.remove_tracepoint(id.0)?;
        self.edges.forget(id.0);
        self.kept_of_calls.forget(id.0);
        Ok(self.armed.remove(&id.0).map(|armed| Detached {
            reason: if armed.level == Level::Detached { DetachReason::Budget } else { reason },
            tracepoint: armed.id,
        }))
    }
}
