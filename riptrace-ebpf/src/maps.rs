//! The maps, the values set at load, and the scratch buffers in which records are built.
//!
//! Written by the agent (`riptrace-agent/src/probe`): everything but `STATES`, `COUNTERS`, `COSTS`, `CPU_RECORDS`, `SCRATCH`,
//! `CALLS`, `CALL_STATES`; `SENT_STACKS` is written by both.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use riptrace_common::abi::{
    ABI_VERSION as VERSION,
    condition::{Block, MAX_BLOCKS, MAX_CONDITION_OPS, Op, WORDS},
    context::{ContextPlan, MAX_CONTEXT_PLANS},
    limits,
    names::Name,
    program::{
        CallSet, CallState, Costs, Counters, Dynamic, DynamicKey, Image, ProcessKey, Site, Slot, State,
        Table, Tracepoint, Type, Window,
    },
};

use crate::table::Known;

/// `BPF_F_NO_PREALLOC`: most entries are never used.
const NO_PREALLOC: u32 = 1;

#[map]
pub(crate) static SITES: Array<Site> = Array::with_max_entries(limits::MAX_SITES, 0);
#[map]
pub(crate) static TRACEPOINTS: Array<Tracepoint> = Array::with_max_entries(limits::MAX_TRACEPOINTS, 0);
#[map]
pub(crate) static STATES: Array<State> = Array::with_max_entries(limits::MAX_TRACEPOINTS, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(limits::MAX_TRACEPOINTS, 0);
/// Sized and written by the agent if it pins the counters; nothing here reads it.
#[map]
pub(crate) static NAMES: Array<Name> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static COSTS: PerCpuArray<Costs> = PerCpuArray::with_max_entries(limits::MAX_TRACEPOINTS, 0);
/// By site index.
#[map]
pub(crate) static REDUCED: Array<u32> = Array::with_max_entries(limits::MAX_SITES, 0);
#[map]
pub(crate) static CPU_RECORDS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static WINDOWS: Array<Window> = Array::with_max_entries(limits::MAX_WINDOWS, 0);
#[map]
pub(crate) static TYPES: Array<Type> = Array::with_max_entries(limits::MAX_TYPES, 0);
#[map]
pub(crate) static SLOTS: Array<Slot> = Array::with_max_entries(limits::MAX_SLOTS, 0);
#[map]
pub(crate) static TABLES: Array<Table> = Array::with_max_entries(limits::MAX_TABLES, 0);
#[map]
pub(crate) static CONTEXTS: Array<ContextPlan> = Array::with_max_entries(MAX_CONTEXT_PLANS, 0);
#[map]
pub(crate) static IMAGES: Array<Image> = Array::with_max_entries(limits::MAX_IMAGES, 0);
#[map]
pub(crate) static DYNAMIC: HashMap<DynamicKey, Dynamic> =
    HashMap::with_max_entries(limits::MAX_DYNAMIC_TYPES, NO_PREALLOC);
/// How often types, slots and `DYNAMIC` were written: what was found before may be another one's now.
#[map]
pub(crate) static UPLOADS: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static PROCESSES: HashMap<ProcessKey, u8> =
    HashMap::with_max_entries(limits::MAX_PROCESSES, NO_PREALLOC);
/// Sized by the agent: `CALL_SETS`.
#[map]
pub(crate) static CALLS: Array<CallSet> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static CALL_STATES: Array<CallState> = Array::with_max_entries(limits::MAX_TRACEPOINTS, 0);
/// Hashes of the call stacks that the ring had room for (`abi::stack`); 0: none. Sized by the agent: `SENT_STACK_SLOTS`.
#[map]
pub(crate) static SENT_STACKS: Array<u64> = Array::with_max_entries(1, 0);
/// By `key_hash`; the value is the key's length.
#[map]
pub(crate) static ALLOWED_KEYS: HashMap<u64, u32> =
    HashMap::with_max_entries(limits::MAX_ALLOWED_KEYS, NO_PREALLOC);
#[map]
pub(crate) static CONDITIONS: Array<Op> = Array::with_max_entries(MAX_CONDITION_OPS, 0);
#[map]
pub(crate) static CONSTANTS: Array<Block> = Array::with_max_entries(MAX_BLOCKS, 0);
/// What conditions work on: like `SCRATCH`, and as many.
#[map]
pub(crate) static JUDGEMENTS: Array<Judgement> = Array::with_max_entries(1, 0);
/// Sized by the agent.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);
/// `SCRATCH_PER_CPU` for each CPU, sized by the agent. A plain array, not a per-CPU one: a hit can be preempted by
/// another task's hit on the same CPU, which then takes the next buffer. Buffer k of CPU c is entry `c + k * CPUS`.
#[map]
pub(crate) static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// The agent reads this from the object before it loads it.
#[unsafe(no_mangle)]
pub(crate) static ABI_VERSION: Global<u32> = Global::new(VERSION);
/// CPUs that can ever be present.
#[unsafe(no_mangle)]
pub(crate) static CPUS: Global<u32> = Global::new(1);
/// Scratch buffers of one CPU; at most [`MAX_SCRATCH_PER_CPU`].
#[unsafe(no_mangle)]
pub(crate) static SCRATCH_PER_CPU: Global<u32> = Global::new(1);
/// Entries of `CALLS`; a power of two.
#[unsafe(no_mangle)]
pub(crate) static CALL_SETS: Global<u32> = Global::new(1);
/// Entries of `SENT_STACKS`; a power of two.
#[unsafe(no_mangle)]
pub(crate) static SENT_STACK_SLOTS: Global<u32> = Global::new(1);
/// Offset of `thread.fsbase` in `struct task_struct`, from the kernel's BTF; 0: unknown.
#[unsafe(no_mangle)]
pub(crate) static TASK_FSBASE_OFFSET: Global<u32> = Global::new(0);

pub(crate) const MAX_SCRATCH_PER_CPU: u32 = 8;

/// Where a record is built, and the state of its walk.
///
/// `record` is twice as long as the largest record: an offset masked to 64 KiB plus a length masked to 64 KiB is then
/// in bounds without a comparison that the compiler could move.
#[repr(C)]
pub(crate) struct Scratch {
    /// 1: a hit is using the buffer. Taken by compare-and-exchange.
    pub(crate) busy: u64,
    pub(crate) walk: Walk,
    pub(crate) visited: [Visited; VISITED],
    /// Offsets of the chunks that have something to follow, in the order in which they are scanned.
    pub(crate) queue: [u32; QUEUE],
    pub(crate) torn: [u32; limits::MAX_TORN_CHECKS as usize],
    /// Where the data of what the table's operations copied begins, by `TableOp::from`; 0: nothing was copied.
    pub(crate) places: [u32; PLACES],
    /// What interfaces held.
    pub(crate) known: [Known; KNOWN],
    pub(crate) kept: Kept,
    /// A copy of the target's `g`, of what is compared with a chunk, or of a map's key.
    pub(crate) object: [u8; OBJECT_BYTES],
    /// A piece of the target's stack while its frames are walked.
    pub(crate) stack: [u8; 2 * STACK_BYTES],
    pub(crate) record: [u8; 2 * limits::MAX_RECORD_BYTES as usize],
}

/// The copy of an object with holes: what it was asked for, and where it is.
#[repr(C)]
pub(crate) struct Kept {
    pub(crate) address: u64,
    /// Where in the record the copy begins.
    pub(crate) data: u32,
    pub(crate) bytes: u32,
    pub(crate) element_bytes: u32,
    /// The runs of an element, in `SLOTS`.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// The next read: bytes to the element, and which of its runs.
    pub(crate) element: u32,
    pub(crate) index: u32,
    /// 1: a read failed.
    pub(crate) faulted: u32,
}

/// What a condition works on.
#[repr(C)]
pub(crate) struct Judgement {
    /// 1: a hit is using the buffer. Taken by compare-and-exchange.
    pub(crate) busy: u64,
    pub(crate) words: [u64; WORDS],
    /// Pieces of the two strings that are compared.
    pub(crate) left: Block,
    pub(crate) right: Block,
    /// The strings.
    pub(crate) left_text: Text,
    pub(crate) right_text: Text,
    pub(crate) search: Search,
}

/// Where the search of a map is.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Search {
    /// The key: a string, or in `address` an integer.
    pub(crate) key: Text,
    /// Swiss: the directory, how many of its entries were taken, and all; the table that was taken last.
    pub(crate) directory: u64,
    pub(crate) taken: u64,
    pub(crate) entries: u64,
    pub(crate) table: u64,
    /// Groups or buckets side by side: the first, how many were looked at, and all.
    pub(crate) first: u64,
    pub(crate) at: u64,
    pub(crate) count: u64,
    /// Classic: the bucket behind the last one, the old buckets and how many they are.
    pub(crate) overflow: u64,
    pub(crate) old: u64,
    pub(crate) old_count: u64,
}

