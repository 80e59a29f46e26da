//! Loads that may fault on the way to the chosen instruction.

use super::*;

/// Chooses where faults can be caught.
fn choose_catching(
    variables: &[VisibleVariable],
    write: impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError>,
) -> Chosen {
    let mut chosen = choose_in(variables, write);
    chosen.choice = choose(&Question { catches_faults: true, ..question(&chosen.stretch, variables) });
    chosen
}

#[test]
fn a_load_that_may_fault_is_crossed_where_its_fault_is_caught() {
    let chosen = choose_catching(&[at("p", &[RAX]), at("n", &[RBX])], |a, entry| {
        a.set_label(entry)?;
        a.mov(qword_ptr(rsp + 0x20), rbx)?;
        a.xor(ebx, ebx)?;
        a.mov(rcx, qword_ptr(rax + 8))?;
        a.mov(rdx, qword_ptr(rax))?;
        a.mov(rsi, qword_ptr(rdi))?;
        a.mov(rbx, rax)?;
        a.mov(rax, rcx)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert!(chosen.instruction().starts_with("call"));
    assert_eq!(chosen.places(), [RBX]);
    // The second load through the same pointer can't fault any more.
    let faults: Vec<(u64, &[VisibleVariable])> =
        chosen.choice.faults.iter().map(|fault| (fault.link_address - START, &*fault.variables)).collect();
    let then = [at("p", &[RAX]), at("n", &[sp(0x20)])];
    assert_eq!(faults, [(7, &then[..]), (14, &then[..])]);
    assert!(chosen.choice.reason().ends_with("2 loads on the way may fault, which is caught"));
}

#[test]
fn a_fault_is_not_taken_for_a_hit_without_need() {
    // An instruction in front of the load is as good.
    let chosen = choose_catching(&[], |a, entry| {
        a.nop()?;
        a.set_label(entry)?;
        a.mov(rcx, qword_ptr(rax))?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert_eq!(chosen.instruction(), "nop");
    assert!(chosen.choice.faults.is_empty());
    // What is wanted has to be there at the fault as well, not only behind it.
    let chosen = choose_catching(&[at("x", &[XMM0]), at("y", &[RBX])], |a, entry| {
        a.set_label(entry)?;
        a.movq(xmm1, rbx)?;
        a.xor(ebx, ebx)?;
        a.mov(rcx, qword_ptr(rax))?;
        a.movq(rbx, xmm1)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert_eq!(*chosen.verdict("call"), Verdict::Lacks("y".into()));
    // A store to memory that faults has not happened, but where it does not it has.
    let chosen = choose_catching(&[], |a, entry| {
        a.set_label(entry)?;
        a.add(qword_ptr(rax), 1)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert_eq!(chosen.stretch.barriers.1, Barrier::Store);
}

#[test]
fn the_loads_that_are_crossed_have_a_limit() {
    let chosen = choose_catching(&[], |a, entry| {
        a.set_label(entry)?;
        for pointer in [rax, rbx, rcx, rsi, rdi, r8] {
            a.mov(rdx, qword_ptr(pointer))?;
        }
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert_eq!(chosen.stretch.barriers.1, Barrier::Fault);
    assert_eq!(chosen.choice.index, chosen.stretch.entry);
    assert!(chosen.choice.faults.is_empty());
}
