//! Where a call ends that was inlined: control leaves its copy for good.
//!
//! A copy has no `RET`. Its instructions may lie in several runs, with the caller's between them, and what comes behind it
//! may be reached from elsewhere. An execution of the copy begins at its entry. It lasts as long as an instruction of the
//! copy can still be reached without passing an entry again, and ends on an edge to where none can. Such an edge is
//! armed at its target, if nothing but these edges leads there, or at its source, if nothing but ends follows it.
//! Where neither holds, the copy is not followed to its end.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, InstructionInfoFactory};

use super::{
    code::{CodeReader, FlowGraph, Node, bytes_of, is_emulated},
    returns::may_fault,
};

/// Instructions of the function that a copy lies in; a larger one's copies are not followed.
const MAX_NODES: usize = 200_000;

/// Where deferred functions run: behind a recovered panic too, which may have left a copy midway.
const RUNS_DEFERRED: &str = "runtime.deferreturn";

/// An address at which executions of a copy end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exit {
    /// What is armed.
    pub(super) armed: Node,
    /// The last instruction of the execution.
    pub(super) last: Node,
}

/// How executions of a copy end.
#[derive(Clone, Debug, Default)]
pub(super) struct Exits {
    /// One of these runs once in each execution that no panic ends.
    pub(super) exits: Vec<Exit>,
    /// What runs during executions.
    pub(super) during: BTreeSet<Node>,
}

/// Why the ends of a copy can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// A panic that the function itself recovers would leave the copy unseen.
    #[error("the function around it has deferred calls, which may recover a panic")]
    Defers,
    /// The beginning runs again without an end.
    #[error("its code goes on at its own beginning")]
    Reenters,
    /// The whole function is left from within.
    #[error("the function around it returns from within its code")]
    Returns,
    /// Neither side of an edge is the copy's own.
    #[error("no instruction runs exactly when it ends")]
    Merges,
    /// Another copy of the same function is entered or left meanwhile, or the function around it is traced itself.
    #[error("other calls that are traced are executed meanwhile in the same frame")]
    Interleaves,
    /// Its code is not understood.
    #[error("the machine code of the function around it is not understood")]
    Unknown,
    /// Too large to look at.
    #[error("the function around it is too large")]
    TooLarge,
}

impl Exits {
    /// What belongs to the executions of this copy and must not to those of another one.
    fn nodes(&self) -> impl Iterator<Item = Node> {
        self.during.iter().copied().chain(self.exits.iter().map(|exit| exit.armed))
    }

    /// Whether an execution of the one copy can be told from one of the other in the same frame.
    pub(super) fn is_apart_from(&self, other: &Self) -> bool {
        let of_other: BTreeSet<Node> = other.nodes().collect();
        !self.nodes().any(|node| of_other.contains(&node))
    }
}

