//! From a location and its variables to what the kernel side executes, and what decoding needs to read the result.
//!
//! A [`SitePlan`] is made for every armed address. It is complete before the first hit: every offset, size and bound
//! is in it (invariant 4).

pub mod captures;
mod code;
pub mod condition;
pub mod copies;
pub mod cost;
pub mod dictionary;
mod encode;
mod entries;
pub mod fast;
mod inlined;
mod lines;
mod location;
pub mod path;
mod place;
pub mod referenced;
pub mod returns;
mod root;
pub mod sites;
pub mod stripped;
pub(crate) mod table;
pub mod trace_context;
pub mod types;

pub(crate) use self::{place::place_text, root::general_register};

use std::sync::Arc;

use riptrace_common::{
    abi::{
        context::ContextPlan,
        program::{Slot, Window},
    },
    wire::{
        event::{Location, Role, SiteInfo, Trigger},
        value::Unavailable,
    },
};

use crate::{dwarf::DictIndex, golang::types::TypeId};

/// Everything about one armed address.
#[derive(Clone, Debug)]
pub struct SitePlan {
    /// Link-time address of the armed instruction.
    pub link_address: u64,
    /// Its offset in the executable file.
    pub file_offset: u64,
    /// What it stands for.
    pub location: Location,
    /// Link-time address of the instruction where the location begins: the armed one runs exactly when it runs.
    pub entry_address: u64,
    /// What was chosen from.
    pub candidates: Vec<fast::Candidate>,
    /// Why it gives a hit.
    pub trigger: Trigger,
    /// Its part in the calls of a function.
    pub call: CallRole,
    /// It is captured only if the call's entry was, which decided for both.
    pub needs_entry: bool,
    /// Link-time address of an instruction that may fault before control comes to the location's armed one: this site is
    /// where the runtime goes on if it does, and takes over then. No site of its own to whoever asked for the location.
    pub fault_address: Option<u64>,
    /// The armed instruction is a branch of which one way leads to the location.
    pub branch: Option<fast::Branch>,
    /// CFA minus SP there.
    pub cfa_from_sp: Option<i32>,
    /// What is copied into the root chunk.
    pub windows: Vec<Window>,
    /// Bytes of the root chunk.
    pub root_bytes: u32,
    /// What is followed from the root chunk. `Slot::target` is already an index of the kernel's map of types.
    pub root_slots: Vec<Slot>,
    /// The variables, in the order in which they are shown.
    pub variables: Vec<PlannedVariable>,
    /// In an instantiated generic function: where its dictionary's address is, and whose real types it tells.
    pub dictionary: Option<DictionaryPlan>,
    /// Words of the register file that the record does not get: `Site::cleared_registers`.
    pub cleared_registers: u16,
    /// A rule forbids to copy some values, so that none is copied whose type no plan names.
    pub redacts: bool,
    /// Where the contexts are that may hold the hit's span.
    pub contexts: Option<ContextPlan>,
    /// What a hit must fulfil before it is captured.
    pub condition: Option<condition::Condition>,
    /// What is computed of the variables; `None`: they are shown as they are.
    pub outputs: Option<Arc<crate::expr::Outputs>>,
    /// What is reported when it is armed.
    pub info: SiteInfo,
}

impl SitePlan {
    /// How far above the faulting instruction the site is, where it takes over from one.
    #[must_use]
    pub fn above_fault(&self) -> Option<i32> {
        i32::try_from(self.link_address.wrapping_sub(self.fault_address?).cast_signed()).ok()
    }

    /// The kernel single-steps the instruction.
    #[must_use]
    pub fn is_stepped(&self) -> bool {
        !self.is_internal() && !self.info.fast
    }

    /// It traps without a hit where its branch leads elsewhere, and nobody knows how often.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.branch.is_some_and(|branch| !branch.other_way_ends)
    }

    /// A place in the runtime that is armed for the sake of other sites.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.call.is_internal() || self.fault_address.is_some()
    }
}

/// What a site has to do with the calls of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallRole {
    /// Nothing.
    #[default]
    None,
    /// A call begins.
    Entry,
    /// It returns; its results are in place.
    Return,
    /// It goes over into another function, which returns in its stead.
    TailJump,
    /// In the runtime: a recovered panic leaves the frames that it passed through.
    Recovery,
    /// In the runtime: a goroutine ends itself.
    Goexit,
}

