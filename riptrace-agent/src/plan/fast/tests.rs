use iced_x86::code_asm::*;
use riptrace_common::wire::event::Role;

use super::*;
use crate::{
    golang::types::TypeId,
    plan::code::{
        FlowGraph,
        tests::{Bytes, PANIC_INDEX},
    },
};

mod branches;
mod faults;
mod own_frame;
mod walks;
mod ways;

const START: u64 = 0x1000;
/// CFA minus SP in the body of the test functions.
const CFA: i64 = 0x60;
const RAX: Place = Place::Register(0);
const RBX: Place = Place::Register(3);
const RCX: Place = Place::Register(2);
const RDX: Place = Place::Register(1);
const XMM0: Place = Place::FloatRegister(17);

/// A place of the frame by its distance from SP.
fn sp(offset: i64) -> Place {
    Place::Frame(offset - CFA)
}

fn variable(name: &str, location: VariableLocation) -> VisibleVariable {
    let ty = TypeId(0);
    VisibleVariable { name: name.into(), role: Role::Local, ty, decl_line: 1, location, dict_index: None }
}

fn at(name: &str, places: &[Place]) -> VisibleVariable {
    let pieces = places.iter().map(|&place| Piece { bytes: 8, place }).collect();
    variable(name, VariableLocation::Pieces(pieces))
}

struct Chosen {
    choice: Choice,
    stretch: Stretch,
    code: Bytes,
}

impl Chosen {
    fn instruction(&self) -> String {
        text_of(&self.stretch.instructions[self.choice.index])
    }

    /// Everything in the stretch.
    fn stretch(&self) -> Vec<String> {
        self.stretch.instructions.iter().map(text_of).collect()
    }

    fn location(&self) -> &VariableLocation {
        &self.choice.variables[0].location
    }

