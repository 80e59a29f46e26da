//! The contract between `riptrace-ebpf` and `riptrace-agent`.
//!
//! * [`program`]: what the agent writes into maps, for the kernel side to read: sites, windows, types, slots.
//! * [`condition`]: what a hit must fulfil before it is captured.
//! * [`record`]: what the kernel side writes into the ring buffer, for the agent to read.
//! * [`context`]: how the span that a hit belongs to is found.
//! * [`stack`]: how call stacks are sent once.
//! * [`names`]: which tracepoint counters are of.
//! * [`watch`]: which processes began and ended.
//! * [`limits`]: every bound that both must agree on.
//!
//! All types are `repr(C)`, fixed-size integers, free of padding, and their sizes are asserted at compile time. The
//! agent refuses to run with a kernel object whose [`ABI_VERSION`] differs.

pub mod condition;
pub mod context;
pub mod limits;
pub mod names;
pub mod program;
pub mod record;
pub mod stack;
pub mod watch;

/// Version of everything in this module. Any change to a layout or to the meaning of a field increases it.
pub const ABI_VERSION: u32 = 5;

/// Marks the types of this module as safe to copy to and from BPF maps.
macro_rules! pod {
    ($($name:ident = $size:literal),* $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
        // SAFETY: `repr(C)`, integers and arrays of integers only, no padding (the size is asserted to be the sum of
        // the fields by the literal beside the name), so every bit pattern is valid and no byte is uninitialised.
        #[cfg(feature = "aya")]
        unsafe impl aya::Pod for $name {}
    )*};
}
pub(crate) use pod;
