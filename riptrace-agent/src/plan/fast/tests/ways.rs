//! Entries with several ways in.

use super::{branches::choose_at_branches, *};

impl Chosen {
    /// What is armed on the ways in.
    fn ways(&self) -> Vec<&str> {
        self.choice.ways.iter().map(|way| way.candidate.instruction.split(' ').next().unwrap()).collect()
    }

    /// Where the only variable is on each way in.
    fn places_at_ways(&self) -> Vec<Place> {
        let place = |way: &Way| match &way.variables[0].location {
            VariableLocation::Pieces(pieces) => pieces[0].place,
            other => panic!("{other:?}"),
        };
        self.choice.ways.iter().map(place).collect()
    }
}

/// `if` and `else` that end by jumps to what follows. `first`, `second`: what they do.
fn two_jumps(
    first: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    second: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError> {
    |a, entry| {
        let mut other = a.create_label();
        a.call(PANIC_INDEX + 1)?;
        a.test(rcx, rcx)?;
        a.je(other)?;
        a.call(PANIC_INDEX + 1)?;
        first(a)?;
        a.jmp(*entry)?;
        a.set_label(&mut other)?;
        a.call(PANIC_INDEX + 1)?;
        second(a)?;
        a.jmp(*entry)?;
        a.set_label(entry)?;
        a.mov(rcx, rax)?;
        a.ret()
    }
}

#[test]
fn each_jump_to_a_line_is_armed() {
    let chosen = choose_in(&[at("x", &[RAX])], two_jumps(|a| a.mov(rax, rbx), |a| a.mov(rax, rdx)));
    assert_eq!(chosen.ways(), ["jmp", "jmp"]);
    assert_eq!(chosen.places_at_ways(), [RAX, RAX]);
    assert_eq!(chosen.choice.reason(), "armed at its 2 ways in: emulated");
    assert!(chosen.choice.is_fast());
    assert_eq!(chosen.choice.addresses().len(), 2);
    assert!(!chosen.choice.addresses().contains(&chosen.stretch.instructions[chosen.stretch.entry].ip()));
}

#[test]
fn a_value_is_followed_on_each_way_by_itself() {
    let chosen = choose_in(&[at("x", &[RCX])], |a, entry| {
        two_jumps(|a| a.mov(rax, rbx), |a| a.mov(rax, 7i64))(a, entry)?;
        // The line reads another register than its variable is in.
        a.nop()
    });
    assert_eq!(chosen.places_at_ways(), [RCX, RCX]);
    let chosen = choose_in(&[at("x", &[RAX])], |a, entry| {
        let mut other = a.create_label();
        a.test(rcx, rcx)?;
        a.je(other)?;
        a.call(PANIC_INDEX + 1)?;
        a.nop()?;
        a.mov(rax, rbx)?;
        a.call(PANIC_INDEX + 1)?;
        a.nop()?;
        a.mov(rax, 5i64)?;
        a.jmp(*entry)?;
        a.set_label(&mut other)?;
        a.call(PANIC_INDEX + 1)?;
        a.nop()?;
        a.mov(rax, rdx)?;
        a.set_label(entry)?;
        a.mov(rcx, rax)?;
        a.ret()
    });
    assert_eq!(chosen.ways(), ["jmp", "nop"]);
    assert_eq!(chosen.places_at_ways(), [RAX, RDX]);
}

#[test]
fn a_way_on_which_a_value_is_made_too_late_leaves_the_line_as_it_is() {
    let chosen = choose_in(&[at("x", &[RAX])], |a, entry| {
        a.test(rcx, rcx)?;
        a.je(PANIC_INDEX)?;
        a.nop()?;
        a.lea(rax, rbx + 1)?;
        a.set_label(entry)?;
        a.mov(rcx, rax)?;
        a.inc(rcx)?;
        a.mov(qword_ptr(rbx), rcx)?;
        a.jmp(*entry)
    });
    assert!(chosen.ways().is_empty());
    assert_eq!(*chosen.verdict("nop"), Verdict::Lacks("x".into()));
    assert_eq!(chosen.choice.index, chosen.stretch.entry);
    assert!(chosen.choice.lacks_values());
}

/// A loop whose condition is at its end.
fn a_loop(a: &mut CodeAssembler, entry: &mut CodeLabel) -> Result<(), IcedError> {
    a.call(PANIC_INDEX + 1)?;
    a.nop()?;
    a.xor(ecx, ecx)?;
    a.set_label(entry)?;
    a.inc(rcx)?;
    a.mov(qword_ptr(rbx), rcx)?;
    a.cmp(rcx, 3)?;
    a.jl(*entry)?;
    a.ret()
}

#[test]
fn the_way_back_of_a_loop_is_a_way_in() {
    let chosen = choose_in(&[at("x", &[RCX])], a_loop);
    assert!(chosen.ways().is_empty());
    assert_eq!(*chosen.verdict("jl"), Verdict::OtherWay);
    let chosen = choose_at_branches(&[at("x", &[RCX])], a_loop);
    assert_eq!(chosen.ways(), ["nop", "jl"]);
    assert_eq!(chosen.places_at_ways(), [Place::Constant(0), RCX]);
    let branches: Vec<_> = chosen.choice.ways.iter().map(|way| way.branch).collect();
    assert_eq!(branches, [None, Some(Branch { condition: 0xc, other_way_ends: false })]);
    assert_eq!(
        chosen.choice.reason(),
        "armed at its 2 ways in: emulated; one of them a branch, which traps on its other way, too"
    );
}

/// `if` without `else`, around what `inside` does.
fn a_diamond(
    inside: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError> {
    |a, entry| {
        a.call(PANIC_INDEX + 1)?;
        a.test(rcx, rcx)?;
        a.je(*entry)?;
        inside(a)?;
        a.set_label(entry)?;
        a.mov(rdx, rax)?;
        a.ret()
    }
}

#[test]
fn a_branch_whose_both_ways_lead_to_the_line_is_armed_once() {
    let chosen = choose_in(&[at("x", &[RAX])], a_diamond(|a| a.mov(rcx, 1i64)));
    assert_eq!(chosen.ways(), ["je"]);
    assert_eq!(chosen.choice.ways[0].branch, None);
    assert_eq!(chosen.places_at_ways(), [RAX]);
    assert_eq!(chosen.choice.reason(), "armed where its ways in part: emulated");
}

#[test]
fn a_value_that_differs_on_the_ways_of_one_branch_is_not_at_it() {
    for at_branches in [false, true] {
        let choose = if at_branches { choose_at_branches } else { choose_in };
        // RAX holds it on one way, RBX on the other.
        let chosen = choose(&[at("x", &[RAX])], &mut a_diamond_writer);
        assert!(chosen.ways().is_empty());
        assert_eq!(chosen.choice.index, chosen.stretch.entry);
    }
}

fn a_diamond_writer(a: &mut CodeAssembler, entry: &mut CodeLabel) -> Result<(), IcedError> {
    a_diamond(|a| a.mov(rax, rbx))(a, entry)
}

#[test]
fn ways_that_join_on_the_way_are_followed_to_their_beginnings() {
    let chosen = choose_at_branches(&[at("x", &[RAX])], |a, entry| {
        let (mut inner, mut other) = (a.create_label(), a.create_label());
        a.test(rcx, rcx)?;
        a.je(other)?;
        a.call(PANIC_INDEX + 1)?;
        a.test(rdx, rdx)?;
        a.jl(inner)?;
        a.call(PANIC_INDEX + 1)?;
        a.nop()?;
        a.set_label(&mut inner)?;
        a.inc(rdx)?;
        a.set_label(entry)?;
        a.mov(rcx, rax)?;
        a.ret()?;
        a.set_label(&mut other)?;
        a.call(PANIC_INDEX + 1)?;
        a.jmp(*entry)
    });
    assert_eq!(chosen.ways(), ["jl", "nop", "jmp"]);
}

#[test]
fn a_way_without_anything_cheap_leaves_the_line_as_it_is() {
    type Way = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    // What the first way ends with, in front of the line.
    let ways: [Way; 3] = [
        |a| a.call(PANIC_INDEX + 1),
        |a| {
            a.nop()?;
            a.mov(qword_ptr(rbx), rcx)
        },
        |a| {
            a.nop()?;
            a.mov(rcx, qword_ptr(rbx))
        },
    ];
    for way in ways {
        let chosen = choose_at_branches(&[], |a, entry| {
            let mut other = a.create_label();
            a.test(rcx, rcx)?;
            a.je(other)?;
            a.call(PANIC_INDEX + 1)?;
            a.inc(rcx)?;
            way(a)?;
            a.set_label(entry)?;
            a.mov(rcx, rax)?;
            a.ret()?;
            a.set_label(&mut other)?;
            a.call(PANIC_INDEX + 1)?;
            a.jmp(*entry)
        });
        assert!(chosen.ways().is_empty(), "{:?}", chosen.ways());
        assert_eq!(chosen.choice.index, chosen.stretch.entry);
    }
}

#[test]
fn control_that_comes_from_outside_passes_no_way() {
    // The function's own beginning, to which a loop comes back.
    let chosen = choose_at_branches(&[], |a, entry| {
        a.set_label(entry)?;
        a.inc(rcx)?;
        a.mov(qword_ptr(rbx), rcx)?;
        a.jmp(*entry)
    });
    assert!(chosen.ways().is_empty());
    // An indirect jump that could not be read, anywhere in the function.
    let chosen = choose_at_branches(&[], |a, entry| {
        two_jumps(|a| a.inc(rdx), |a| a.inc(rdx))(a, entry)?;
        a.nop()?;
        a.jmp(rax)
    });
    assert!(chosen.ways().is_empty());
    // A loop that nothing leaves.
    let chosen = choose_at_branches(&[], |a, entry| {
        a.nop()?;
        a.set_label(entry)?;
        a.inc(rcx)?;
        a.inc(rdx)?;
        a.jmp(*entry)
    });
    assert!(chosen.ways().is_empty());
}

#[test]
fn another_site_s_address_is_not_taken_and_a_way_further_back_is() {
    let write = |a: &mut CodeAssembler, entry: &mut CodeLabel| {
        two_jumps(
            |a| {
                a.nop()?;
                a.inc(rdx)
            },
            |a| a.inc(rdx),
        )(a, entry)
    };
    let free = choose_in(&[], write);
    assert_eq!(free.ways(), ["jmp", "jmp"]);
    let cfa = |_| Some(i32::try_from(CFA).unwrap());
    let [first, second] = free.choice.addresses()[..] else { panic!("{:?}", free.choice.addresses()) };
    let chosen = choose_with(&[], &BTreeSet::from([first]), cfa, write);
    assert_eq!(chosen.ways(), ["nop", "jmp"]);
    let chosen = choose_with(&[], &BTreeSet::from([second]), cfa, write);
    assert!(chosen.ways().is_empty());
    assert_eq!(*chosen.verdict("jmp"), Verdict::Taken);
}

#[test]
fn ways_beyond_the_limit_are_not_armed() {
    for count in [MAX_WAYS, MAX_WAYS + 1] {
        let chosen = choose_in(&[], |a, entry| {
            for _ in 0..count {
                let mut next = a.create_label();
                a.call(PANIC_INDEX + 1)?;
                a.test(rcx, rcx)?;
                a.je(next)?;
                a.call(PANIC_INDEX + 1)?;
                a.jmp(*entry)?;
                a.set_label(&mut next)?;
            }
            a.ret()?;
            a.set_label(entry)?;
            a.mov(rcx, rax)?;
            a.ret()
        });
        assert_eq!(chosen.ways().len(), if count > MAX_WAYS { 0 } else { count });
    }
}