    fn places(&self) -> Vec<Place> {
        match self.location() {
            VariableLocation::Pieces(pieces) => pieces.iter().map(|piece| piece.place).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn verdict(&self, instruction: &str) -> &Verdict {
        let found = self.choice.candidates.iter().find(|one| one.instruction.starts_with(instruction));
        &found.unwrap_or_else(|| panic!("no {instruction} among {:?}", self.choice.candidates)).verdict
    }
}

static NOTHING_TAKEN: BTreeSet<u64> = BTreeSet::new();

/// All variables are wanted, and nothing special is allowed or forbidden.
fn question<'a>(stretch: &'a Stretch, variables: &'a [VisibleVariable]) -> Question<'a> {
    Question {
        stretch,
        cfa_from_sp: &|_| Some(i32::try_from(CFA).unwrap()),
        variables,
        dictionary: None,
        is_wanted: &|_| true,
        leads_on: &|_| true,
        keeps_go_rules: true,
        copies: None,
        taken: &NOTHING_TAKEN,
        catches_faults: false,
        at_branches: false,
    }
}

/// Chooses for the instruction that `write` returns the label of.
fn choose_in(
    variables: &[VisibleVariable],
    write: impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError>,
) -> Chosen {
    choose_with(variables, &NOTHING_TAKEN, |_| Some(i32::try_from(CFA).unwrap()), write)
}

fn choose_with(
    variables: &[VisibleVariable],
    taken: &BTreeSet<u64>,
    cfa: impl Fn(u64) -> Option<i32>,
    write: impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError>,
) -> Chosen {
    let mut assembler = CodeAssembler::new(64).unwrap();
    let mut entry = assembler.create_label();
    write(&mut assembler, &mut entry).unwrap();
    let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let assembled = assembler.assemble_options(START, options).unwrap();
    let entry = assembled.label_ip(&entry).unwrap();
    let code = Bytes::new(START, &assembled.inner.code_buffer);
    let graph = code.graph().unwrap();
    let stretch = stretch_at(&code, &graph, entry);
    let choice = choose(&Question { cfa_from_sp: &cfa, taken, ..question(&stretch, variables) });
    Chosen { choice, stretch, code }
}

fn stretch_at(code: &Bytes, graph: &FlowGraph, address: u64) -> Stretch {
    Stretch::around(code, graph, &NonNil::of(code, graph), graph.at(address).unwrap())
}

#[test]
fn the_nearest_emulated_instruction_further_on_is_taken() {
    let chosen = choose_in(&[at("x", &[RAX])], |a, entry| {
        a.mov(rdx, rsi)?;
        a.test(rdx, rdx)?;
        a.je(PANIC_INDEX)?;
        a.set_label(entry)?;
        a.mov(rcx, rax)?;
        a.add(rcx, 1)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert!(chosen.instruction().starts_with("call"), "{}", chosen.instruction());
    assert_eq!(chosen.stretch.barriers, (Barrier::Branch, Barrier::Call));
    assert_eq!(chosen.stretch().len(), 3);
    assert_eq!(chosen.places(), [RAX]);
}

#[test]
fn jumps_are_followed_and_are_themselves_candidates() {
    let chosen = choose_in(&[at("x", &[RAX])], |a, entry| {
        let mut over = a.create_label();
        a.set_label(entry)?;
        a.mov(rcx, 1i64)?;
        a.jmp(over)?;
        a.int3()?;
        a.set_label(&mut over)?;
        a.mov(rdx, 2i64)?;
        a.ret()
    });
    assert!(chosen.instruction().starts_with("jmp"));
    assert_eq!(chosen.stretch().len(), 4);
    assert_eq!(chosen.stretch.barriers.1, Barrier::Frame);
}

#[test]
fn an_instruction_with_another_way_in_ends_the_stretch() {
    let chosen = choose_in(&[], |a, entry| {
        let (mut head, mut out) = (a.create_label(), a.create_label());
        a.set_label(entry)?;
        a.xor(ecx, ecx)?;
        a.set_label(&mut head)?;
        a.cmp(rcx, 3)?;
        a.jge(out)?;
        a.inc(rcx)?;
        a.jmp(head)?;
        a.set_label(&mut out)?;
        a.ret()
    });
    // The loop's branch is emulated but runs once more for each iteration.
    assert_eq!(chosen.stretch(), ["xor ecx, ecx"]);
    assert_eq!(chosen.stretch.barriers.1, Barrier::Join);
}

#[test]
fn an_entry_in_a_loop_is_hit_in_each_iteration() {
    let chosen = choose_in(&[], |a, entry| {
        a.xor(ecx, ecx)?;
        a.nop()?;
        a.set_label(entry)?;
        a.inc(rcx)?;
        a.cmp(rcx, 3)?;
        a.jl(*entry)?;
        a.ret()
    });
    // Never the nop in front of the loop, though control comes from there.
    assert!(chosen.instruction().starts_with("jl"));
    assert_eq!(chosen.stretch.barriers, (Barrier::Join, Barrier::Branch));
}

#[test]
fn what_runs_before_is_taken_where_there_is_one_way_in() {
    let chosen = choose_in(&[at("x", &[RCX])], |a, entry| {
        a.push(rbp)?;
        a.mov(rcx, rax)?;
        a.set_label(entry)?;
        a.add(rax, 1)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.ret()
    });
    assert_eq!(chosen.instruction(), "push rbp");
    // The value that is in RCX at the entry is still in RAX there.
    assert_eq!(chosen.places(), [RAX]);
    assert_eq!(chosen.stretch.barriers.1, Barrier::Store);
}

#[test]
fn a_value_that_is_made_before_the_entry_is_not_there_yet() {
    let chosen = choose_in(&[at("x", &[RCX])], |a, entry| {
        a.push(rbp)?;
        a.lea(rcx, rax + 1)?;
        a.set_label(entry)?;
        a.mov(qword_ptr(rbx), rcx)?;
        a.ret()
    });
    assert_eq!(*chosen.verdict("push"), Verdict::Lacks("x".into()));
    assert_eq!(chosen.choice.index, chosen.stretch.entry);
}

#[test]
fn a_variable_that_the_line_assigns_to_keeps_the_site_in_front() {
    for location in [at("x", &[RAX]), at("x", &[sp(0x18)])] {
        let chosen = choose_in(&[location], |a, entry| {
            a.set_label(entry)?;
            a.inc(rax)?;
            a.mov(qword_ptr(rsp + 0x18), rax)?;
            a.call(PANIC_INDEX + 1)?;
            a.ret()
        });
        assert_eq!(*chosen.verdict("call"), Verdict::Lacks("x".into()));
        assert_eq!(chosen.instruction(), "inc rax");
    }
}

#[test]
fn a_value_is_followed_into_registers_and_onto_the_stack() {
    let chosen = choose_in(&[at("x", &[RAX]), at("y", &[sp(0x20)])], |a, entry| {
        a.set_label(entry)?;
        a.mov(qword_ptr(rsp + 0x18), rax)?;
        a.mov(rbx, qword_ptr(rsp + 0x20))?;
        a.xor(eax, eax)?;
        a.mov(qword_ptr(rsp + 0x20), rax)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert!(chosen.instruction().starts_with("call"));
    assert_eq!(chosen.places(), [sp(0x18)]);
    let y = VariableLocation::Pieces(vec![Piece { bytes: 8, place: RBX }]);
    assert_eq!(chosen.choice.variables[1].location, y);
}

#[test]
fn the_pieces_of_a_value_are_followed_one_by_one() {
    let string = at("s", &[RAX, RBX]);
    let heap = variable("h", VariableLocation::Heap(vec![Piece { bytes: 8, place: RCX }]));
    let closure = VariableLocation::Closure { register: 1, offset: 8, by_reference: false };
    let chosen = choose_in(&[string, heap, variable("c", closure)], |a, entry| {
        a.set_label(entry)?;
        a.xchg(rax, rbx)?;
        a.mov(rax, rcx)?;
        a.mov(rcx, rbx)?;
        a.ret()
    });
    // xchg makes new values here; nothing behind it is taken for the string.
    assert_eq!(*chosen.verdict("mov rax, rcx"), Verdict::Lacks("s".into()));

    let closure = VariableLocation::Closure { register: 1, offset: 8, by_reference: false };
    let chosen = choose_in(&[variable("c", closure)], |a, entry| {
        a.set_label(entry)?;
        a.mov(rbx, rdx)?;
        a.mov(edx, 5)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    let moved = VariableLocation::Closure { register: 3, offset: 8, by_reference: false };
    assert_eq!(*chosen.location(), moved);
}

#[test]
fn narrow_copies_are_copies_of_what_they_keep() {
    let narrow = |bytes| variable("n", VariableLocation::Pieces(vec![Piece { bytes, place: RAX }]));
    for (bytes, found) in [(1, true), (4, true), (8, false)] {
        let chosen = choose_in(&[narrow(bytes)], |a, entry| {
            a.set_label(entry)?;
            a.mov(ecx, eax)?;
            a.xor(eax, eax)?;
            a.call(PANIC_INDEX + 1)?;
            a.ret()
        });
        assert_eq!(chosen.instruction().starts_with("call"), found, "{bytes}");
        // Half a register is no place for all of it.
        let end = if found { vec![RCX] } else { vec![RAX] };
        assert_eq!(chosen.places(), end, "{bytes}");
    }
}

#[test]
fn constants_are_known_where_the_register_is_reused() {
    let chosen = choose_in(&[at("n", &[RCX])], |a, entry| {
        a.mov(ecx, 7)?;
        a.set_label(entry)?;
        a.mov(rcx, rbx)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert!(chosen.instruction().starts_with("call"));
    assert_eq!(chosen.places(), [Place::Constant(7)]);
}

#[test]
fn a_float_becomes_readable_where_it_is_spilled() {
    let chosen = choose_in(&[at("f", &[XMM0])], |a, entry| {
        a.set_label(entry)?;
        a.nop()?;
        a.movsd_2(qword_ptr(rsp + 0x28), xmm0)?;
        a.add(rax, 1)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.ret()
    });
    // More readable goes before cheap.
    assert_eq!(chosen.instruction(), "add rax, 1");
    assert_eq!(chosen.places(), [sp(0x28)]);
}

#[test]
fn a_load_that_may_fault_is_not_crossed() {
    let chosen = choose_in(&[at("p", &[RAX])], |a, entry| {
        a.set_label(entry)?;
        a.mov(rcx, qword_ptr(rax + 8))?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert_eq!(chosen.choice.candidates.len(), 1);
    assert_eq!(chosen.choice.end, Barrier::Fault);
    // Nor backward: it runs, and the entry may not.
    let chosen = choose_in(&[at("p", &[RAX])], |a, entry| {
        a.nop()?;
        a.mov(rcx, qword_ptr(rax + 8))?;
        a.set_label(entry)?;
        a.add(rcx, 1)?;
        a.ret()
    });
    assert_eq!(chosen.stretch()[0], "add rcx, 1");
    assert_eq!(chosen.stretch.barriers.0, Barrier::Fault);
}

/// Where RBP leads elsewhere the call stack can't be walked: a caller of `DUFFZERO` makes its frame record (Go up to 1.25).
#[test]
fn the_frame_pointer_stays_what_it_is() {
    let chosen = choose_in(&[], |a, entry| {
        a.sub(rsp, 0x58)?;
        a.set_label(entry)?;
        a.mov(qword_ptr(rsp + 0x20), rbx)?;
        a.lea(rdi, rsp + 0x28)?;
        a.mov(qword_ptr(rsp - 16), rbp)?;
        a.lea(rbp, rsp - 16)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    });
    assert_eq!(chosen.stretch.barriers.1, Barrier::Frame);
    assert!(!chosen.instruction().starts_with("call"), "{}", chosen.instruction());
    // A prologue makes it the function's own.
    assert!(crosses(|a, entry| {
        a.set_label(entry)?;
        a.mov(rbp, rsp)?;
        a.sub(rsp, 0x58)
    }));
}

/// Whether the second instruction from the entry on, a load, can be crossed.
fn crosses(write: impl FnOnce(&mut CodeAssembler, &mut CodeLabel) -> Result<(), IcedError>) -> bool {
    choose_in(&[], |a, entry| {
        write(a, entry)?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    })
    .instruction()
    .starts_with("call")
}

#[test]
fn a_load_through_a_pointer_that_is_not_nil_is_crossed() {
    // Followed before.
    assert!(crosses(|a, entry| {
        a.mov(rcx, qword_ptr(rax))?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rax + 8))
    }));
    // Followed before through a copy that was spilled, into the caller's part of the frame across a call.
    assert!(crosses(|a, entry| {
        a.sub(rsp, 0x58)?;
        a.mov(rcx, qword_ptr(rax))?;
        a.mov(qword_ptr(rsp + 0x68), rax)?;
        a.call(PANIC_INDEX + 1)?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rsp + 0x68))?;
        a.mov(rdx, qword_ptr(rdx + 8))
    }));
    // Compared with nil.
    assert!(crosses(|a, entry| {
        a.test(rax, rax)?;
        a.je(PANIC_INDEX)?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rax + 8))
    }));
    // The stack, package variables, the goroutine, elements behind their index check.
    assert!(crosses(|a, entry| {
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rsp + 8))?;
        a.mov(rdx, qword_ptr(r14 + 0x30))?;
        a.mov(rdx, qword_ptr(rbx + rcx * 8))
    }));
}

#[test]
fn a_load_through_a_pointer_of_which_nothing_is_certain_is_not_crossed() {
    // The other way of the comparison.
    assert!(!crosses(|a, entry| {
        a.test(rax, rax)?;
        a.jne(PANIC_INDEX)?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rax + 8))
    }));
    // Followed on one of two ways only.
    assert!(!crosses(|a, entry| {
        a.cmp(rcx, 3)?;
        a.je(*entry)?;
        a.mov(rdx, qword_ptr(rax))?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rax + 8))
    }));
    // Another value by now.
    assert!(!crosses(|a, entry| {
        a.mov(rdx, qword_ptr(rax))?;
        a.mov(rax, rbx)?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rax + 8))
    }));
    // Registers don't live through a call, nor does what may have been handed to it.
    assert!(!crosses(|a, entry| {
        a.sub(rsp, 0x58)?;
        a.mov(rcx, qword_ptr(rax))?;
        a.mov(qword_ptr(rsp + 0x10), rax)?;
        a.call(PANIC_INDEX + 1)?;
        a.set_label(entry)?;
        a.mov(rdx, qword_ptr(rsp + 0x10))?;
        a.mov(rdx, qword_ptr(rdx + 8))
    }));
    // Shifts of GOAMD64=v3 stand for nil checks with an index, too.
    assert!(!crosses(|a, entry| {
        a.set_label(entry)?;
        a.shlx(rdx, qword_ptr(rax + rcx * 8), rsi)
    }));
}

