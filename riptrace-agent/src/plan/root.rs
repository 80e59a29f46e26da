//! The root chunk of a site: which runs of stack, and which addresses, are copied behind the register file.
//!
//! `captures` asks for stretches of stack and for words; [`RootRequest::layout`] merges neighbours into few windows,
//! because the number of reads decides what a hit costs, not their bytes.

use std::ops::Range;

use riptrace_common::abi::{
    limits::{MAX_ROOT_BYTES, MAX_WINDOWS_PER_SITE},
    program::{REGISTER_BYTES, WINDOW_IMAGE_ADDRESS, WINDOW_STACK, WINDOW_STACK_ADDRESS, Window, register},
};

/// All stack stretches become one window when they lie within this many bytes.
const ONE_WINDOW_BYTES: i64 = 2048;
/// Otherwise neighbours are merged when no more than this lies between them.
const MERGE_GAP_BYTES: i64 = 256;
/// Stretches further from SP than this are no stack of one function.
const MAX_STACK_OFFSET: i64 = 1 << 31;

/// What a site wants in its root chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootRequest {
    /// Bytes from SP, 8-aligned unless nothing else may be copied.
    stack: Vec<Range<i64>>,
    words: Vec<WordSource>,
    /// Nothing but what was asked for may be copied.
    exact: bool,
}

/// An address that is written into the root chunk so that it can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordSource {
    /// A link-time address.
    Image(u64),
    /// SP plus this.
    Stack(i64),
}

impl RootRequest {
    /// Nothing but what is asked for is copied: no neighbours, no bytes in between.
    pub(crate) fn exactly(exact: bool) -> Self {
        Self { exact, ..Self::default() }
    }

    /// See [`Self::exactly`].
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Asks for `bytes` from SP + `offset` on. `None`: that is no place on a stack.
    pub(crate) fn want_stack(&mut self, offset: i64, bytes: u32) -> Option<()> {
        if bytes == 0 {
            return Some(());
        }
        let end = offset.checked_add(i64::from(bytes))?;
        if offset.abs() > MAX_STACK_OFFSET || end > MAX_STACK_OFFSET {
            return None;
        }
        self.stack.push(if self.exact { offset..end } else { offset & !7..(end + 7) & !7 });
        Some(())
    }

    /// Asks for an address.
    pub(crate) fn want_word(&mut self, word: WordSource) {
        if !self.words.contains(&word) {
            self.words.push(word);
        }
    }

    /// Places everything. `None`: it does not fit into `available` bytes or into the windows that a site may have.
    pub(crate) fn layout(&self, available: u32) -> Option<RootLayout> {
        let mut stretches = self.merged();
        let mut root_offset = REGISTER_BYTES;
        let mut windows = Vec::new();
        let mut place = |offset: i64, base: u32, bytes: u32| {
            windows.push(Window { offset, base, root_offset, bytes, reserved: 0 });
            root_offset = root_offset.checked_add(bytes.checked_next_multiple_of(8)?)?;
            Some(())
        };
        for stretch in stretches.drain(..) {
            place(stretch.start, WINDOW_STACK, u32::try_from(stretch.end - stretch.start).ok()?)?;
        }
        for word in &self.words {
            match *word {
                WordSource::Image(address) => place(address.cast_signed(), WINDOW_IMAGE_ADDRESS, 8)?,
                WordSource::Stack(offset) => place(offset, WINDOW_STACK_ADDRESS, 8)?,
            }
        }
        let fits =
            root_offset <= available.min(MAX_ROOT_BYTES) && windows.len() <= MAX_WINDOWS_PER_SITE as usize;
        (fits || windows.is_empty()).then_some(RootLayout { windows, root_bytes: root_offset })
    }

    fn merged(&self) -> Vec<Range<i64>> {
        let mut sorted = self.stack.clone();
        sorted.sort_unstable_by_key(|stretch| (stretch.start, stretch.end));
        let first = sorted.first().map_or(0, |stretch| stretch.start);
        let last = sorted.iter().map(|stretch| stretch.end).max().unwrap_or(0);
        let gap = if self.exact {
            0
        } else if last - first <= ONE_WINDOW_BYTES {
            ONE_WINDOW_BYTES
        } else {
            MERGE_GAP_BYTES
        };
        let mut merged: Vec<Range<i64>> = Vec::new();
        for stretch in sorted {
            match merged.last_mut() {
                Some(before) if stretch.start - before.end <= gap => before.end = before.end.max(stretch.end),
                _ => merged.push(stretch),
            }
        }
        merged
    }
}

/// Where everything is in the root chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootLayout {
    /// The windows, by root offset, each from a multiple of 8 on.
    pub(crate) windows: Vec<Window>,
    /// Bytes of the root chunk.
    pub(crate) root_bytes: u32,
}

impl RootLayout {
    /// Root offset, and index of the window, of bytes at SP + `offset` that were asked for.
    pub(crate) fn stack(&self, offset: i64, bytes: u32) -> Option<(u32, u32)> {
        self.windows.iter().zip(0..).find_map(|(window, index)| {
            let within = u32::try_from(offset.checked_sub(window.offset)?).ok()?;
            let inside = window.base == WINDOW_STACK && within.checked_add(bytes)? <= window.bytes;
            inside.then_some((window.root_offset + within, index))
        })
    }

    /// Root offset, and index of the window, of an address that was asked for.
    pub(crate) fn word(&self, word: WordSource) -> Option<(u32, u32)> {
        let (base, offset) = match word {
            WordSource::Image(address) => (WINDOW_IMAGE_ADDRESS, address.cast_signed()),
            WordSource::Stack(offset) => (WINDOW_STACK_ADDRESS, offset),
        };
        self.windows
            .iter()
            .zip(0..)
            .find(|(window, _)| window.base == base && window.offset == offset)
            .map(|(window, index)| (window.root_offset, index))
    }
}

/// Root offset and name of a general register, by its DWARF number (System V ABI for x86-64, figure 3.36).
pub(crate) fn general_register(number: u16) -> Option<(u32, &'static str)> {
    Some(match number {
        0 => (register::RAX, "rax"),
        1 => (register::RDX, "rdx"),
        2 => (register::RCX, "rcx"),
        3 => (register::RBX, "rbx"),
        4 => (register::RSI, "rsi"),
        5 => (register::RDI, "rdi"),
        6 => (register::RBP, "rbp"),
        7 => (register::RSP, "rsp"),
        8 => (register::R8, "r8"),
        9 => (register::R9, "r9"),
        10 => (register::R10, "r10"),
        11 => (register::R11, "r11"),
        12 => (register::R12, "r12"),
        13 => (register::R13, "r13"),
        14 => (register::R14, "r14"),
        15 => (register::R15, "r15"),
        _ => return None,
    })
}
