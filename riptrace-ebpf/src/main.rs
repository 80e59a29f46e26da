//! RipTrace's kernel side: entry points only.
//!
//! Programs from one body: `uprobe.multi` for links with many places (Linux 6.6), `uprobe` for links with one, each with
//! and without what conditions and returns need.
//! Data comes from the trapped thread's registers and memory and from the maps that the agent fills; it goes to the
//! ring buffer.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod calls;
#[cfg(target_arch = "bpf")]
mod chunk;
#[cfg(target_arch = "bpf")]
mod condition;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod fetch;
#[cfg(target_arch = "bpf")]
mod find;
#[cfg(target_arch = "bpf")]
mod gate;
#[cfg(target_arch = "bpf")]
mod goroutine;
#[cfg(target_arch = "bpf")]
mod hit;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod raw;
#[cfg(target_arch = "bpf")]
mod redact;
#[cfg(target_arch = "bpf")]
mod regs;
#[cfg(target_arch = "bpf")]
mod root;
#[cfg(target_arch = "bpf")]
mod scratch;
#[cfg(target_arch = "bpf")]
mod stack;
#[cfg(target_arch = "bpf")]
mod table;
#[cfg(target_arch = "bpf")]
mod walk;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{macros::uprobe, programs::ProbeContext};

    /// One program a set of features and kind of link; the agent loads the one that it needs.
    macro_rules! programs {
        ($($single:ident, $multi:ident: $conditions:literal, $calls:literal;)*) => {$(
            #[uprobe]
            fn $single(context: ProbeContext) -> u32 {
                crate::hit::run::<$conditions, $calls>(context.regs);
                0
            }

            #[uprobe(multi)]
            fn $multi(context: ProbeContext) -> u32 {
                crate::hit::run::<$conditions, $calls>(context.regs);
                0
            }
        )*};
    }

    programs! {
        riptrace_single, riptrace_multi: false, false;
        riptrace_single_conditions, riptrace_multi_conditions: true, false;
        riptrace_single_calls, riptrace_multi_calls: false, true;
        riptrace_single_all, riptrace_multi_all: true, true;
    }

    /// The helpers that read memory need a licence that the GPL is compatible with.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
