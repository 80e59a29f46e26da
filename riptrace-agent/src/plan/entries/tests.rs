use super::*;
use crate::plan::code::tests::Bytes;

fn addresses(code: &Bytes, line: &[u64], statements: &[u64]) -> Vec<u64> {
    let graph = code.graph().unwrap();
    let nodes = line.iter().map(|&address| graph.at(address).unwrap()).collect();
    let found = entries(&graph, &nodes, |node| statements.contains(&graph.address(node)));
    found.into_iter().map(|node| graph.address(node)).collect()
}

/// Something else; then `for i := 0; i < 3; i++ { two instructions }`.
fn loop_code() -> Bytes {
    Bytes::new(
        0x1fff,
        &[
            0x90, // 1fff: nop
            0x31, 0xc0, // 2000: xor eax, eax
            0xeb, 0x05, // 2002: jmp 2009
            0x90, 0x90, // 2004: the body
            0x48, 0xff, 0xc0, // 2006: inc rax
            0x48, 0x83, 0xf8, 0x03, // 2009: cmp rax, 3
            0x7c, 0xf5, // 200d: jl 2004
            0xc3, // 200f: ret
        ],
    )
}

#[test]
fn a_loop_is_entered_at_its_start_and_for_each_iteration() {
    let line = [0x2000, 0x2002, 0x2006, 0x2009, 0x200d];
    assert_eq!(addresses(&loop_code(), &line, &[]), [0x2000, 0x2006]);
}

#[test]
fn the_jump_into_a_loop_enters_its_line_although_the_mark_lies_on_the_third_clause() {
    let line = [0x2002, 0x2006, 0x2009, 0x200d];
    assert_eq!(addresses(&loop_code(), &line, &[0x2006]), [0x2002, 0x2006]);
}

#[test]
fn an_entry_that_always_leads_to_another_one_does_not_count_twice() {
    // The compiler gave the increment to the body's line.
    let line = [0x2000, 0x2002, 0x2009, 0x200d];
    assert_eq!(addresses(&loop_code(), &line, &[]), [0x2009]);
    // The first clause was given to the line before; the condition has no mark of its own.
    let line = [0x2006, 0x2009, 0x200d];
    assert_eq!(addresses(&loop_code(), &line, &[0x2006]), [0x2009]);
}

#[test]
fn the_second_half_of_a_statement_over_several_lines_is_no_new_execution() {
    let straight = Bytes::new(0x3000, &[0x90, 0x90, 0x90, 0x90, 0xc3]);
    assert_eq!(addresses(&straight, &[0x3001, 0x3003], &[]), [0x3001]);
    // In a loop, too: nop; nop; nop; jmp 3000
    let round = Bytes::new(0x3000, &[0x90, 0x90, 0x90, 0x90, 0xeb, 0xfa]);
    assert_eq!(addresses(&round, &[0x3001, 0x3003], &[]), [0x3001]);
}

#[test]
fn code_that_only_spills_for_a_line_is_not_its_beginning() {
    let straight = Bytes::new(0x3000, &[0x90, 0x90, 0x90, 0x90, 0xc3]);
    assert_eq!(addresses(&straight, &[0x3001, 0x3003], &[0x3003]), [0x3003]);
}

#[test]
fn the_first_instruction_is_an_entry_even_if_a_loop_comes_back_to_it() {
    // nop; jmp 3000
    let round = Bytes::new(0x3000, &[0x90, 0xeb, 0xfd]);
    assert_eq!(addresses(&round, &[0x3000], &[]), [0x3000]);
}

/// A Go prologue at 0x1000 with its stack check.
fn function() -> Bytes {
    Bytes::new(
        0x1000,
        &[
            0x49, 0x3b, 0x66, 0x10, // 1000: cmp rsp, [r14+0x10]
            0x76, 0x0c, // 1004: jbe 1012
            0x55, // 1006: push rbp
            0x48, 0x89, 0xe5, // 1007: mov rbp, rsp
            0x48, 0x83, 0xec, 0x10, // 100a: sub rsp, 0x10
            0x90, // 100e: nop
            0x5d, // 100f: pop rbp
            0xc3, // 1010: ret
            0xcc, // 1011
            0xe8, 0xe9, 0x7f, 0x00, 0x00, // 1012: call runtime.morestack_noctxt
            0xeb, 0xe7, // 1017: jmp 1000
        ],
    )
}

#[test]
fn a_function_is_entered_behind_its_stack_check() {
    let code = function();
    let graph = code.graph().unwrap();
    let entry = |prologue_end: u64| {
        let node = function_entry(&code, &graph, |node| graph.address(node) == prologue_end);
        graph.address(node)
    };
    assert_eq!(entry(0), 0x1006);
    assert_eq!(entry(0x100e), 0x100e);
    assert_eq!(entry(0x1000), 0x1006);
    // The mark is not believed where it lies behind a branch.
    assert_eq!(entry(0x1012), 0x1006);
}

#[test]
fn a_large_frame_has_two_checks() {
    let code = Bytes::new(
        0x1000,
        &[
            0x49, 0x89, 0xe4, // 1000: mov r12, rsp
            0x49, 0x81, 0xec, 0x00, 0x00, 0x02, 0x00, // 1003: sub r12, 0x20000
            0x72, 0x08, // 100a: jb 1014
            0x4d, 0x3b, 0x66, 0x10, // 100c: cmp r12, [r14+0x10]
            0x76, 0x02, // 1010: jbe 1014
            0x55, // 1012: push rbp
            0xc3, // 1013: ret
            0xe8, 0xe7, 0x7f, 0x00, 0x00, // 1014: call runtime.morestack_noctxt
            0xeb, 0xe5, // 1019: jmp 1000
        ],
    );
    let graph = code.graph().unwrap();
    assert_eq!(graph.address(function_entry(&code, &graph, |_| false)), 0x1012);
}

#[test]
fn a_function_without_a_check_is_entered_at_its_first_instruction() {
    let code = Bytes::new(0x1000, &[0x48, 0x85, 0xc0, 0x74, 0x01, 0x90, 0xc3]);
    let graph = code.graph().unwrap();
    assert_eq!(function_entry(&code, &graph, |_| false), graph.entry());
}
