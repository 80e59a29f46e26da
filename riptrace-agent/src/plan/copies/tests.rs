use super::*;
use crate::plan::code::tests::{Bytes, MORESTACK};

const START: u64 = 0x1000;
const XMM0: u16 = FIRST_VECTOR_REGISTER;
const RAX: u16 = 0;
const RBX: u16 = 3;

/// What is known before the instruction that begins `at` bytes behind the start.
fn known(code: &[u8], at: u64) -> Option<Known> {
    let bytes = Bytes::new(START, code);
    let graph = bytes.graph().unwrap();
    Copies::in_graph(&bytes, graph)?.before(START + at)
}

/// `sub rsp, 0x18; movsd [rsp + 0x20], xmm0`, then what is given.
fn behind_spill(code: &[u8]) -> Vec<u8> {
    let mut all = vec![0x48, 0x83, 0xec, 0x18, 0xf2, 0x0f, 0x11, 0x44, 0x24, 0x20];
    all.extend(code);
    all
}

const CALL: [u8; 5] = [0xe8, 0, 0x70, 0, 0];

#[test]
fn a_float_is_where_it_was_spilled_to_until_its_slot_or_register_is_written() {
    for (name, code, at, place) in [
        ("at once", &[0x90][..], 10, Some(Place::Frame(0))),
        ("before the spill", &[0x90], 4, None),
        // mov [rsp + 0x20], rax; nop
        ("slot written", &[0x48, 0x89, 0x44, 0x24, 0x20, 0x90], 15, None),
        // mov [rsp + 0x24], eax; nop
        ("slot written in part", &[0x89, 0x44, 0x24, 0x24, 0x90], 14, None),
        // mov [rsp + 0x28], rax; nop
        ("neighbour written", &[0x48, 0x89, 0x44, 0x24, 0x28, 0x90], 15, Some(Place::Frame(0))),
        // mov [rsp + rcx * 8], rax; nop
        ("an array written", &[0x48, 0x89, 0x04, 0xcc, 0x90], 14, None),
        // mov [rbx], rax; nop
        ("other memory written", &[0x48, 0x89, 0x03, 0x90], 13, Some(Place::Frame(0))),
        // lea rbx, [rsp + 0x20]; mov [rbx], rax; nop
        ("written by address", &[0x48, 0x8d, 0x5c, 0x24, 0x20, 0x48, 0x89, 0x03, 0x90], 18, None),
        // xorps xmm0, xmm0; nop
        ("register written", &[0x0f, 0x57, 0xc0, 0x90], 13, None),
    ] {
        let found = known(&behind_spill(code), at).and_then(|known| known.copy_of_vector(XMM0, 8));
        assert_eq!(found, place, "{name}");
    }
    // movss [rsp + 8], xmm0; nop
    let four = known(&[0xf3, 0x0f, 0x11, 0x44, 0x24, 8, 0x90], 6).unwrap();
    assert_eq!(four.copy_of_vector(XMM0, 4), Some(Place::Frame(0)));
    assert_eq!(four.copy_of_vector(XMM0, 8), None, "only half of it was stored");
}

#[test]
fn a_value_that_comes_from_a_slot_is_there() {
    // sub rsp, 0x18; call; movsd [rsp + 8], xmm0; call; movsd xmm0, [rsp + 8]; nop
    let mut code = vec![0x48, 0x83, 0xec, 0x18];
    code.extend(CALL);
    code.extend([0xf2, 0x0f, 0x11, 0x44, 0x24, 8]);
    code.extend(CALL);
    code.extend([0xf2, 0x0f, 0x10, 0x44, 0x24, 8, 0x90]);
    assert_eq!(known(&code, 15).unwrap().copy_of_vector(XMM0, 8), Some(Place::Frame(-24)));
    assert_eq!(
        known(&code, 20).unwrap().copy_of_vector(XMM0, 8),
        None,
        "a call leaves no register as it was"
    );
    assert_eq!(known(&code, 26).unwrap().copy_of_vector(XMM0, 8), Some(Place::Frame(-24)));
}

#[test]
fn an_argument_survives_calls_in_its_own_slot_only() {
    // sub rsp, 0x18; mov [rsp + 0x20], rax; mov [rsp + 8], rbx; call; nop
    let mut code = vec![0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x44, 0x24, 0x20, 0x48, 0x89, 0x5c, 0x24, 8];
    code.extend(CALL);
    code.push(0x90);
    let known = known(&code, 19).unwrap();
    assert_eq!(known.at_call(RAX), Some(Place::Frame(0)));
    // What lies at the lower end may be an argument of what was called, which may change it.
    assert_eq!(known.at_call(RBX), None);
}

#[test]
fn both_ways_to_an_instruction_have_to_agree() {
    // cmp eax, ebx; jz +5; mov rcx, rax; jmp +3; mov rcx, rbx; nop
    let code = [0x39, 0xd8, 0x74, 5, 0x48, 0x89, 0xc1, 0xeb, 3, 0x48, 0x89, 0xd9, 0x90];
    let behind = known(&code, 12).unwrap();
    assert_eq!(behind.held.get(&Spot::Register(2)), None);
    assert_eq!(behind.at_call(RAX), Some(Place::Register(RAX)));
}

