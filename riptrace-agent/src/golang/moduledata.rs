//! The runtime's own index of a program, `runtime.firstmoduledata`: where text, types and inline trees lie. Pure.
//!
//! Its layout is in no table of the binary, so it is known by version (runtime/symtab.go, `type moduledata struct`).

use std::ops::Range;

use crate::golang::version::GoVersion;

/// What `moduledata` says. All are link-time addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleData {
    /// Where it lies itself.
    pub address: u64,
    /// `runtime.text` to `runtime.etext`.
    pub text: Range<u64>,
    /// `types` to `etypes`: where every `abi.Type` lies; offsets of types and names count from its start.
    pub types: Range<u64>,
    /// `go:func.*`, from which function data (inline trees) are counted.
    pub gofunc: u64,
    /// Where the program's itabs are listed.
    pub itabs: Itabs,
}

/// Where a program's itabs (the method tables of interface and concrete type) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Itabs {
    /// An array of pointers at them (`itablinks`, Go ≤ 1.26).
    Links {
        /// Address of the array.
        address: u64,
        /// Its length.
        len: u64,
    },
    /// They lie side by side (`itaboffset`, `itabsize`, Go ≥ 1.27).
    Run {
        /// Address of the first.
        address: u64,
        /// Bytes of them all.
        bytes: u64,
    },
}

/// Byte offsets of the fields that RipTrace reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    types: u64,
    etypes: u64,
    gofunc: u64,
    itabs: ItabFields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItabFields {
    Links { slice: u64 },
    Run { offset: u64, bytes: u64 },
}

/// Offset of `funcnametab`'s pointer; with `pcHeader` at offset 0 it tells a moduledata from a stray pointer.
pub const FUNCNAMETAB_OFFSET: u64 = 8;
/// Offset of `text`, the same in every version since Go 1.18.
pub const TEXT_OFFSET: u64 = 22 * 8;
const ETEXT_OFFSET: u64 = 23 * 8;
/// Bytes from the start that the fields of every layout lie in.
pub const BYTES: u64 = 64 * 8;

impl Layout {
    /// Go 1.18 and 1.19: no coverage counters.
    pub const GO1_18: Self =
        Self { types: 35 * 8, etypes: 36 * 8, gofunc: 38 * 8, itabs: ItabFields::Links { slice: 45 * 8 } };
    /// Go 1.20 to 1.25.
    pub const GO1_20: Self =
        Self { types: 37 * 8, etypes: 38 * 8, gofunc: 40 * 8, itabs: ItabFields::Links { slice: 47 * 8 } };
    /// Go 1.26: `epclntab` behind `gofunc`.
    pub const GO1_26: Self =
        Self { types: 37 * 8, etypes: 38 * 8, gofunc: 40 * 8, itabs: ItabFields::Links { slice: 48 * 8 } };
    /// Go 1.27: `typedesclen` between `types` and `etypes`, itabs side by side.
    pub const GO1_27: Self = Self {
        types: 37 * 8,
        etypes: 39 * 8,
        gofunc: 43 * 8,
        itabs: ItabFields::Run { offset: 40 * 8, bytes: 41 * 8 },
    };

    /// The layout of a release; the newest known one for a newer or unnamed release.
    pub fn of(version: Option<GoVersion>) -> Self {
        match version {
            Some(version) if version < GoVersion::go1(20) => Self::GO1_18,
            Some(version) if version < GoVersion::go1(26) => Self::GO1_20,
            Some(version) if version < GoVersion::go1(27) => Self::GO1_26,
            _ => Self::GO1_27,
        }
    }
}

impl ModuleData {
    /// Reads the moduledata at `address`; `word` gives the 8-byte word at a byte offset from there, as it is after
    /// relocation. `None` when what is there can't be one of this layout.
    pub fn read(address: u64, layout: &Layout, word: impl Fn(u64) -> Option<u64>) -> Option<Self> {
        let text = word(TEXT_OFFSET)?..word(ETEXT_OFFSET)?;
        let types = word(layout.types)?..word(layout.etypes)?;
        let gofunc = word(layout.gofunc)?;
        if text.is_empty() || types.is_empty() || gofunc == 0 {
            return None;
        }
        let itabs = match layout.itabs {
            ItabFields::Links { slice } => {
                let (len, capacity) = (word(slice + 8)?, word(slice + 16)?);
                if len != capacity {
                    return None;
                }
                Itabs::Links { address: word(slice)?, len }
            }
            ItabFields::Run { offset, bytes } => {
                let (offset, bytes) = (word(offset)?, word(bytes)?);
                let address = types.start.checked_add(offset)?;
                if address.checked_add(bytes)? > types.end {
                    return None;
                }
                Itabs::Run { address, bytes }
            }
        };
        Some(Self { address, text, types, gofunc, itabs })
    }
}
