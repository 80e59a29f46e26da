//! What a hit costs beside a uprobe with an empty program at the same instruction. Measurements, not checks:
//! `cargo xtask bench hit`, or
//! `cargo test --release -p riptrace-agent --test kernel -- --ignored --nocapture --test-threads=1 cost`.

mod bare;
mod hit;
mod load;
mod report;
mod trap;

use riptrace_agent::{
    plan::{SitePlan, types::Upload},
    probe::KernelOptions,
};
use riptrace_common::abi::program::{
    ACTION_INTERFACE, DYNAMIC_FOLLOW, DYNAMIC_ITAB, DYNAMIC_TYPE, Dynamic, DynamicKey, TYPE_FIRST,
    Tracepoint, register,
};

use super::{
    capture::interface,
    session::{Session, TypePlan, pointer, site, slice, string},
    target::Target,
};

/// Few enough that some rounds see no other task, even on a busy machine.
const CALLS: u32 = 4_000;

fn session(options: &KernelOptions, target: &Target, tracepoint: &Tracepoint) -> Option<Session> {
    let node =
        TypePlan { bytes: 32, slots: vec![string(0, 8), pointer(16, TYPE_FIRST + 1)], ..TypePlan::default() };
    let text = TypePlan { bytes: 16, slots: vec![string(0, 8)], ..TypePlan::default() };
    let number = TypePlan { bytes: 8, ..TypePlan::default() };
    let mut session = Session::with(options, target, tracepoint, &[])?;
    session.upload(&[text.clone(), node, number, text]);
    session.kernel.upload(&held(target, session.image)).expect("an upload");
    Some(session)
}

/// The entry of `main.Five`: int, string, slice, pointer to a struct with a string, error.
fn five_locals(target: &Target) -> SitePlan {
    let slots = vec![
        string(register::RBX, register::RCX),
        slice(register::RDI, register::RSI, TYPE_FIRST + 2),
        pointer(register::R9, TYPE_FIRST + 1),
        interface(register::R10, register::R11, ACTION_INTERFACE),
    ];
    site(target, "main.Five", slots)
}

/// The error that `main.Five` is called with, as a plan knows it.
fn held(target: &Target, image: u32) -> Upload {
    let value = Dynamic { target: TYPE_FIRST + 3, how: DYNAMIC_FOLLOW };
    let key = |link_address, kind| DynamicKey { link_address, image, kind };
    let dynamic = vec![
        (key(target.fact("errorString"), DYNAMIC_TYPE), value),
        (key(target.symbol("go:itab.*errors.errorString,error"), DYNAMIC_ITAB), value),
    ];
    Upload { dynamic, ..Upload::default() }
}
