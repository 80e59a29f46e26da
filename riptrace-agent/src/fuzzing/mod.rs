//! What the fuzzer runs: one function a target, which takes arbitrary bytes and asks the pure modules, and the reading of
//! ELF files, for everything that they can be asked.
//!
//! `fuzz/` calls these under libFuzzer; an ordinary test replays its corpus through them. They check nothing but that
//! there is an answer: a panic, unbounded time and unbounded memory are the findings.

mod debug_data;
mod expression;
mod plan;
mod policy;
mod program;
mod records;
#[cfg(test)]
mod tests;

pub use self::{
    debug_data::{SECTIONS, debug_data, split},
    expression::expression,
    plan::{capture_path, code, location},
    policy::policy,
    program::{build_info, elf, line_table},
    records::record,
};

/// A target's name (also of its folder in `fuzz/corpus`), and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("elf", elf),
    ("line_table", line_table),
    ("build_info", build_info),
    ("debug_data", debug_data),
    ("location", location),
    ("capture_path", capture_path),
    ("expression", expression),
    ("policy", policy),
    ("code", code),
    ("record", record),
];

/// Numbers and byte strings from the front of an input; zeros behind its end.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn number<const BYTES: usize>(&mut self) -> u64 {
        self.bytes(BYTES).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn u8(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    fn u16(&mut self) -> u16 {
        self.number::<2>() as u16
    }

    fn u32(&mut self) -> u32 {
        self.number::<4>() as u32
    }

    fn u64(&mut self) -> u64 {
        self.number::<8>()
    }
}
