//! Where an execution of a line begins: the entries of a set of instructions, without the ones that only continue it.

use std::collections::BTreeSet;

use iced_x86::{FlowControl, Mnemonic};

use super::code::{CodeReader, FlowGraph, Node, grows_stack};

/// Entries that are compared with each other; a line with more keeps them all.
const MAX_COMPARED: usize = 64;
/// Instructions that are looked at for the stack check.
const MAX_PROLOGUE: usize = 64;

/// The instructions by which control enters `code` from outside, such that each execution passes exactly one of them.
///
/// * An entry is an instruction of the code with a predecessor outside, or where control enters the function.
/// * `starts_statement`: the line table recommends the instruction as a place for a breakpoint. An entry that neither
///   leads to such an instruction within the code, nor joins or continues what lies behind one, is not the line's
///   beginning: registers are spilled and constants loaded for a line in other lines' places (cmd/compile marks those
///   `NotStmt`). The jump by which a loop is entered joins the code of the loop's condition, whose mark may lie on the
///   third clause. A line without any marks keeps them all.
/// * An entry that always leads on to another one within the code would count its executions twice.
/// * An entry is redundant if it can't be reached from the function's beginning, or from itself, without passing
///   another one that is kept: the second half of a call that is written over several lines. Both the first clause of a
///   `for` statement and its third stay: each iteration executes the line again.
pub(crate) fn entries(
    graph: &FlowGraph,
    code: &BTreeSet<Node>,
    starts_statement: impl Fn(Node) -> bool,
) -> Vec<Node> {
    let enters = |node: Node| {
        graph.roots().contains(&node)
            || graph
                .predecessors(node)
                .iter()
                .any(|before| graph.is_reachable(*before) && !code.contains(before))
    };
    let mut kept: Vec<Node> =
        code.iter().copied().filter(|&node| graph.is_reachable(node) && enters(node)).collect();
    let statements: Vec<Node> =
        code.iter().copied().filter(|&node| graph.is_reachable(node) && starts_statement(node)).collect();
    if !statements.is_empty() {
        let of_statement = within(graph, code, statements.iter().copied(), |_| false);
        kept.retain(|&entry| {
            within(graph, code, [entry], |_| false).iter().any(|node| of_statement.contains(node))
        });
    }
    if kept.len() > MAX_COMPARED {
        return kept;
    }
    for candidate in kept.clone() {
        if !graph.roots().contains(&candidate) && always_meets_another(graph, code, candidate, &kept) {
            kept.retain(|&entry| entry != candidate);
        }
    }
    // Later entries first: of two halves the second is the one that continues.
    for candidate in kept.clone().into_iter().rev() {
        if graph.roots().contains(&candidate) || kept.len() == 1 {
            continue;
        }
        let starts = graph.roots().iter().chain(graph.successors(candidate)).copied();
        let others = |node: Node| node != candidate && kept.contains(&node);
        if !graph.reaches(starts, candidate, others) {
            kept.retain(|&entry| entry != candidate);
        }
    }
    kept
}

/// What runs from `starts` on (these included) without leaving `code`, not going on behind what `stops` holds.
fn within(
    graph: &FlowGraph,
    code: &BTreeSet<Node>,
    starts: impl IntoIterator<Item = Node>,
    stops: impl Fn(Node) -> bool,
) -> BTreeSet<Node> {
    let mut seen = BTreeSet::new();
    let mut work: Vec<Node> = starts.into_iter().collect();
    while let Some(node) = work.pop() {
        if seen.insert(node) && !stops(node) {
            work.extend(graph.successors(node).iter().filter(|next| code.contains(next)));
        }
    }
    seen
}

/// Whether each execution that begins at `entry` comes by another kept entry before it leaves the code.
fn always_meets_another(graph: &FlowGraph, code: &BTreeSet<Node>, entry: Node, kept: &[Node]) -> bool {
    let another = |node: Node| node != entry && kept.contains(&node);
    let passed = within(graph, code, [entry], another);
    passed.iter().copied().any(another)
        && passed.iter().all(|&node| {
            another(node)
                || (!graph.successors(node).is_empty()
                    && graph.successors(node).iter().all(|next| code.contains(next)))
        })
}

/// The first instruction behind the stack check, or the function's first one if it has none: executed once in each call,
/// while what lies before is executed again after the stack has grown.
///
/// The check is one conditional branch or, in functions with large frames, two (cmd/internal/obj/x86/obj6.go,
/// `stacksplit`), to code that calls `runtime.morestack` and jumps back to the function's beginning. `prologue_end` is
/// taken instead if only straight code lies between.
pub(crate) fn function_entry(
    reader: &dyn CodeReader,
    graph: &FlowGraph,
    prologue_end: impl Fn(Node) -> bool,
) -> Node {
    let entry = graph.entry();
    let mut behind_check = entry;
    let mut at = entry;
    for _ in 0..MAX_PROLOGUE {
        let instruction = graph.instruction(at);
        let Some(next) = graph.at(instruction.next_ip()) else { break };
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::ConditionalBranch => {
                let target = graph.at(instruction.near_branch_target());
                if !target.is_some_and(|target| leads_to_growth(reader, graph, target)) {
                    break;
                }
                behind_check = next;
            }
            _ => break,
        }
        at = next;
    }
    let mut at = behind_check;
    for _ in 0..MAX_PROLOGUE {
        if prologue_end(at) && at != entry {
            return at;
        }
        if graph.instruction(at).flow_control() != FlowControl::Next {
            break;
        }
        let Some(next) = graph.at(graph.instruction(at).next_ip()) else { break };
        if graph.predecessors(next) != [at] {
            break;
        }
        at = next;
    }
    behind_check
}

/// Whether straight code from here on calls `runtime.morestack` and jumps to the function's beginning.
fn leads_to_growth(reader: &dyn CodeReader, graph: &FlowGraph, from: Node) -> bool {
    let mut at = from;
    let mut called = false;
    for _ in 0..MAX_PROLOGUE {
        let instruction = graph.instruction(at);
        match instruction.flow_control() {
            FlowControl::Call => {
                match reader.function_name(instruction.near_branch_target()) {
                    Some(name) if !grows_stack(name) => return false,
                    // Without names the shape has to do.
                    Some(_) | None => called = true,
                }
            }
            FlowControl::UnconditionalBranch => {
                let target = graph.at(instruction.near_branch_target());
                if called {
                    return target == Some(graph.entry());
                }
                // The check of a large frame may jump to the call by way of another jump.
                match target {
                    Some(target) => {
                        at = target;
                        continue;
                    }
                    None => return false,
                }
            }
            FlowControl::Next => {}
            _ => return false,
        }
        if instruction.mnemonic() == Mnemonic::Ret {
            return false;
        }
        match graph.at(instruction.next_ip()) {
            Some(next) => at = next,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests;
