//! What the trap alone costs, by the instruction that it replaces: an empty program at functions of this process.

use std::{fs, hint::black_box, path::Path, time::Instant};

use super::{
    bare,
    report::{Report, rounds},
};

/// Calls between two looks at the clock.
const CALLS: u32 = 500;

// Sound: two balanced instructions that touch nothing else.
#[unsafe(naked)]
extern "C" fn emulated() {
    core::arch::naked_asm!(".balign 64", "push rbp", "pop rbp", "ret");
}

// Sound: one instruction, on a register that no caller expects to keep.
#[unsafe(naked)]
extern "C" fn stepped() {
    core::arch::naked_asm!(".balign 64", "lea rax, [rdi + 1]", "ret");
}

/// Begins with the 5-byte `nop` that Linux 6.18 replaces with a call.
// Sound: it does nothing.
#[unsafe(naked)]
extern "C" fn nop() {
    core::arch::naked_asm!(".balign 64", ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00", "ret");
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_trap() {
    let functions: [(&str, extern "C" fn()); 3] = [
        ("empty program at an emulated instruction (push)", emulated),
        ("empty program at a single-stepped instruction (lea)", stepped),
        ("empty program at a 5-byte nop", nop),
    ];
    let mut report = Report::default();
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..rounds(101) {
        for ((_, function), samples) in functions.iter().zip(&mut samples) {
            let offset = file_offset(*function as *const () as u64);
            let pid = std::process::id();
            let link = match bare::empty(Path::new("/proc/self/exe"), pid, offset) {
                Ok(link) => link,
                Err(error) => return println!("LEFT OUT, NOT MEASURED: {error}"),
            };
            // The kernel makes the nop a call when it is hit for the first time.
            black_box(*function)();
            let begin = Instant::now();
            for _ in 0..CALLS {
                black_box(*function)();
            }
            samples.push(begin.elapsed().as_nanos() as f64 / f64::from(CALLS));
            drop(link);
        }
    }
    let against = functions[0].0;
    for ((name, _), samples) in functions.iter().zip(samples) {
        report.row(name, "ns", (*name != against).then_some(against), samples);
    }
    report.say();
}

/// Where the code at an address of this process lies in its file.
fn file_offset(address: u64) -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").expect("its maps");
    let offset = maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (begin, end) = words.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (begin, end, offset) = (number(begin)?, number(end)?, number(words.nth(1)?)?);
        (begin..end).contains(&address).then_some(address.wrapping_sub(begin) + offset)
    });
    offset.expect("a mapping of its own code")
}