/// A string of the target, or a constant.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Text {
    pub(crate) address: u64,
    pub(crate) length: u64,
}

/// Entries of the cache of chunks that were copied.
pub(crate) const VISITED: usize = 512;
/// Chunks with something to follow. The smallest such chunk takes 32 bytes, so a record can't hold more.
pub(crate) const QUEUE: usize = 2048;
/// Entries of the cache of what interfaces held.
pub(crate) const KNOWN: usize = 64;
/// A power of two above `TABLE_OPS`.
pub(crate) const PLACES: usize = 32;
pub(crate) const OBJECT_BYTES: usize = 1024;
pub(crate) const STACK_BYTES: usize = 2048;

const _: () = assert!(QUEUE * 32 >= limits::MAX_RECORD_BYTES as usize);

/// A chunk that was copied in the hit with this number.
#[repr(C)]
pub(crate) struct Visited {
    pub(crate) address: u64,
    /// Elements that were asked for; for `TYPE_ITAB` the type word.
    pub(crate) value: u64,
    pub(crate) type_index: u32,
    pub(crate) hit: u32,
}

/// Where the scan of the chunks is, and what holds for the whole hit. Lives in the scratch buffer because two stack
/// frames of a BPF program share 512 bytes.
#[repr(C)]
pub(crate) struct Walk {
    /// Added to link-time addresses.
    pub(crate) bias: u64,
    /// The trapped thread's stack pointer, frame pointer and program counter, and the frame's CFA (0: unknown).
    pub(crate) sp: u64,
    pub(crate) bp: u64,
    pub(crate) ip: u64,
    pub(crate) cfa: u64,
    /// The dynamic type and data word of an interface whose itab chunk was appended last; 0: none.
    pub(crate) pending_type: u64,
    pub(crate) pending_data: u64,
    pub(crate) pending_depth: u32,
    pub(crate) image: u32,
    /// Uses of this buffer: tells this hit's entries of `visited` from older ones.
    pub(crate) hit: u32,
    /// Bytes of the record so far; a multiple of 8.
    pub(crate) used: u32,
    /// Bytes that chunks may use; what is left is for the stack.
    pub(crate) end: u32,
    /// `record::FLAG_*`.
    pub(crate) flags: u32,
    pub(crate) max_depth: u32,
    pub(crate) max_string: u32,
    pub(crate) max_items: u32,
    /// The limits by `LIMIT_*`, for the table: `max_items`, `max_string`, none.
    pub(crate) limits: [u32; 4],
    pub(crate) queue_read: u32,
    pub(crate) queue_write: u32,
    pub(crate) torn: u32,
    /// The site's windows, and those that faulted (`record::Header::window_faults`).
    pub(crate) first_window: u32,
    pub(crate) windows: u32,
    pub(crate) window_faults: u32,
    pub(crate) root_type: u32,
    pub(crate) root_bytes: u32,
    /// The site's table (`Site::table_plus_one` and what follows it).
    pub(crate) table_plus_one: u32,
    pub(crate) table_ops: u32,
    /// Operations before this one were run.
    pub(crate) next_op: u32,
    pub(crate) first_walked_slot: u32,
    /// `SITE_*` bits of the site.
    pub(crate) site_flags: u32,
    /// Where the root chunk ends.
    pub(crate) root_end: u32,
    /// The context that is looked at next (both words of the interface), and how many of the plan's chains were begun.
    pub(crate) context_type: u64,
    pub(crate) context_data: u64,
    pub(crate) context_plan: u32,
    pub(crate) context_roots: u32,
    /// The chunk that is scanned: where its data begins, how long it is, and its type.
    pub(crate) data: u32,
    pub(crate) bytes: u32,
    pub(crate) depth: u32,
    pub(crate) element_bytes: u32,
    pub(crate) first_slot: u32,
    pub(crate) slots: u32,
    /// The next visit in it. `element` counts bytes; at `bytes` the chunk is done.
    pub(crate) element: u32,
    pub(crate) slot: u32,
    pub(crate) repetition: u32,
    /// Frame pointer of the next stack frame, where the piece of stack in `Scratch::stack` begins and ends.
    pub(crate) frame_pointer: u64,
    pub(crate) stack_begin: u64,
    pub(crate) stack_end: u64,
    /// The stack's upper end; 0: unknown.
    pub(crate) stack_hi: u64,
    pub(crate) frames: u32,
    pub(crate) max_frames: u32,
    /// Of the frames so far (`abi::stack`); after the walk 0 if the stack is not to be marked as sent.
    pub(crate) stack_hash: u64,
}
