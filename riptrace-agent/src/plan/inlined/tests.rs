use proptest::prelude::*;

use super::*;
use crate::plan::code::tests::Bytes;

fn found(code: &[u8], copy: &[u64], entries: &[u64]) -> Result<Vec<u64>, Refusal> {
    let code = Bytes::new(0x1000, code);
    let graph = code.graph().unwrap();
    let nodes =
        |list: &[u64]| list.iter().map(|&address| graph.at(address).unwrap()).collect::<BTreeSet<Node>>();
    let (copy, entries) = (nodes(copy), nodes(entries));
    let exits = exits(&code, &graph, &copy, &entries, &entries)?;
    Ok(exits.exits.iter().map(|exit| graph.address(exit.armed)).collect())
}

#[test]
fn straight_code_ends_where_the_caller_goes_on() {
    // nop; [inc rax; inc rax]; nop; ret
    let code = [0x90, 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0x90, 0xc3];
    assert_eq!(found(&code, &[0x1001, 0x1004], &[0x1001]), Ok(vec![0x1007]));
    // The caller's instruction between two of the copy's is no end.
    let code = [0x90, 0x48, 0xff, 0xc0, 0x90, 0x48, 0xff, 0xc0, 0x90, 0xc3];
    assert_eq!(found(&code, &[0x1001, 0x1005], &[0x1001]), Ok(vec![0x1008]));
}

#[test]
fn a_branch_both_of_whose_ways_leave_is_armed_where_one_joins_other_code() {
    // test eax, eax; jz 100b; [nop; cmp eax, 1; jz 100b]; nop; nop; 100b: ret
    let code = [0x85, 0xc0, 0x74, 0x08, 0x90, 0x83, 0xf8, 0x01, 0x74, 0x02, 0x90, 0x90, 0xc3];
    assert_eq!(found(&code, &[0x1004, 0x1005, 0x1008], &[0x1004]), Ok(vec![0x1008]));
}

#[test]
fn an_edge_into_code_that_others_reach_is_refused_if_its_source_may_go_on() {
    // test eax, eax; jz 100c; [nop; cmp eax, 1; jz 100c; inc rax]; nop: 100d
    let code = [0x85, 0xc0, 0x74, 0x0a, 0x90, 0x83, 0xf8, 0x01, 0x74, 0x04, 0x48, 0xff, 0xc0, 0x90, 0xc3];
    // 1002: jz 100e; 1008: jz 100e
    assert_eq!(found(&code, &[0x1004, 0x1005, 0x1008, 0x100a], &[0x1004]), Err(Refusal::Merges));
}

#[test]
fn a_caller_s_loop_begins_each_time_anew_and_a_loop_to_the_beginning_is_refused() {
    // nop; 1001: [inc rax; inc rax]; cmp eax, 9; jl 1001; ret
    let code = [0x90, 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0x83, 0xf8, 0x09, 0x7c, 0xf5, 0xc3];
    assert_eq!(found(&code, &[0x1001, 0x1004], &[0x1001]), Ok(vec![0x1007]));
    // The comparison is the copy's too.
    assert_eq!(found(&code, &[0x1001, 0x1004, 0x1007, 0x100a], &[0x1001]), Err(Refusal::Reenters));
    // What was hoisted out of the loop begins nothing and ends nothing.
    assert_eq!(found(&code, &[0x1000, 0x1001, 0x1004], &[0x1001]), Ok(vec![0x1007]));
}

#[test]
fn a_function_that_returns_from_within_is_refused() {
    let code = [0x90, 0x48, 0xff, 0xc0, 0xc3];
    assert_eq!(found(&code, &[0x1001, 0x1004], &[0x1001]), Err(Refusal::Returns));
}

#[test]
fn copies_that_are_executed_meanwhile_are_told_from_each_other_by_nothing() {
    // nop; [a]; {b}; [a]; {b}; ret
    let code = Bytes::new(0x1000, &[0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3]);
    let graph = code.graph().unwrap();
    let of = |copy: &[Node]| {
        let entries = BTreeSet::from([copy[0]]);
        let taken = entries.clone();
        exits(&code, &graph, &copy.iter().copied().collect(), &entries, &taken).unwrap()
    };
    assert!(!of(&[1, 3]).is_apart_from(&of(&[2, 4])));
    assert_eq!(of(&[1, 3]).during, BTreeSet::from([1, 2, 3]));
    let (first, second) = (of(&[1]), of(&[3]));
    assert!(first.is_apart_from(&second));
}

#[test]
fn what_follows_a_jump_that_can_t_be_read_is_not_known() {
    // jmp rax; nop; nop; ret
    let code = [0x90, 0xff, 0xe0, 0x90, 0x90, 0xc3];
    assert_eq!(found(&code, &[0x1003], &[0x1003]), Err(Refusal::Unknown));
}

proptest::proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever way control takes, one exit runs in each execution, and none outside of one.
    #[test]
    fn each_execution_has_one_end(
        code in proptest::collection::vec(
            prop_oneof![
                5 => Just(vec![0x90u8]),
                3 => (0i8..20).prop_map(|by| vec![0x74, (by - 10).cast_unsigned()]),
                1 => (0i8..20).prop_map(|by| vec![0xeb, (by - 10).cast_unsigned()]),
                1 => Just(vec![0xc3]),
            ],
            4..40,
        ),
        copy in proptest::collection::vec(0usize..40, 1..12),
        ways in proptest::collection::vec(proptest::num::u8::ANY, 200),
    ) {
        let bytes: Vec<u8> = code.concat();
        let code = Bytes::new(0x1000, &bytes);
        let Ok(graph) = code.graph() else { return Ok(()) };
        let copy: BTreeSet<Node> = copy.into_iter().filter(|node| *node < graph.len()).collect();
        let entries: BTreeSet<Node> =
            crate::plan::entries::entries(&graph, &copy, |_| true).into_iter().collect();
        let Ok(exits) = exits(&code, &graph, &copy, &entries, &entries) else { return Ok(()) };
        let mut at = graph.entry();
        let mut open = false;
        for way in ways {
            if exits.exits.iter().any(|exit| exit.armed == at) {
                prop_assert!(open, "an end at {:#x} without a beginning", graph.address(at));
                open = false;
            }
            if entries.contains(&at) {
                prop_assert!(!open, "a beginning at {:#x} without an end", graph.address(at));
                open = true;
            }
            prop_assert!(!open || exits.during.contains(&at), "left at {:#x}", graph.address(at));
            let to = graph.successors(at);
            if to.is_empty() {
                break;
            }
            at = to[usize::from(way) % to.len()];
        }
    }
}
