//! How large a hit may become as JSON: counted while values are made, so that decoding itself is bounded.

use riptrace_common::wire::value::Value;

/// A hit's JSON is smaller than this (events: 1 MiB).
pub(super) const MAX_HIT_JSON_BYTES: usize = 1 << 20;
/// Kept for the hit's own fields, its stack, and the labels of what did not fit.
const RESERVED_BYTES: usize = 1 << 17;
/// Nesting of JSON objects and arrays within a value. Common JSON readers stop at 128, the hit itself takes a few.
const MAX_NESTING: u32 = 112;
/// What one value takes beside its texts: its braces, its field names, its numbers.
const VALUE_BYTES: usize = 112;

/// What is left.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    nesting: u32,
    exhausted: bool,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { left: MAX_HIT_JSON_BYTES - RESERVED_BYTES, nesting: 0, exhausted: false }
    }

    /// Takes the room of a value with a type name of that length; false: there is none left.
    pub(super) fn take_value(&mut self, type_name: &str) -> bool {
        self.take(VALUE_BYTES + type_name.len())
    }

    /// Takes room; false: there is none left, and there will be none for anything that follows.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) if !self.exhausted => {
                self.left = left;
                true
            }
            _ => {
                self.exhausted = true;
                false
            }
        }
    }

    /// Bytes of a text that still fit, when each may take six bytes as JSON (`\u0000`).
    pub(super) fn text_bytes(&self) -> usize {
        self.left / 6
    }

    /// What was taken so far.
    pub(super) fn taken(&self) -> usize {
        MAX_HIT_JSON_BYTES - RESERVED_BYTES - self.left
    }

    pub(super) fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// Goes this many levels of JSON deeper; false: that is too deep.
    pub(super) fn enter(&mut self, levels: u32) -> bool {
        if self.nesting + levels > MAX_NESTING {
            return false;
        }
        self.nesting += levels;
        true
    }

    /// Comes back from [`Self::enter`].
    pub(super) fn leave(&mut self, levels: u32) {
        self.nesting = self.nesting.saturating_sub(levels);
    }
}

/// Bytes of a value as JSON.
pub(super) fn json_bytes(value: &impl serde::Serialize) -> usize {
    let mut counter = Counter(0);
    // Counting can't fail; a value that can't be written counts as too large.
    if serde_json::to_writer(&mut counter, value).is_err() {
        return usize::MAX;
    }
    counter.0
}

/// Whether a value still has content, so that dropping it makes a hit smaller.
pub(super) fn has_content(value: &Value) -> bool {
    value.fields.is_some()
        || value.elems.is_some()
        || value.entries.is_some()
        || value.elem.is_some()
        || value.captures.is_some()
        || value.value.is_some()
        || value.base64.is_some()
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
