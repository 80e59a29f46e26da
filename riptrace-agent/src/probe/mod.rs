//! The kernel side, as the agent sees it: loaded programs, what they are told, where they are attached.
//!
//! Takes plans (`plan`) and executables' file offsets; gives a [`crate::ring::RingReader`] with the hits' records, and
//! counters. This module and `ring` are the only users of aya. All of it ends with the process; only counters are pinned, and
//! only if that is asked for ([`pins`]).

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use aya::{
    Ebpf, VerifierLogLevel,
    maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, RingBuf},
};
use riptrace_common::abi::{
    condition::{Block, Op},
    context::ContextPlan,
    limits,
    names::Name,
    program::{
        CallState, Costs, Counters, Dynamic, DynamicKey, Image, MAX_ALLOWED_KEY_BYTES, ProcessKey, Site,
        Slot, State, TRACEPOINT_ENABLED, TRACEPOINT_PROCESS_SET, TYPE_BYTES, TYPE_CLOSURE_WORD, TYPE_ITAB,
        TYPE_SPAN, TYPE_UNKNOWN, Table, Tracepoint, Type, Window, key_hash,
    },
    stack,
};

use crate::{
    plan::{table::Uploaded, types::Upload},
    ring::RingReader,
};

mod attach;
mod btf;
mod calibrate;
mod counters;
mod error;
mod features;
mod load;
mod map;
pub mod pins;
mod registry;
mod sites;
pub mod watch;

pub use attach::Scope;
pub use calibrate::TrapCost;
pub use counters::CostHistogram;
pub use error::ProbeError;
pub use features::{Feature, Features, task_fsbase_offset};
use registry::Registry;

/// How the kernel side is loaded.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// Bytes of the ring buffer between kernel and agent; a power of two. All CPUs share it.
    ///
    /// 8 MiB hold a second of 20,000 records of 400 bytes, or 128 of the largest ones, so that an agent that drains
    /// every 10 ms has room for a burst a hundred times its usual rate.
    pub ring_bytes: u32,
    /// One link a place even where the kernel has `uprobe_multi`; for tests.
    pub force_single_links: bool,
    /// Hits that can be captured on one CPU at the same time (one is preempted while it runs). 1 to 8.
    pub scratch_per_cpu: u32,
    /// Offset of `thread.fsbase` in the kernel's `struct task_struct`, where it is known; else it is looked up.
    pub task_fsbase_offset: Option<u32>,
    /// Tracepoints that can be armed at the same time; at most `limits::MAX_TRACEPOINTS`. Each takes some hundred bytes
    /// for each CPU that can ever be present, which the kernel allocates and clears one by one when it loads.
    pub max_tracepoints: u32,
    /// Calls of functions whose returns are traced that can be open at the same time; a power of two, 8 to 65536. Past it
    /// the oldest are given up. Each takes 64 bytes.
    pub open_calls: u32,
    /// Call stacks of which the kernel side remembers that it sent them; a power of two, at most 16384. Each takes 8 bytes.
    pub sent_stacks: u32,
    /// There will be sites with conditions. What they need takes the verifier longer than all the rest of the program.
    pub conditions: bool,
    /// There will be sites where calls are entered and end.
    pub calls: bool,
    /// Sites copy what their plans know beforehand without a scan (`abi::program::Table`); false for tests.
    pub use_tables: bool,
    /// Where the counters are pinned, so that they outlive this process if it is killed.
    pub pins: Option<pins::Pins>,
    /// What the verifier is asked to say.
    pub verifier_log: VerifierLogLevel,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 8 * 1024 * 1024,
            force_single_links: false,
            scratch_per_cpu: 2,
            task_fsbase_offset: None,
            max_tracepoints: limits::MAX_TRACEPOINTS,
            open_calls: 8,
            sent_stacks: limits::MAX_SENT_STACKS,
            conditions: true,
            calls: true,
            use_tables: true,
            pins: None,
            verifier_log: load::DEFAULT_VERIFIER_LOG,
        }
    }
}