#[test]
fn stores_are_crossed_only_where_no_pointer_leads() {
    let p = || at("p", &[RAX]);
    let verdict = |write: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let chosen = choose_in(&[p()], |a, entry| {
            a.sub(rsp, 0x58)?;
            a.lea(rcx, rsp + 0x30)?;
            a.mov(qword_ptr(rsp + 0x10), rcx)?;
            a.call(PANIC_INDEX + 1)?;
            a.set_label(entry)?;
            write(a)?;
            a.call(PANIC_INDEX + 2)?;
            a.ret()
        });
        chosen.choice.candidates.last().unwrap().verdict.clone()
    };
    let allowed = Verdict::Allowed { readable: 1 };
    assert_eq!(verdict(&|a| a.mov(qword_ptr(rsp + 0x28), rdx)), allowed);
    // The object at SP+0x30 may be that large, but does not reach into the caller's frame.
    assert_eq!(verdict(&|a| a.mov(qword_ptr(rsp + 0x38), rdx)), Verdict::MayChange);
    assert_eq!(verdict(&|a| a.mov(dword_ptr(rsp + 0x2e), edx)), Verdict::MayChange);
    assert_eq!(verdict(&|a| a.mov(qword_ptr(rsp + 0x70), rdx)), allowed);
    // An address that was taken only for this.
    assert_eq!(
        verdict(&|a| {
            a.lea(rbx, rsp + 0x20)?;
            a.movups(xmmword_ptr(rbx), xmm15)
        }),
        allowed
    );
    // Anywhere else nothing is known.
    let chosen = choose_in(&[p()], |a, entry| {
        a.set_label(entry)?;
        a.mov(qword_ptr(r9), rdx)?;
        a.call(PANIC_INDEX + 2)?;
        a.ret()
    });
    assert_eq!(chosen.stretch.barriers.1, Barrier::Store);
    assert_eq!(chosen.stretch().len(), 1);
}