/// Finds where the executions of a copy end that begin at `entries`. `taken`: what can't be armed, since something else is.
pub(super) fn exits(
    code: &dyn CodeReader,
    graph: &FlowGraph,
    copy: &BTreeSet<Node>,
    entries: &BTreeSet<Node>,
    taken: &BTreeSet<Node>,
) -> Result<Exits, Refusal> {
    if graph.len() > MAX_NODES {
        return Err(Refusal::TooLarge);
    }
    if graph.has_unknown_jumps() {
        return Err(Refusal::Unknown);
    }
    if runs_deferred(code, graph) {
        return Err(Refusal::Defers);
    }
    let during = during(graph, copy, entries);
    let mut edges: BTreeSet<(Node, Node)> = BTreeSet::new();
    for &node in &during {
        let flow = graph.instruction(node).flow_control();
        let to = graph.successors(node);
        let jumps = matches!(flow, FlowControl::UnconditionalBranch | FlowControl::IndirectBranch);
        let leaves = graph.instruction(node).near_branch_target();
        let beyond = flow == FlowControl::ConditionalBranch && graph.at(leaves).is_none();
        if flow == FlowControl::Return || beyond || (jumps && to.is_empty()) {
            return Err(Refusal::Returns);
        }
        if to.iter().any(|next| entries.contains(next)) {
            return Err(Refusal::Reenters);
        }
        edges.extend(to.iter().filter(|next| !during.contains(next)).map(|&next| (node, next)));
    }
    let mut factory = InstructionInfoFactory::new();
    let mut may_be_source = |node: Node| {
        let instruction = graph.instruction(node);
        let calls = matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::IndirectBranch
        );
        !taken.contains(&node)
            && !entries.contains(&node)
            && !calls
            && graph.successors(node).iter().all(|next| !during.contains(next))
            && !may_fault(instruction, &mut factory)
    };
    let may_be_target = |node: Node| {
        !taken.contains(&node)
            && !graph.roots().contains(&node)
            && graph
                .predecessors(node)
                .iter()
                .all(|before| !graph.is_reachable(*before) || during.contains(before))
    };
    let is_cheap = |node: Node| bytes_of(code, graph.instruction(node)).is_some_and(is_emulated);
    let mut by_source: BTreeSet<Node> = BTreeSet::new();
    let mut by_target: BTreeSet<Node> = BTreeSet::new();
    // An edge that is armed at its source is not armed at its target too, so that all edges to that target change sides.
    let mut at_source: BTreeSet<Node> = edges
        .iter()
        .map(|&(_, target)| target)
        .filter(|&target| {
            let mut sources = edges.iter().filter(|edge| edge.1 == target).map(|edge| edge.0);
            !may_be_target(target)
                || (!is_cheap(target) && sources.all(|node| is_cheap(node) && may_be_source(node)))
        })
        .collect();
    loop {
        let before = at_source.len();
        by_source.clear();
        by_source.extend(edges.iter().filter(|edge| at_source.contains(&edge.1)).map(|edge| edge.0));
        at_source.extend(edges.iter().filter(|edge| by_source.contains(&edge.0)).map(|edge| edge.1));
        if at_source.len() == before {
            break;
        }
    }
    for &(source, target) in &edges {
        if !at_source.contains(&target) {
            by_target.insert(target);
        } else if !may_be_source(source) {
            return Err(Refusal::Merges);
        }
    }
    let last_before = |target: Node| edges.iter().find(|edge| edge.1 == target).map_or(target, |edge| edge.0);
    let mut exits: Vec<Exit> = by_source.iter().map(|&node| Exit { armed: node, last: node }).collect();
    exits.extend(by_target.iter().map(|&node| Exit { armed: node, last: last_before(node) }));
    exits.sort_unstable();
    Ok(Exits { exits, during })
}

/// What can run from an entry on, as long as the copy's code can still be reached without passing an entry again.
fn during(graph: &FlowGraph, copy: &BTreeSet<Node>, entries: &BTreeSet<Node>) -> BTreeSet<Node> {
    let is_entry = |node: &Node| entries.contains(node);
    // What runs without an entry before it is no part of an execution: registers that are loaded in other lines' places.
    let mut without = BTreeSet::new();
    let mut work: Vec<Node> = graph.roots().to_vec();
    while let Some(node) = work.pop() {
        if !is_entry(&node) && without.insert(node) {
            work.extend(graph.successors(node));
        }
    }
    let own = copy.iter().copied().filter(|node| graph.is_reachable(*node) && !without.contains(node));
    let mut leads_on = BTreeSet::new();
    let mut work: Vec<Node> = own.chain(entries.iter().copied()).collect();
    while let Some(node) = work.pop() {
        if leads_on.insert(node) && !is_entry(&node) {
            work.extend(graph.predecessors(node).iter().filter(|before| graph.is_reachable(**before)));
        }
    }
    let mut during = BTreeSet::new();
    let mut work: Vec<Node> = entries.iter().copied().collect();
    while let Some(node) = work.pop() {
        if during.insert(node) {
            let further = |next: &&Node| leads_on.contains(next) && !is_entry(next);
            work.extend(graph.successors(node).iter().filter(further));
        }
    }
    during
}

fn runs_deferred(code: &dyn CodeReader, graph: &FlowGraph) -> bool {
    (0..graph.len()).any(|node| {
        let instruction = graph.instruction(node);
        instruction.flow_control() == FlowControl::Call
            && code.function_name(instruction.near_branch_target()) == Some(RUNS_DEFERRED)
    })
}

#[cfg(test)]
mod tests;
