//! Where the runtime keeps what the kernel side reads of a goroutine: fields of `runtime.g` and `runtime.m`. Pure.
//!
//! Offsets come from debug data by name; a table per release serves programs without it.

use riptrace_common::abi::program::{IMAGE_HAS_RUNTIME, IMAGE_HAS_TLS, Image, NO_OFFSET};

use crate::golang::version::GoVersion;

/// Byte offsets of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeOffsets {
    /// `g.stack.lo`.
    pub g_stack_lo: u32,
    /// `g.stack.hi`.
    pub g_stack_hi: u32,
    /// `g.m`.
    pub g_m: u32,
    /// `g.goid`.
    pub g_goid: u32,
    /// `g.parentGoid` (Go ≥ 1.21).
    pub g_parent_goid: Option<u32>,
    /// `g.gopc`.
    pub g_gopc: u32,
    /// `m.curg`.
    pub m_curg: u32,
    /// `m.g0`.
    pub m_g0: u32,
}

impl RuntimeOffsets {
    /// Asks for each field: `field("runtime.g", "stack.lo")` gives its offset in bytes from the start of the struct.
    /// `None` if one that every release has is missing.
    pub fn from_fields(field: impl Fn(&str, &str) -> Option<u32>) -> Option<Self> {
        Some(Self {
            g_stack_lo: field("runtime.g", "stack.lo")?,
            g_stack_hi: field("runtime.g", "stack.hi")?,
            g_m: field("runtime.g", "m")?,
            g_goid: field("runtime.g", "goid")?,
            g_parent_goid: field("runtime.g", "parentGoid"),
            g_gopc: field("runtime.g", "gopc")?,
            m_curg: field("runtime.m", "curg")?,
            m_g0: field("runtime.m", "g0")?,
        })
    }

    /// The offsets of a release on x86-64; `None` for one that is not in the table: a guess would name wrong goroutines.
    pub fn of(version: GoVersion) -> Option<Self> {
        TABLE.iter().find(|(release, _)| *release == version).map(|(_, offsets)| *offsets)
    }
}

const fn offsets(g_goid: u32, g_parent_goid: u32, m_curg: u32) -> RuntimeOffsets {
    RuntimeOffsets {
        g_stack_lo: 0,
        g_stack_hi: 8,
        g_m: 48,
        g_goid,
        g_parent_goid: Some(g_parent_goid),
        // One behind the other since Go 1.21.
        g_gopc: g_parent_goid + 8,
        m_curg,
        m_g0: 0,
    }
}

/// Taken from the debug data of a program of each release; a test compares them again.
const TABLE: &[(GoVersion, RuntimeOffsets)] = &[
    (GoVersion::go1(21), offsets(152, 272, 192)),
    (GoVersion::go1(22), offsets(152, 272, 192)),
    (GoVersion::go1(23), offsets(160, 280, 192)),
    (GoVersion::go1(24), offsets(160, 280, 192)),
    (GoVersion::go1(25), offsets(152, 272, 184)),
    (GoVersion::go1(26), offsets(152, 280, 184)),
    (GoVersion::go1(27), offsets(152, 280, 184)),
];

/// The kernel side's view of a program. What is `None` is marked as not valid.
pub fn image(offsets: Option<&RuntimeOffsets>, tls_g_offset: Option<i64>) -> Image {
    let tls = if tls_g_offset.is_some() { IMAGE_HAS_TLS } else { 0 };
    let tls_g_offset = tls_g_offset.unwrap_or_default();
    match offsets {
        Some(offsets) => Image {
            tls_g_offset,
            g_stack_lo: offsets.g_stack_lo,
            g_stack_hi: offsets.g_stack_hi,
            g_m: offsets.g_m,
            g_goid: offsets.g_goid,
            g_parent_goid: offsets.g_parent_goid.unwrap_or(NO_OFFSET),
            g_gopc: offsets.g_gopc,
            m_curg: offsets.m_curg,
            m_g0: offsets.m_g0,
            flags: IMAGE_HAS_RUNTIME | tls,
            reserved: 0,
        },
        None => Image {
            tls_g_offset,
            g_stack_lo: NO_OFFSET,
            g_stack_hi: NO_OFFSET,
            g_m: NO_OFFSET,
            g_goid: NO_OFFSET,
            g_parent_goid: NO_OFFSET,
            g_gopc: NO_OFFSET,
            m_curg: NO_OFFSET,
            m_g0: NO_OFFSET,
            flags: tls,
            reserved: 0,
        },
    }
}