#[test]
fn an_address_that_is_taken_later_leads_nowhere_yet() {
    let with_loop = |again: bool| {
        choose_in(&[at("p", &[RAX])], |a, entry| {
            a.sub(rsp, 0x58)?;
            a.nop()?;
            a.cmp(rsi, 0)?;
            a.je(PANIC_INDEX)?;
            a.set_label(entry)?;
            a.mov(qword_ptr(rsp + 0x38), rdx)?;
            a.call(PANIC_INDEX + 1)?;
            a.lea(rax, rsp + 0x38)?;
            a.test(rdx, rdx)?;
            if again {
                a.jne(*entry)?;
            }
            a.ret()
        })
    };
    assert_eq!(*with_loop(false).verdict("call"), Verdict::Allowed { readable: 1 });
    // The iteration before took it.
    assert_eq!(*with_loop(true).verdict("call"), Verdict::MayChange);
}

#[test]
fn a_frame_that_is_being_taken_down_is_left_alone() {
    let chosen = choose_in(&[], |a, entry| {
        a.set_label(entry)?;
        a.mov(rax, rbx)?;
        a.add(rsp, 0x58)?;
        a.pop(rbp)?;
        a.ret()
    });
    assert_eq!(chosen.stretch(), ["mov rax, rbx", "add rsp, 0x58"]);
    assert_eq!(chosen.stretch.barriers.1, Barrier::Frame);
}

