//! Branches that lead to the entry.

use super::*;

/// Chooses where branches may be armed whose other way may be any code.
pub(super) fn choose_at_branches(
    variables: &[VisibleVariable],
    write: impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError>,
) -> Chosen {
    let mut chosen = choose_in(variables, write);
    chosen.choice = choose(&Question { at_branches: true, ..question(&chosen.stretch, variables) });
    chosen
}

/// `cmp; jae`, an entry behind it, and what the branch leads to instead.
fn checked(
    a: &mut CodeAssembler,
    entry: &mut CodeLabel,
    other: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut elsewhere = a.create_label();
    a.cmp(rcx, rbx)?;
    a.jae(elsewhere)?;
    a.mov(rdx, rcx)?;
    a.set_label(entry)?;
    a.mov(rcx, 7i64)?;
    a.ret()?;
    a.set_label(&mut elsewhere)?;
    other(a)
}

#[test]
fn a_check_whose_other_way_is_a_panic_stands_for_what_is_behind_it() {
    let chosen = choose_in(&[at("x", &[RDX])], |a, entry| {
        checked(a, entry, |a| {
            a.mov(rax, rcx)?;
            a.call(PANIC_INDEX)?;
            a.nop()
        })
    });
    assert!(chosen.instruction().starts_with("jae"), "{}", chosen.instruction());
    // It falls through to the entry: not taken, `b`.
    assert_eq!(chosen.choice.branch, Some(Branch { condition: 0x2, other_way_ends: true }));
    assert_eq!(chosen.places(), [RCX]);
    assert!(chosen.choice.reason().ends_with("a branch, whose other way is a panic's"));
    // The comparison before it runs as often, but does not know yet.
    assert_eq!(chosen.stretch().len(), 4);
}

#[test]
fn a_branch_that_leads_to_other_code_is_taken_only_where_that_is_wanted() {
    let write = |a: &mut CodeAssembler, entry: &mut CodeLabel| checked(a, entry, CodeAssembler::ret);
    let chosen = choose_in(&[], write);
    assert_eq!(chosen.choice.index, chosen.stretch.entry);
    assert_eq!(*chosen.verdict("jae"), Verdict::OtherWay);
    assert_eq!(chosen.choice.branch, None);
    let chosen = choose_at_branches(&[], write);
    assert_eq!(chosen.choice.branch, Some(Branch { condition: 0x2, other_way_ends: false }));
    assert!(chosen.choice.reason().ends_with("which traps on its other way, too"));
}

#[test]
fn the_way_that_is_taken_has_the_branchs_own_condition() {
    let chosen = choose_at_branches(&[], |a, entry| {
        a.cmp(rcx, rbx)?;
        a.jle(*entry)?;
        a.ret()?;
        a.set_label(entry)?;
        a.mov(rcx, 7i64)?;
        a.ret()
    });
    assert_eq!(chosen.choice.branch, Some(Branch { condition: 0xe, other_way_ends: false }));
}

#[test]
fn what_comes_back_or_leaves_the_function_does_not_end() {
    // A loop that panics in its last round goes round before.
    let chosen = choose_in(&[], |a, entry| {
        let mut head = a.create_label();
        a.set_label(&mut head)?;
        a.cmp(rcx, rbx)?;
        a.jae(*entry)?;
        a.inc(rcx)?;
        a.cmp(rcx, 100)?;
        a.jne(head)?;
        a.call(PANIC_INDEX)?;
        a.nop()?;
        a.set_label(entry)?;
        a.mov(rcx, 7i64)?;
        a.ret()
    });
    assert_eq!(*chosen.verdict("jae"), Verdict::OtherWay);
    // Into another function, and into one that is not known.
    let tail = |a: &mut CodeAssembler| a.jmp(PANIC_INDEX + 1);
    let chosen = choose_in(&[], |a, entry| checked(a, entry, tail));
    assert_eq!(*chosen.verdict("jae"), Verdict::OtherWay);
    let chosen = choose_in(&[], |a, entry| checked(a, entry, |a| a.jmp(qword_ptr(rax))));
    assert_eq!(*chosen.verdict("jae"), Verdict::OtherWay);
}

#[test]
fn an_instruction_of_the_line_alone_is_better_than_a_branch() {
    let chosen = choose_at_branches(&[], |a, entry| {
        a.test(rcx, rcx)?;
        a.je(PANIC_INDEX)?;
        a.set_label(entry)?;
        for _ in 0..5 {
            a.inc(rdx)?;
        }
        a.nop()?;
        a.ret()
    });
    assert_eq!(chosen.instruction(), "nop");
    assert_eq!(chosen.choice.branch, None);
}

#[test]
fn a_value_that_is_made_behind_the_branch_is_not_there_yet() {
    let chosen = choose_at_branches(&[at("x", &[RDX])], |a, entry| {
        let mut other = a.create_label();
        a.test(rcx, rcx)?;
        a.je(other)?;
        a.lea(rdx, rcx + 1)?;
        a.set_label(entry)?;
        a.inc(rcx)?;
        a.ret()?;
        a.set_label(&mut other)?;
        a.ret()
    });
    assert_eq!(*chosen.verdict("je"), Verdict::Lacks("x".into()));
}
