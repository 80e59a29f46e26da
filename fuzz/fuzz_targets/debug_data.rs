//! See `riptrace_agent::fuzzing::debug_data`. Mutates one section at a time, so that the others stay where they are.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use riptrace_agent::fuzzing::{SECTIONS, debug_data, split};

fuzz_target!(|data: &[u8]| debug_data(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let input = data[..size].to_vec();
    let (head, sections) = split(&input);
    let mut head = head.to_vec();
    head.resize(5, 0);
    let mut sections = sections.map(<[u8]>::to_vec);
    let filled: Vec<usize> = (0..SECTIONS).filter(|at| !sections[*at].is_empty()).collect();
    // Most of what is there to find is in the entries.
    let chosen = match seed % 16 {
        0 => None,
        1..=5 => Some(0),
        other => filled.get(other as usize % filled.len().max(1)).copied(),
    };
    let before: usize = sections.iter().map(Vec::len).sum();
    match chosen {
        None => drop(fuzzer_mutate(&mut head, 5, 5)),
        Some(at) => {
            let section = &mut sections[at];
            let old = section.len();
            let room = max_size.saturating_sub(5 + 4 * (SECTIONS - 1) + before);
            section.resize(old + room.min(64), 0);
            let limit = section.len();
            let new = fuzzer_mutate(section, old, limit);
            section.truncate(new);
        }
    }
    let mut out = head;
    for section in &sections[..SECTIONS - 1] {
        out.extend((section.len() as u32).to_le_bytes());
    }
    out.extend(sections.concat());
    let length = out.len().min(max_size);
    data[..length].copy_from_slice(&out[..length]);
    length
});
