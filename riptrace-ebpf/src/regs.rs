//! The trapped thread's registers (x86-64).

use aya_ebpf::bindings::pt_regs;
use riptrace_common::abi::program::{CLEARABLE_REGISTERS, REGISTER_BYTES, register};

use crate::raw;

/// What the kernel side itself needs of them.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    /// The probed address itself.
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) bp: u64,
    /// `g` inside Go's calling convention.
    pub(crate) r14: u64,
}

#[inline(always)]
pub(crate) fn read(context: *const pt_regs) -> Registers {
    let word = |offset: u32| {
        // SAFETY: the context has all registers. Volatile, since the verifier wants constant offsets from the context,
        // which merged or moved loads would not have.
        unsafe { context.cast::<u64>().add(offset as usize / 8).read_volatile() }
    };
    Registers {
        ip: word(register::RIP),
        sp: word(register::RSP),
        bp: word(register::RBP),
        r14: word(register::R14),
    }
}

/// The processor's flags in front of the probed instruction.
#[inline(always)]
pub(crate) fn flags(context: *const pt_regs) -> u64 {
    // SAFETY: as for `read`.
    unsafe { context.cast::<u64>().add(register::FLAGS as usize / 8).read_volatile() }
}

/// Writes the register file; what is to be cleared of it (`Site::cleared_registers`) as zeros.
///
/// # Safety
/// `to` has room for `REGISTER_BYTES` and is aligned to 8.
#[inline(always)]
pub(crate) unsafe fn copy(context: *const pt_regs, to: *mut u8, cleared: u16) {
    let kept = !u64::from(cleared);
    macro_rules! words {
        ($($index:literal)*; $see:expr) => {$(
            const _: () = assert!($index * 8 < REGISTER_BYTES);
            // SAFETY: as for `read`, and the caller's.
            unsafe {
                let word = context.cast::<u64>().add($index).read_volatile();
                to.cast::<u64>().add($index).write_volatile($see(word, $index));
            }
        )*};
    }
    words!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14; |word, bit| raw::where_bit(word, kept << (63 - bit)));
    words!(15 16 17 18 19 20; |word, _| word);
}

const _: () = assert!(CLEARABLE_REGISTERS == (1 << 15) - 1);