#[test]
fn a_copy_of_an_earlier_round_of_a_loop_is_not_the_value_of_this_one() {
    // xorps xmm0, xmm0; movaps xmm1, xmm0 (names the value); movss [rsp - 8], xmm1; addss xmm0, xmm0; jmp to movaps
    let code = [
        0x0f, 0x57, 0xc0, 0x0f, 0x28, 0xc8, 0xf3, 0x0f, 0x11, 0x4c, 0x24, 0xf8, 0xf3, 0x0f, 0x58, 0xc0, 0xeb,
        0xf1,
    ];
    // In the second round the slot still holds the first round's value.
    assert_eq!(known(&code, 6).unwrap().copy_of_vector(XMM0, 4), None);
    assert_eq!(known(&code, 12).unwrap().copy_of_vector(XMM0, 4), Some(Place::Frame(-16)));
    assert_eq!(known(&code, 16).unwrap().copy_of_vector(XMM0, 4), None);
}

#[test]
fn growing_the_stack_brings_the_arguments_back() {
    // cmp rsp, [r14 + 0x10]; jbe +4; nop; ret; (pad 2) mov [rsp + 8], rax; call morestack; mov rax, [rsp + 8]; jmp start
    let mut code = vec![0x49, 0x3b, 0x66, 0x10, 0x76, 4, 0x90, 0xc3, 0x90, 0x90];
    code.extend([0x48, 0x89, 0x44, 0x24, 8]);
    let next = START + code.len() as u64 + 5;
    code.push(0xe8);
    code.extend(u32::try_from(MORESTACK - next).unwrap().to_le_bytes());
    code.extend([0x48, 0x8b, 0x44, 0x24, 8, 0xeb]);
    code.push(u8::try_from(256 - code.len() - 1).unwrap());
    let known = known(&code, 6).unwrap();
    assert_eq!(known.at_call(RAX), Some(Place::Register(RAX)));
    assert_eq!(known.at_call(RBX), None, "nothing saved it");
}

#[test]
fn a_stack_pointer_that_depends_on_the_way_proves_nothing() {
    // cmp eax, ebx; jz +1; push rax; nop
    assert!(known(&[0x39, 0xd8, 0x74, 1, 0x50, 0x90], 5).is_none());
}

#[test]
fn no_bytes_make_it_fail() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..3000 {
        let code: Vec<u8> = (0..96)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Bytes of moves by RSP come up often.
                let random = state.to_be_bytes();
                if random[1] & 1 == 0 {
                    [0x48, 0x89, 0x44, 0x24, 0x8b, 0xeb, 0x0f, 0x11][usize::from(random[0] & 7)]
                } else {
                    random[0]
                }
            })
            .collect();
        let bytes = Bytes::new(START, &code);
        let Ok(graph) = bytes.graph() else { continue };
        if let Some(copies) = Copies::in_graph(&bytes, graph) {
            for at in START..START + 96 {
                if let Some(known) = copies.before(at) {
                    let _ = (known.at_call(RAX), known.copy_of_vector(XMM0, 8));
                }
            }
        }
    }
}

#[test]
fn what_a_closure_loads_from_its_object_is_what_it_captured() {
    const R8: u16 = 8;
    let eight = |place| [Piece { bytes: 8, place }];
    // sub rsp, 0x38; mov rax, [rdx + 8]; mov [rsp + 8], rax; movups xmm0, [rdx + 0x10]; movups [rsp + 0x10], xmm0;
    // movups xmm0, [rdx + 0x18]; movups [rsp + 0x18], xmm0; lea r8, [rdx + 0x28]; mov rbx, [rax]; mov rdx, rbx; nop
    let code = [
        0x48, 0x83, 0xec, 0x38, 0x48, 0x8b, 0x42, 8, 0x48, 0x89, 0x44, 0x24, 8, 0x0f, 0x10, 0x42, 0x10, 0x0f,
        0x11, 0x44, 0x24, 0x10, 0x0f, 0x10, 0x42, 0x18, 0x0f, 0x11, 0x44, 0x24, 0x18, 0x4c, 0x8d, 0x42, 0x28,
        0x48, 0x8b, 0x18, 0x48, 0x89, 0xda, 0x90,
    ];
    let behind = known(&code, 41).unwrap();
    let cases = [
        (Place::Register(RAX), Some(CapturedFrom::Value(8))),
        (Place::Frame(-0x38), Some(CapturedFrom::Value(8))),
        (Place::Register(R8), Some(CapturedFrom::Address(0x28))),
        // Loaded from where a captured pointer points at, and what was the context.
        (Place::Register(RBX), None),
        (Place::Register(1), None),
    ];
    for (place, want) in cases {
        assert_eq!(behind.captured(&eight(place)), want, "{place:?}");
    }
    // Copied in overlapping parts.
    let words = [8_u32, 16].map(|bytes| Piece { bytes, place: Place::Frame(-0x30 + i64::from(bytes) - 8) });
    assert_eq!(behind.captured(&words), Some(CapturedFrom::Value(0x10)));
    let swapped = [words[1], words[0]];
    assert_eq!(behind.captured(&swapped), None, "these do not lie side by side");
    let bytes = Bytes::new(START, &code);
    let copies = Copies::in_graph(&bytes, bytes.graph().unwrap()).unwrap();
    let at: Vec<u64> = copies.behind_captured(64).into_iter().map(|(at, _)| at - START).collect();
    assert_eq!(at, [8, 13, 17, 22, 26, 31, 35]);
    assert_eq!(copies.behind_captured(2).len(), 2);
}
