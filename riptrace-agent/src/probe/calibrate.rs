//! What a trap costs on this machine. It depends on the processor, on the kernel and, for instructions that are
//! single-stepped, on the hypervisor: 0.3 to 25 µs have been seen. So it is measured, on this process itself.

use std::{fs, hint::black_box, path::Path, time::Instant};

use super::{Kernel, ProbeError, Scope, SiteHandle};

/// Nanoseconds from the trapped instruction to the next one, when the kernel side does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrapCost {
    /// At an instruction that the kernel emulates.
    pub emulated_ns: u64,
    /// At an instruction that it single-steps.
    pub stepped_ns: u64,
}

impl TrapCost {
    /// For machines on which it can't be measured: the upper end of what a virtual machine showed, so that a budget
    /// errs towards the target.
    pub const ASSUMED: Self = Self { emulated_ns: 800, stepped_ns: 25_000 };
}

/// Calls between two looks at the clock.
const CALLS: u32 = 25;
/// The least of so many rounds counts: other load only ever adds.
const ROUNDS: u32 = 8;
/// A use of the first entry of `SITES` that never comes to be, so that the kernel side leaves it at that.
const NO_SITE: SiteHandle = SiteHandle { index: 0, generation: u32::MAX };

/// Begins with an instruction that the kernel emulates.
// Sound: two balanced instructions that touch nothing else.
#[unsafe(naked)]
extern "C" fn emulated() {
    core::arch::naked_asm!("push rbp", "pop rbp", "ret");
}

/// Begins with one that it single-steps.
// Sound: one instruction, on a register that no caller expects to keep.
#[unsafe(naked)]
extern "C" fn stepped() {
    core::arch::naked_asm!("lea rax, [rdi + 1]", "ret");
}

impl Kernel {
    /// Measures a trap of each kind. Takes some milliseconds, and one link that stays until the kernel side is unloaded
    /// (nothing else ever runs into it).
    pub fn measure_trap_cost(&mut self) -> Result<TrapCost, ProbeError> {
        let offsets = [emulated as *const () as u64, stepped as *const () as u64].map(file_offset);
        let [Some(emulated_at), Some(stepped_at)] = offsets else {
            return Err(ProbeError::Refused {
                release: super::features::kernel_release(),
                what: String::from("measuring a trap"),
                reason: String::from("/proc/self/maps does not name this program"),
            });
        };
        let points = [(emulated_at, NO_SITE), (stepped_at, NO_SITE)];
        self.attach(Path::new("/proc/self/exe"), &points, Scope::Process(std::process::id()))?;
        Ok(TrapCost { emulated_ns: nanoseconds_of(emulated), stepped_ns: nanoseconds_of(stepped) })
    }
}

fn nanoseconds_of(function: extern "C" fn()) -> u64 {
    let rounds = (0..ROUNDS).map(|_round| {
        let begin = Instant::now();
        for _call in 0..CALLS {
            black_box(function)();
        }
        begin.elapsed().as_nanos() / u128::from(CALLS)
    });
    rounds.min().and_then(|nanoseconds| u64::try_from(nanoseconds).ok()).unwrap_or(0)
}

/// Where the code at an address of this process lies in its file.
fn file_offset(address: u64) -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| offset_in(line, address))
}

/// The same in one line of `maps`: `begin-end permissions offset device inode path`.
fn offset_in(line: &str, address: u64) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let [begin, end, offset] =
        [begin, end, words.nth(1)?].map(|number| u64::from_str_radix(number, 16).unwrap_or(u64::MAX));
    (begin..end).contains(&address).then(|| address - begin + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_says_where_an_address_lies_in_the_file() {
        let line = "55d0c0a01000-55d0c0b00000 r-xp 00021000 fe:01 1234   /usr/bin/riptrace (deleted)";
        assert_eq!(offset_in(line, 0x55d0_c0a0_1010), Some(0x21010));
        assert_eq!(offset_in(line, 0x55d0_c0b0_0000), None);
        assert_eq!(offset_in("nonsense", 1), None);
    }
}
