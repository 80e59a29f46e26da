use super::*;

/// Where the calls of the test code go.
pub(crate) const MORESTACK: u64 = 0x9000;
pub(crate) const PANIC_INDEX: u64 = 0x9100;

/// Machine code at an address, and a jump table.
pub(crate) struct Bytes {
    pub(crate) start: u64,
    pub(crate) code: Vec<u8>,
    pub(crate) table: (u64, Vec<u64>),
}

impl Bytes {
    pub(crate) fn new(start: u64, code: &[u8]) -> Self {
        Self { start, code: code.to_vec(), table: (0, Vec::new()) }
    }

    pub(crate) fn graph(&self) -> Result<FlowGraph, CodeError> {
        let range = self.start..self.start + self.code.len() as u64;
        FlowGraph::of(self, std::slice::from_ref(&range), self.start)
    }
}

impl CodeReader for Bytes {
    fn code(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        let start = usize::try_from(link_address.checked_sub(self.start)?).ok()?;
        self.code.get(start..start.checked_add(bytes)?)
    }

    fn pointer(&self, link_address: u64) -> Option<u64> {
        let at = link_address.checked_sub(self.table.0)? / 8;
        self.table.1.get(usize::try_from(at).ok()?).copied()
    }

    fn function_name(&self, link_address: u64) -> Option<&str> {
        match link_address {
            MORESTACK => Some("runtime.morestack_noctxt.abi0"),
            PANIC_INDEX => Some("runtime.panicIndex"),
            _ => None,
        }
    }

    fn function_names(&self) -> Vec<Arc<str>> {
        Vec::new()
    }
}

#[test]
fn padding_behind_a_call_that_never_returns_is_not_reached() {
    // call runtime.panicIndex; nop; int3
    let code = Bytes::new(0x90f0, &[0xe8, 0x0b, 0, 0, 0, 0x90, 0xcc]);
    let graph = code.graph().unwrap();
    assert_eq!(graph.roots(), [graph.entry()]);
    assert!(!graph.is_reachable(graph.at(0x90f5).unwrap()));
}

#[test]
fn code_without_predecessors_is_where_a_recovered_panic_lands() {
    // ret; call 0x10 (runtime.deferreturn); ret
    let code = Bytes::new(0x1000, &[0xc3, 0xe8, 0x0a, 0xf0, 0xff, 0xff, 0xc3]);
    let graph = code.graph().unwrap();
    assert_eq!(graph.roots(), [0, graph.at(0x1001).unwrap()]);
}

#[test]
fn a_jump_table_is_followed_as_long_as_it_names_instructions() {
    // lea rcx, [rip+0x1000]; jmp [rcx+rax*8]; nop; ret; nop; ret
    let bytes = [0x48, 0x8d, 0x0d, 0, 0x10, 0, 0, 0xff, 0x24, 0xc1, 0x90, 0xc3, 0x90, 0xc3];
    let mut code = Bytes::new(0x1000, &bytes);
    code.table = (0x2007, vec![0x100a, 0x100c, 0x1001]);
    let targets = |graph: &FlowGraph| -> Vec<u64> {
        graph.successors(1).iter().map(|&node| graph.address(node)).collect()
    };
    assert_eq!(targets(&code.graph().unwrap()), [0x100a, 0x100c]);
    // A table that can't be read: what nothing else leads to may be its targets.
    code.table = (0, Vec::new());
    let graph = code.graph().unwrap();
    assert_eq!(graph.roots(), [0]);
    assert!(graph.is_reachable(graph.at(0x100d).unwrap()));
}

#[test]
fn bytes_that_are_no_code_are_an_error() {
    assert_eq!(
        Bytes::new(0x1000, &[0x90, 0x06]).graph().unwrap_err(),
        CodeError::Undecodable { address: 0x1001 }
    );
    assert!(Bytes::new(0x1000, &[]).graph().is_err());
}

#[test]
fn only_what_the_kernel_emulates_is_fast() {
    for (bytes, fast) in [
        (&[0x55][..], true),
        (&[0x41, 0x57], true),
        (&[0xe8, 0, 0, 0, 0], true),
        (&[0x0f, 0x86, 0, 0, 0, 0], true),
        (&[0x76, 0], true),
        (&[0xeb, 0], true),
        (&[0x90], true),
        (&[0x66, 0x90], true),
        (&[0x0f, 0x1f, 0x00], false),
        (&[0x48, 0x89, 0xe5], false),
        (&[0xc3], false),
        (&[0xff, 0xd0], false),
        (&[0x66, 0xe8, 0, 0], false),
        (&[], false),
    ] {
        assert_eq!(is_emulated(bytes), fast, "{bytes:x?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_give_a_graph_or_an_error(code in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        if let Ok(graph) = Bytes::new(0x1000, &code).graph() {
            for node in 0..graph.len() {
                for &next in graph.successors(node) {
                    assert!(graph.predecessors(next).contains(&node));
                }
            }
        }
    }
}