#[test]
fn places_below_the_stack_hold_nothing() {
    // push rbp; mov rbp, rsp; sub rsp, 0x50: the frame that the entry sees does not exist at the push.
    let chosen = choose_with(
        &[at("x", &[sp(0x10)])],
        &NOTHING_TAKEN,
        |address| {
            Some(match address - START {
                0 => 8,
                1..=3 => 16,
                _ => 0x60,
            })
        },
        |a, entry| {
            a.push(rbp)?;
            a.mov(rbp, rsp)?;
            a.sub(rsp, 0x50)?;
            a.set_label(entry)?;
            a.mov(rax, rbx)?;
            a.ret()
        },
    );
    assert_eq!(*chosen.verdict("push"), Verdict::Lacks("x".into()));
    assert_eq!(chosen.choice.index, chosen.stretch.entry);
}

#[test]
fn an_address_without_a_frame_or_of_another_site_is_not_taken() {
    let write = |a: &mut CodeAssembler, entry: &mut CodeLabel| {
        a.set_label(entry)?;
        a.mov(rcx, rax)?;
        a.nop()?;
        a.call(PANIC_INDEX + 1)?;
        a.ret()
    };
    let all = |_| Some(0x60);
    let chosen = choose_with(&[at("x", &[RAX])], &BTreeSet::from([START + 3]), all, write);
    assert_eq!(*chosen.verdict("nop"), Verdict::Taken);
    assert!(chosen.instruction().starts_with("call"));
    let chosen = choose_with(&[at("x", &[RAX])], &NOTHING_TAKEN, |at| (at == START).then_some(0x60), write);
    assert_eq!(*chosen.verdict("nop"), Verdict::NoFrame);
    assert_eq!(chosen.choice.index, 0);
}

#[test]
fn what_is_not_wanted_may_be_lost() {
    let variables = [at("x", &[RAX]), at("y", &[RDX])];
    let mut assembler = CodeAssembler::new(64).unwrap();
    assembler.mov(eax, 1).unwrap();
    assembler.call(PANIC_INDEX + 1).unwrap();
    assembler.ret().unwrap();
    let code = Bytes::new(START, &assembler.assemble(START).unwrap());
    let graph = code.graph().unwrap();
    let stretch = stretch_at(&code, &graph, START);
    let only = |name: &'static str| {
        let choice = choose(&Question {
            cfa_from_sp: &|_| Some(8),
            is_wanted: &|variable| &*variable.name == name,
            ..question(&stretch, &variables)
        });
        (choice.index, choice.reason())
    };
    assert_eq!(only("x"), (0, "the line's first instruction: x is lost at the cheaper ones".to_owned()));
    assert_eq!(only("y"), (1, "1 instruction behind the line's first: emulated".to_owned()));
}