/// An entry of the map of sites, and which use of it this is. The uprobe's cookie is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteHandle {
    /// Index into `SITES`; `record::Header::site`.
    pub index: u32,
    /// `record::Header::generation`.
    pub generation: u32,
}

impl SiteHandle {
    /// What the kernel side is handed with every hit.
    pub fn cookie(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// One successful [`Kernel::attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttachmentId(u64);

/// What one tracepoint needs to be given back.
#[derive(Debug)]
struct TracepointEntry {
    tracepoint: Tracepoint,
    /// `Tracepoint::tgid` as it was asked for; it holds while no set of processes is given.
    own_tgid: u32,
    tgids: Vec<u32>,
    sites: Vec<SiteHandle>,
}

/// Loaded programs and maps. Dropping it detaches and unloads everything.
pub struct Kernel {
    ebpf: Ebpf,
    /// The loaded program.
    program: &'static str,
    multi: bool,
    /// The kernel's own filter by process works for links with many places.
    multi_process_scope: bool,
    sites: Array<MapData, Site>,
    tracepoints: Array<MapData, Tracepoint>,
    states: Array<MapData, State>,
    call_states: Array<MapData, CallState>,
    counters: PerCpuArray<MapData, Counters>,
    names: Array<MapData, Name>,
    pinned: Option<pins::Pinned>,
    costs: PerCpuArray<MapData, Costs>,
    reduced: Array<MapData, u32>,
    sent_stacks: Array<MapData, u64>,
    sent_stack_slots: u32,
    windows: Array<MapData, Window>,
    types: Array<MapData, Type>,
    slots: Array<MapData, Slot>,
    conditions: Array<MapData, Op>,
    constants: Array<MapData, Block>,
    tables: Array<MapData, Table>,
    contexts: Array<MapData, ContextPlan>,
    images: Array<MapData, Image>,
    dynamic: BpfHashMap<MapData, DynamicKey, Dynamic>,
    upload_counter: Array<MapData, u64>,
    uploads: u64,
    allowed_keys: BpfHashMap<MapData, u64, u32>,
    processes: BpfHashMap<MapData, ProcessKey, u8>,
    registry: Registry,
    uploaded: Uploaded,
    use_tables: bool,
    tracepoint_entries: BTreeMap<u32, TracepointEntry>,
    attachments: HashMap<AttachmentId, attach::Attachment>,
    next_attachment: u64,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Kernel")
            .field("multi", &self.multi)
            .field("tracepoints", &self.tracepoint_entries.len())
            .field("attachments", &self.attachments.len())
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the programs. Nothing traps yet.
    pub fn load(options: &KernelOptions) -> Result<Self, ProbeError> {
        let mut ebpf = load::object(options)?;
        let multi = !options.force_single_links && features::uprobe_multi().is_yes();
        let multi_process_scope = multi && features::uprobe_multi_process_scope().is_yes();
        let program = load::program_name(multi, options);
        let loading = attach::program(&mut ebpf, program)?;
        load::until_decided(|| loading.load()).map_err(|error| load::refused("the program", error))?;
        let counters = take(&mut ebpf, "COUNTERS")?;
        let names = take(&mut ebpf, "NAMES")?;
        let pinned = options.pins.as_ref().map(|pins| pins.pin(&counters, &names)).transpose()?;
        let mut kernel = Self {
            sites: array(&mut ebpf, "SITES")?,
            tracepoints: array(&mut ebpf, "TRACEPOINTS")?,
            states: array(&mut ebpf, "STATES")?,
            counters: counters.try_into().map_err(|error| bad_map("COUNTERS", &error))?,
            names: names.try_into().map_err(|error| bad_map("NAMES", &error))?,
            pinned,
            call_states: array(&mut ebpf, "CALL_STATES")?,
            costs: take(&mut ebpf, "COSTS")?.try_into().map_err(|error| bad_map("COSTS", &error))?,
            reduced: array(&mut ebpf, "REDUCED")?,
            sent_stacks: array(&mut ebpf, "SENT_STACKS")?,
            sent_stack_slots: options.sent_stacks,
            windows: array(&mut ebpf, "WINDOWS")?,
            types: array(&mut ebpf, "TYPES")?,
            slots: array(&mut ebpf, "SLOTS")?,
            conditions: array(&mut ebpf, "CONDITIONS")?,
            constants: array(&mut ebpf, "CONSTANTS")?,
            tables: array(&mut ebpf, "TABLES")?,
            contexts: array(&mut ebpf, "CONTEXTS")?,
            images: array(&mut ebpf, "IMAGES")?,
            upload_counter: array(&mut ebpf, "UPLOADS")?,
            uploads: 0,
            dynamic: take(&mut ebpf, "DYNAMIC")?.try_into().map_err(|error| bad_map("DYNAMIC", &error))?,
            allowed_keys: take(&mut ebpf, "ALLOWED_KEYS")?
                .try_into()
                .map_err(|error| bad_map("ALLOWED_KEYS", &error))?,
            processes: take(&mut ebpf, "PROCESSES")?
                .try_into()
                .map_err(|error| bad_map("PROCESSES", &error))?,
            ebpf,
            program,
            multi,
            multi_process_scope,
            registry: Registry::new(options.max_tracepoints),
            uploaded: Uploaded::default(),
            use_tables: options.use_tables,
            tracepoint_entries: BTreeMap::new(),
            attachments: HashMap::new(),
            next_attachment: 0,
        };
        kernel.write_builtin_types()?;
        Ok(kernel)
    }

    /// What this machine offers.
    pub fn features() -> Features {
        Features::detect()
    }

    /// Whether many places share one link.
    pub fn uses_multi_links(&self) -> bool {
        self.multi
    }

    /// Instructions that the verifier went through to accept the program (its bound is a million); `None`: the kernel
    /// does not say.
    pub fn verified_instructions(&mut self) -> Option<u32> {
        attach::program(&mut self.ebpf, self.program).ok()?.info().ok()?.verified_instruction_count()
    }

    /// The types that every kernel side knows (abi/program.rs).
    fn write_builtin_types(&mut self) -> Result<(), ProbeError> {
        let plain = |bytes| Type { bytes, ..Type::default() };
        let indexes = [TYPE_BYTES, TYPE_CLOSURE_WORD, TYPE_UNKNOWN, TYPE_ITAB, TYPE_SPAN];
        let types = [plain(1), plain(8), plain(1), plain(8), plain(64)];
        self.uploaded.add(&Upload { types: indexes.into_iter().zip(types).collect(), ..Upload::default() });
        map::write(&self.types, "TYPES", &indexes, &types)
    }

    /// Tells the kernel side about an executable. The index names it in sites and in `DynamicKey`.
    pub fn add_image(&mut self, image: &Image) -> Result<u32, ProbeError> {
        let index = self.registry.images.allocate()?;
        map::write(&self.images, "IMAGES", &[index], std::slice::from_ref(image))?;
        Ok(index)
    }

    /// Takes an image back. The sites that name it must be gone.
    pub fn remove_image(&mut self, index: u32) {
        self.registry.images.release(index);
    }

    /// Writes newly compiled types.
    pub fn upload(&mut self, upload: &Upload) -> Result<(), ProbeError> {
        if let Some(&(index, _)) = upload.types.iter().find(|(index, _)| *index >= limits::FIRST_ROOT_TYPE) {
            return Err(ProbeError::Full { what: "types", wanted: index, capacity: limits::FIRST_ROOT_TYPE });
        }
        if let Some(&(index, _)) = upload.slots.iter().find(|(index, _)| *index >= limits::FIRST_ROOT_SLOT) {
            return Err(ProbeError::Full { what: "slots", wanted: index, capacity: limits::FIRST_ROOT_SLOT });
        }
        self.uploaded.add(upload);
        // A type is reachable only through a slot or a dynamic entry, so what is pointed at is written first.
        let (keys, values): (Vec<_>, Vec<_>) = upload.slots.iter().copied().unzip();
        map::write(&self.slots, "SLOTS", &keys, &values)?;
        let (keys, values): (Vec<_>, Vec<_>) = upload.types.iter().copied().unzip();
        map::write(&self.types, "TYPES", &keys, &values)?;
        let (keys, values): (Vec<_>, Vec<_>) = upload.dynamic.iter().copied().unzip();
        map::write(&self.dynamic, "DYNAMIC", &keys, &values)?;
        // The kernel side forgets what it found in these maps before.
        self.uploads += 1;
        map::write(&self.upload_counter, "UPLOADS", &[0], &[self.uploads])
    }

    /// Adds keys of maps whose values are followed although they are those of a guarded map (`Slot::guard`). Longer keys
    /// than the kernel side compares, and keys past its room, are left out: their values are not copied.
    pub fn allow_keys<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>) -> Result<(), ProbeError> {
        let (hashes, lengths): (Vec<u64>, Vec<u32>) = keys
            .into_iter()
            .filter(|key| key.len() <= MAX_ALLOWED_KEY_BYTES)
            .filter_map(|key| Some((key_hash(key.as_bytes()), u32::try_from(key.len()).ok()?)))
            .take(limits::MAX_ALLOWED_KEYS as usize)
            .unzip();
        map::write(&self.allowed_keys, "ALLOWED_KEYS", &hashes, &lengths)
    }

    /// Makes a tracepoint; it is armed at once if it says so (`TRACEPOINT_ENABLED`). `tgids`: the only processes that
    /// give hits (ids of the initial pid namespace); none: what `Tracepoint::tgid` says.
    pub fn add_tracepoint(&mut self, tracepoint: &Tracepoint, tgids: &[u32]) -> Result<u32, ProbeError> {
        let index = self.registry.tracepoints.allocate()?;
        let entry = TracepointEntry {
            tracepoint: *tracepoint,
            own_tgid: tracepoint.tgid,
            tgids: Vec::new(),
            sites: Vec::new(),
        };
        self.tracepoint_entries.insert(index, entry);
        let written = self.write_state(index).and_then(|()| self.write_processes(index, tgids));
        if let Err(error) = written {
            self.tracepoint_entries.remove(&index);
            self.registry.tracepoints.release(index);
            return Err(error);
        }
        Ok(index)
    }

    /// Replaces the set of processes that give hits; none: all (or what `Tracepoint::tgid` says).
    pub fn set_processes(&mut self, index: u32, tgids: &[u32]) -> Result<(), ProbeError> {
        self.write_processes(index, tgids)
    }

    fn write_processes(&mut self, index: u32, tgids: &[u32]) -> Result<(), ProbeError> {
        let entry = self.tracepoint_entries.get_mut(&index).ok_or_else(|| unknown("tracepoint", index))?;
        let keys: Vec<_> = tgids.iter().map(|&tgid| ProcessKey { tracepoint: index, tgid }).collect();
        map::write(&self.processes, "PROCESSES", &keys, &vec![0u8; keys.len()])?;
        let mut tracepoint = entry.tracepoint;
        tracepoint.flags &= !TRACEPOINT_PROCESS_SET;
        match tgids {
            [] => tracepoint.tgid = entry.own_tgid,
            // The single id is compared without a look into the set.
            &[tgid] => tracepoint.tgid = tgid,
            _ => {
                tracepoint.tgid = 0;
                tracepoint.flags |= TRACEPOINT_PROCESS_SET;
            }
        }
        map::write(&self.tracepoints, "TRACEPOINTS", &[index], &[tracepoint])?;
        entry.tracepoint = tracepoint;
        let gone: Vec<u32> = entry.tgids.iter().copied().filter(|tgid| !tgids.contains(tgid)).collect();
        entry.tgids = tgids.to_vec();
        for tgid in gone {
            // An entry that is not there any more is what was wanted.
            let _ = self.processes.remove(&ProcessKey { tracepoint: index, tgid });
        }
        Ok(())
    }

    /// Lets the tracepoint's sites give hits.
    pub fn enable(&mut self, index: u32) -> Result<(), ProbeError> {
        self.change(index, |tracepoint| tracepoint.flags |= TRACEPOINT_ENABLED)
    }

    /// Stops hits at once: what traps from now on is neither captured nor counted.
    pub fn disable(&mut self, index: u32) -> Result<(), ProbeError> {
        self.change(index, |tracepoint| tracepoint.flags &= !TRACEPOINT_ENABLED)
    }

    /// Changes limits of a live tracepoint. The processes are changed by [`Self::set_processes`].
    pub fn change(&mut self, index: u32, change: impl FnOnce(&mut Tracepoint)) -> Result<(), ProbeError> {
        let entry = self.tracepoint_entries.get_mut(&index).ok_or_else(|| unknown("tracepoint", index))?;
        let mut tracepoint = entry.tracepoint;
        change(&mut tracepoint);
        map::write(&self.tracepoints, "TRACEPOINTS", &[index], &[tracepoint])?;
        entry.tracepoint = tracepoint;
        Ok(())
    }

    /// Sets traps in `file` at file offsets, all or none. Each place may be armed several times.
    pub fn attach(
        &mut self,
        file: &Path,
        points: &[(u64, SiteHandle)],
        scope: Scope,
    ) -> Result<AttachmentId, ProbeError> {
        // Where the kernel's own filter would miss threads, every process traps and the kernel side filters.
        let scope = if self.multi && !self.multi_process_scope { Scope::AllProcesses } else { scope };
        let attachment = attach::attach(&mut self.ebpf, self.program, file, points, scope)?;
        let id = AttachmentId(self.next_attachment);
        self.next_attachment += 1;
        self.attachments.insert(id, attachment);
        Ok(id)
    }

    /// Removes traps. No hit of them is running any more when this returns.
    pub fn detach(&mut self, id: AttachmentId) -> Result<(), ProbeError> {
        let attachment =
            self.attachments.remove(&id).ok_or(ProbeError::Unknown { what: "attachment", index: id.0 })?;
        attach::detach(&mut self.ebpf, attachment)
    }

    /// Forgets a tracepoint and its sites. Read its counters and detach its sites first.
    pub fn remove_tracepoint(&mut self, index: u32) -> Result<(), ProbeError> {
        self.disable(index)?;
        let sites = self.tracepoint_entries.get(&index).map(|entry| entry.sites.clone()).unwrap_or_default();
        self.remove_sites(&sites)?;
        self.write_processes(index, &[])?;
        map::write(&self.tracepoints, "TRACEPOINTS", &[index], &[Tracepoint::default()])?;
        self.write_name(index, Name::NONE)?;
        self.tracepoint_entries.remove(&index);
        self.registry.tracepoints.release(index);
        Ok(())
    }

    /// Slots of the call stacks that were sent (`abi::stack`).
    pub fn sent_stack_slots(&self) -> u32 {
        self.sent_stack_slots
    }

    /// Has the kernel side send the frames of a call stack again.
    pub fn forget_stack(&mut self, hash: u64) -> Result<(), ProbeError> {
        let slot = stack::slot(hash, self.sent_stack_slots);
        map::write(&self.sent_stacks, "SENT_STACKS", &[slot], &[0])
    }

    /// The records. There is one reader.
    pub fn ring(&mut self) -> Result<RingReader, ProbeError> {
        let map = self.ebpf.take_map("RECORDS").ok_or(ProbeError::RingTaken)?;
        let ring = RingBuf::try_from(map).map_err(|error| bad_map("RECORDS", &error))?;
        Ok(RingReader::new(ring))
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, ProbeError> {
    ebpf.take_map(name).ok_or_else(|| ProbeError::BadObject { reason: format!("it has no map {name}") })
}

fn array<V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Array<MapData, V>, ProbeError> {
    take(ebpf, name)?.try_into().map_err(|error| bad_map(name, &error))
}

fn bad_map(name: &'static str, error: &MapError) -> ProbeError {
    ProbeError::BadObject { reason: format!("map {name}: {error}") }
}

fn map_error(operation: &'static str, map: &'static str, error: &MapError) -> ProbeError {
    let source = match error {
        MapError::SyscallError(error) => {
            std::io::Error::new(error.io_error.kind(), error.io_error.to_string())
        }
        other => std::io::Error::other(other.to_string()),
    };
    ProbeError::Map { operation, map, source }
}

fn unknown(what: &'static str, index: u32) -> ProbeError {
    ProbeError::Unknown { what, index: index.into() }
}
