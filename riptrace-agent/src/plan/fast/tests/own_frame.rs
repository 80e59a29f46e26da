//! Stores to the frame that nobody can see, and values that the function's code has elsewhere.

use super::*;
use crate::plan::copies::Copies;

/// Whether a store to an object of the frame is crossed where `place` is what is wanted. `before` runs behind the prologue,
/// with the frame's size at SP and the object's address taken there.
fn crosses(
    place: VariableLocation,
    before: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> bool {
    let chosen = choose_in(&[variable("p", place)], |a, entry| {
        a.sub(rsp, 0x58)?;
        before(a)?;
        a.set_label(entry)?;
        a.mov(qword_ptr(rsp + 0x38), rdx)?;
        a.call(PANIC_INDEX + 2)?;
        a.ret()
    });
    *chosen.verdict("call") == Verdict::Allowed { readable: 1 }
}

fn word(place: Place) -> VariableLocation {
    VariableLocation::Pieces(vec![Piece { bytes: 8, place }])
}

/// The word of an argument, in the caller's frame.
fn argument(at: i64) -> i64 {
    CFA + at
}

#[test]
fn what_came_with_the_call_does_not_lead_to_the_frame() {
    let take = |a: &mut CodeAssembler| a.lea(rcx, rsp + 0x30);
    assert!(crosses(word(RAX), |a| take(a)));
    assert!(crosses(VariableLocation::Heap(vec![Piece { bytes: 8, place: RAX }]), |a| take(a)));
    // Nor does what lies behind it.
    assert!(crosses(word(RBX), |a| {
        take(a)?;
        a.mov(rbx, qword_ptr(rax + 8))
    }));
    // Where it was kept meanwhile.
    assert!(crosses(word(sp(argument(0))), |a| {
        a.mov(qword_ptr(rsp + argument(0)), rax)?;
        take(a)?;
        a.mov(rax, rcx)?;
        a.call(PANIC_INDEX + 1)
    }));
    assert!(crosses(word(sp(0x18)), |a| {
        a.mov(qword_ptr(rsp + 0x18), rax)?;
        take(a)
    }));
    // A call that was not handed the address does not know it.
    assert!(crosses(word(RAX), |a| {
        a.call(PANIC_INDEX + 1)?;
        take(a)
    }));
}

#[test]
fn an_address_of_the_frame_is_followed_wherever_it_goes() {
    type Write = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let cases: [(&str, VariableLocation, Write); 15] = [
        ("itself", word(RCX), |_| Ok(())),
        ("copied", word(RBX), |a| a.mov(rbx, rcx)),
        ("advanced", word(RBX), |a| a.lea(rbx, rcx + rax * 8 + 8)),
        ("computed", word(RCX), |a| a.add(rcx, rax)),
        ("chosen", word(RBX), |a| {
            a.test(rax, rax)?;
            a.cmove(rbx, rcx)
        }),
        ("maybe overwritten", word(RCX), |a| {
            a.test(rax, rax)?;
            a.cmove(rcx, rbx)
        }),
        ("half overwritten", word(RCX), |a| a.mov(cl, al)),
        ("stored", word(sp(0x20)), |a| a.mov(qword_ptr(rsp + 0x20), rcx)),
        ("stored and loaded", word(RBX), |a| {
            a.mov(qword_ptr(rsp + 0x20), rcx)?;
            a.mov(rbx, qword_ptr(rsp + 0x20))
        }),
        ("by way of a vector", word(sp(0x28)), |a| {
            a.mov(qword_ptr(rsp + 0x10), rcx)?;
            a.movups(xmm0, xmmword_ptr(rsp + 0x8))?;
            a.movups(xmmword_ptr(rsp + 0x20), xmm0)
        }),
        ("stored through a pointer", word(sp(0x40)), |a| {
            a.mov(qword_ptr(rsp + 0x40), rax)?;
            a.mov(qword_ptr(rcx + 0x10), rcx)
        }),
        ("stored in an array", word(sp(0x18)), |a| {
            a.mov(qword_ptr(rsp + 0x18), rax)?;
            a.mov(qword_ptr(rsp + rbx * 8 + 0x10), rcx)
        }),
        ("loaded from an object of the frame", word(RBX), |a| a.mov(rbx, qword_ptr(rcx + 8))),
        ("handed to a call", word(RAX), |a| a.call(PANIC_INDEX + 1)),
        ("handed to a call on the stack", word(RAX), |a| {
            a.mov(qword_ptr(rsp), rcx)?;
            a.xor(ecx, ecx)?;
            a.call(PANIC_INDEX + 1)
        }),
    ];
    for (what, place, write) in cases {
        let crossed = crosses(place, |a| {
            a.lea(rcx, rsp + 0x30)?;
            write(a)
        });
        assert!(!crossed, "{what}");
    }
    // What was never written may be anything.
    assert!(!crosses(word(sp(0x20)), |a| a.lea(rcx, rsp + 0x30)));
    // On one of two ways.
    assert!(!crosses(word(RBX), |a| {
        let mut meet = a.create_label();
        a.lea(rcx, rsp + 0x30)?;
        a.test(rax, rax)?;
        a.je(meet)?;
        a.mov(rbx, rcx)?;
        a.set_label(&mut meet)?;
        a.nop()
    }));
}

#[test]
fn a_value_is_also_read_where_the_functions_code_has_put_it() {
    let variables = [at("p", &[RAX])];
    let Chosen { stretch, code, .. } = choose_in(&variables, |a, entry| {
        let mut other = a.create_label();
        a.sub(rsp, 0x58)?;
        a.mov(qword_ptr(rsp + argument(0)), rax)?;
        a.test(rbx, rbx)?;
        a.je(other)?;
        a.set_label(entry)?;
        a.mov(rax, qword_ptr(rax + 8))?;
        a.call(PANIC_INDEX + 1)?;
        a.set_label(&mut other)?;
        a.mov(rcx, qword_ptr(rax))?;
        a.add(rsp, 0x58)?;
        a.ret()
    });
    let graph = code.graph().unwrap();
    let copies = Copies::in_graph(&code, graph).unwrap();
    let question = Question { catches_faults: true, ..question(&stretch, &variables) };
    let without = choose(&question);
    assert!(without.lacks_values());
    assert_eq!(without.index, stretch.entry);
    let with = choose(&Question { copies: Some(&copies), ..question });
    assert!(!with.lacks_values());
    assert!(with.candidates[with.index].instruction.starts_with("call"));
    assert_eq!(with.variables, [at("p", &[sp(argument(0))])]);
}
