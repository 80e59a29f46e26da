//! RipTrace's second object: which processes begin another program, and which end. Nothing else is in it.
//!
//! Raw tracepoints, because those need no tracefs, which containers often lack. Data goes to the ring buffer `EVENTS`;
//! what it has no room for is counted in `LOST`.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod entry {
    use core::arch::asm;

    use aya_ebpf::{
        Global,
        helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, generated as helpers},
        macros::{map, raw_tracepoint},
        maps::{PerCpuArray, RingBuf},
        programs::RawTracePointContext,
    };
    use riptrace_common::abi::{
        ABI_VERSION as VERSION,
        watch::{PROCESS_EXEC, PROCESS_EXIT, ProcessRecord},
    };

    /// Sized by the agent.
    #[map]
    static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
    /// Events that there was no room for, by CPU.
    #[map]
    static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

    /// The agent reads this from the object before it loads it.
    #[unsafe(no_mangle)]
    static ABI_VERSION: Global<u32> = Global::new(VERSION);
    /// Offset of `signal` in `struct task_struct`, from the kernel's BTF; 0: unknown.
    #[unsafe(no_mangle)]
    static TASK_SIGNAL_OFFSET: Global<u32> = Global::new(0);
    /// Offset of `live` (the threads that have not ended) in `struct signal_struct`.
    #[unsafe(no_mangle)]
    static SIGNAL_LIVE_OFFSET: Global<u32> = Global::new(0);

    /// `sched_process_exec(struct task_struct *, pid_t, struct linux_binprm *)`. It runs when the thread that executes the
    /// program is the process's only one and has its id.
    #[raw_tracepoint(tracepoint = "sched_process_exec")]
    fn riptrace_exec(_context: RawTracePointContext) -> i32 {
        tell(PROCESS_EXEC);
        0
    }

    /// `sched_process_exit(struct task_struct *, bool group_dead)`: so since Linux 6.16. On older kernels attaching it is
    /// refused.
    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    fn riptrace_exit_group_dead(context: RawTracePointContext) -> i32 {
        let group_dead: u64 = context.arg(1);
        if group_dead as u8 != 0 {
            tell(PROCESS_EXIT);
        }
        0
    }

    /// `sched_process_exit(struct task_struct *)`. The kernel has counted the thread out of `signal->live` by then
    /// (kernel/exit.c, `do_exit`); threads that end at the same time may all see 0 there, which the agent sorts out.
    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    fn riptrace_exit(_context: RawTracePointContext) -> i32 {
        let over = match threads_left() {
            Some(left) => left == 0,
            // The first thread almost always stays until the end.
            None => {
                let pid_tgid = bpf_get_current_pid_tgid();
                pid_tgid as u32 == (pid_tgid >> 32) as u32
            }
        };
        if over {
            tell(PROCESS_EXIT);
        }
        0
    }

    #[inline(always)]
    fn threads_left() -> Option<u32> {
        let offset = TASK_SIGNAL_OFFSET.load();
        if offset == 0 {
            return None;
        }
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task() };
        let mut signal = 0u64;
        let mut live = 0u32;
        // SAFETY: the destinations have the sizes that are named; the helper checks the addresses.
        let read = unsafe {
            helpers::bpf_probe_read_kernel(
                (&raw mut signal).cast(),
                8,
                (task + u64::from(offset)) as *const _,
            ) == 0
                && helpers::bpf_probe_read_kernel(
                    (&raw mut live).cast(),
                    4,
                    (signal + u64::from(SIGNAL_LIVE_OFFSET.load())) as *const _,
                ) == 0
        };
        read.then_some(live)
    }

    /// The reader is woken if it had taken everything: it waits for that, and has no timer.
    #[inline(always)]
    fn tell(kind: u32) {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        // SAFETY: no arguments.
        let ktime_ns = unsafe { helpers::bpf_ktime_get_ns() };
        if EVENTS.output(&ProcessRecord { kind, tgid, ktime_ns }, 0).is_err()
            && let Some(lost) = LOST.get_ptr_mut(0)
        {
            // SAFETY: a valid map value. Atomic, because another task may preempt this one on its CPU.
            unsafe { asm!("lock *(u64 *)({lost} + 0) += {one}", lost = in(reg) lost, one = in(reg) 1u64) };
        }
    }

    /// Reading kernel memory needs a licence that the GPL is compatible with.
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