impl CallRole {
    /// A place in the runtime that is armed for the calls' sake and gives no hits of its own.
    #[must_use]
    pub fn is_internal(self) -> bool {
        matches!(self, Self::Recovery | Self::Goexit)
    }
}

/// A variable of a site, and where its bytes are in a record.
#[derive(Clone, Debug)]
pub struct PlannedVariable {
    /// Name, or the text of the expression.
    pub name: Arc<str>,
    /// What it is.
    pub role: Role,
    /// Its type.
    pub ty: TypeId,
    /// Where its bytes are.
    pub source: ValueSource,
}

/// Where a variable's bytes are in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// In the root chunk, piece by piece; the pieces cover the value without gaps.
    Root(Vec<RootPiece>),
    /// In the chunk that begins `offset` bytes before it: the 8-byte word at this root offset is the chunk's address.
    /// The chunk's type index is `chunk_type`.
    Through {
        /// Root offset of the word that points at the chunk.
        word: u32,
        /// Index of the chunk's type in the kernel's map.
        chunk_type: u32,
        /// Bytes from the start of the chunk to the value.
        offset: u64,
        /// What lies at `offset` is the address of the value's own chunk (type index), not the value.
        by_reference: Option<u32>,
    },
    /// Behind several pointers (an expression like `o.Items[0].Price`): `word` is the address of the first hop's chunk;
    /// the word at a hop's offset is the address of the next one's; the value lies at the last one's offset.
    Chain {
        /// Root offset of the first pointer.
        word: u32,
        /// The chunks on the way, at least one.
        hops: Vec<Hop>,
    },
    /// Nowhere.
    Unavailable(Unavailable),
}

/// A chunk on the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the chunk's type in the kernel's map. The chunk has one element.
    pub chunk_type: u32,
    /// Bytes from its start to the next pointer, or to the value.
    pub offset: u64,
    /// The chunk is a slice's first elements; without this the element may not be there.
    pub bound: Option<IndexBound>,
}

/// An element exists if `index` is less than the slice's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexBound {
    /// The element that the expression takes.
    pub index: u64,
    /// Where the 8-byte length is: a root offset for the first hop, else bytes from the start of the chunk before.
    pub length: u64,
}

/// How the real types of variables of an instantiated generic function are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DictionaryPlan {
    /// Root offset of the dictionary's run-time address. Dictionaries are read-only data of the binary.
    pub word: u32,
    /// Index into [`SitePlan::variables`], and where the dictionary names the variable's real type.
    pub variables: Vec<(usize, DictIndex)>,
}

/// A run of a value's bytes in the root chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootPiece {
    /// Bytes from the start of the value.
    pub value_offset: u32,
    /// How many bytes.
    pub bytes: u32,
    /// Where.
    pub place: RootPlace,
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootPlace {
    /// At this root offset. `window`: which of the site's windows holds it (None: the register file).
    At {
        /// Root offset.
        root_offset: u32,
        /// Index of the window, for `Header::window_faults`.
        window: Option<u32>,
    },
    /// The low bytes of this constant.
    Constant(u64),
    /// Nowhere, and why.
    Unavailable(Unavailable),
}

/// Limits of a capture (`--depth`, `--max-string`, `--max-items`, `--max-bytes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureLimits {
    /// Levels of pointers.
    pub max_depth: u32,
    /// Bytes of a string.
    pub max_string: u32,
    /// Elements of anything that has elements.
    pub max_items: u32,
    /// Bytes of a record.
    pub max_bytes: u32,
}

impl CaptureLimits {
    /// Most levels of pointers that can be asked for.
    pub const MAX_DEPTH: u32 = 64;
    /// Most elements that can be asked for.
    pub const MAX_ITEMS: u32 = 65_536;
    /// Fewest bytes of a record that can be asked for.
    pub const MIN_BYTES: u32 = 1024;
}

impl Default for CaptureLimits {
    fn default() -> Self {
        Self { max_depth: 4, max_string: 256, max_items: 64, max_bytes: 65_536 }
    }
}
