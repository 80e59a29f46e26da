//! Where the calls of a function end: its `RET` instructions and jumps to other functions, and the places in the runtime
//! where calls end without either.
//!
//! A `RET` is one of the instructions that the kernel single-steps under a uprobe. If the way to it is straight, an
//! instruction before it that the kernel emulates stands for it, as long as nothing between the two writes a result.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register, UsedMemory};
use riptrace_common::wire::{
    event::{Location, Trigger},
    number::Address,
};

use super::{
    CallRole,
    code::{CodeReader, FlowGraph, Node, bytes_of, is_emulated, text_of},
    fast::Stretch,
    inlined::{self, Exits, Refusal},
    lines::{InstructionLines, LineSource, is_wrapper},
    location::LocationError,
    sites::{Resolved, Site},
};
use crate::dwarf::{Function, Place};

/// Instructions before a `RET` that are looked at for a cheap one, on each way to it.
const MAX_DISTANCE: usize = 32;
/// Cheap instructions that may stand for one `RET`: one on each way to it.
const MAX_STANDING_FOR: usize = 16;

/// The function in which a recovered panic leaves the frames that it passed through.
const RECOVERY: &str = "runtime.recovery";
/// The function that ends its goroutine.
const GOEXIT: &str = "runtime.Goexit";

/// An address at which a call ends.
#[derive(Clone, Debug)]
pub struct End {
    /// The address.
    pub site: Site,
    /// How.
    pub role: CallRole,
}

/// How the calls of a location are followed to their end.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// Addresses of those entries whose calls are followed.
    pub entries: BTreeSet<u64>,
    /// Where they end.
    pub ends: Vec<End>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Finds the ends of the functions whose entries were found. `results`: where the results of a function are when it
/// returns, which decides what may stand for a `RET`; `None`: not known.
pub fn ends(
    lines: &dyn LineSource,
    code: &dyn CodeReader,
    resolved: &Resolved,
    results: &dyn Fn(&Arc<Function>) -> Option<Vec<Place>>,
) -> Result<Calls, LocationError> {
    let mut calls = inlined_ends(lines, code, resolved)?;
    let entries: BTreeSet<u64> = resolved.sites.iter().map(|site| site.link_address).collect();
    for entry in resolved.sites.iter().filter(|site| site.trigger == Trigger::Entry) {
        let Some(function) = &entry.function else { continue };
        if entry.instance.is_some() {
            continue;
        }
        let name = &function.name;
        let graph = match FlowGraph::of(code, &function.ranges, function.entry) {
            Ok(graph) => graph,
            Err(error) => {
                calls.warnings.push(format!("returns of {name} are left out: {error}"));
                continue;
            }
        };
        let rows = lines.rows_of(function)?;
        let instructions = InstructionLines::of(&graph, function, &rows);
        let found = Found::of(code, &graph, results(function).as_deref());
        for node in found.beyond {
            calls.warnings.push(format!(
                "{name} may be left by `{}` at {:#x}, which is not traced: those calls have no return",
                text_of(graph.instruction(node)),
                graph.address(node)
            ));
        }
        if found.ends.is_empty() {
            calls.warnings.push(format!("{name} has no return: it ends by a panic, or never"));
        }
        // An empty function is left by the instruction at which it is entered.
        if found.ends.iter().any(|&(node, ..)| entries.contains(&graph.address(node))) {
            calls.warnings.push(format!("{name} is a return and nothing else: only its entries are traced"));
            continue;
        }
        calls.entries.insert(entry.link_address);
        for (node, stands_for, role) in found.ends {
            let row = instructions.row(stands_for);
            let location = Location {
                file: row.map_or_else(|| Arc::clone(&entry.location.file), |row| Arc::clone(&row.file)),
                line: row.map_or(entry.location.line, |row| row.line),
                function: Arc::clone(name),
                pc: Address(graph.address(node)),
                inlined_into: None,
            };
            calls.ends.push(end(code, &graph, function, node, (location, Trigger::Return, role)));
        }
    }
    Ok(calls)
}

/// Finds the ends of the copies whose entries were found.
fn inlined_ends(
    lines: &dyn LineSource,
    code: &dyn CodeReader,
    resolved: &Resolved,
) -> Result<Calls, LocationError> {
    let mut calls = Calls::default();
    let mut refused: BTreeMap<String, BTreeSet<(Arc<str>, u64)>> = BTreeMap::new();
    let mut by_function: BTreeMap<u64, BTreeMap<usize, Vec<&Site>>> = BTreeMap::new();
    for entry in resolved.sites.iter().filter(|site| site.trigger == Trigger::Entry) {
        let (Some(function), Some(instance)) = (&entry.function, entry.instance) else { continue };
        by_function.entry(function.entry).or_default().entry(instance).or_default().push(entry);
    }
    for copies in by_function.values() {
        let Some(function) = copies.values().flatten().find_map(|site| site.function.as_ref()) else {
            continue;
        };
        let graph = FlowGraph::of(code, &function.ranges, function.entry).ok();
        let found = graph.as_ref().map(|graph| ends_of_copies(code, graph, function, copies, resolved));
        for (instance, sites) in copies {
            let of_copy = found.as_ref().and_then(|found| found.get(instance).cloned());
            let of_copy = of_copy.unwrap_or(Err(Refusal::Unknown));
            let (Ok(of_copy), Some(graph), Some(&first)) = (&of_copy, &graph, sites.first()) else {
                let reason = of_copy.err().map_or_else(String::new, |refusal| refusal.to_string());
                let places = sites.iter().map(|site| (Arc::clone(&function.name), site.link_address));
                refused.entry(reason).or_default().extend(places);
                continue;
            };
            calls.entries.extend(sites.iter().map(|site| site.link_address));
            let rows = lines.rows_of(function)?;
            let instructions = InstructionLines::of(graph, function, &rows);
            for exit in &of_copy.exits {
                let row = instructions.row(exit.last);
                let location = Location {
                    file: row.map_or_else(|| Arc::clone(&first.location.file), |row| Arc::clone(&row.file)),
                    line: row.map_or(first.location.line, |row| row.line),
                    pc: Address(graph.address(exit.armed)),
                    ..first.location.clone()
                };
                let how = (location, Trigger::Return, CallRole::Return);
                let mut end = end(code, graph, function, exit.armed, how);
                end.site.instance = Some(*instance);
                end.site.scope_address = first.scope_address;
                calls.ends.push(end);
            }
        }
    }
    for (reason, places) in refused {
        let count = places.len();
        let into: BTreeSet<Arc<str>> = places.into_iter().map(|(name, _)| name).collect();
        let into: Vec<&str> = into.iter().map(AsRef::as_ref).take(4).collect();
        calls.warnings.push(format!(
            "inlined at {count} {} (in {}{}) where the entries are traced, and the returns are not: {reason}; `go build \
             -gcflags=-l` keeps it a function",
            if count == 1 { "place" } else { "places" },
            into.join(", "),
            if count > into.len() { ", …" } else { "" }
        ));
    }
    Ok(calls)
}

/// The ends of the copies in one function, by their instances.
fn ends_of_copies(
    code: &dyn CodeReader,
    graph: &FlowGraph,
    function: &Function,
    copies: &BTreeMap<usize, Vec<&Site>>,
    resolved: &Resolved,
) -> BTreeMap<usize, Result<Exits, Refusal>> {
    let nodes = |sites: &[&Site]| -> BTreeSet<Node> {
        sites.iter().filter_map(|site| graph.at(site.link_address)).collect()
    };
    let taken: BTreeSet<Node> =
        resolved.sites.iter().filter_map(|site| graph.at(site.link_address)).collect();
    let traced_itself = resolved
        .sites
        .iter()
        .filter(|site| site.instance.is_none())
        .any(|site| site.function.as_ref().is_some_and(|other| other.entry == function.entry));
    let mut found: BTreeMap<usize, Result<Exits, Refusal>> = BTreeMap::new();
    for (&instance, sites) in copies {
        let ranges = function.inlined.get(instance).map_or(&[][..], |copy| &copy.ranges);
        let copy: BTreeSet<Node> = (0..graph.len())
            .filter(|&node| ranges.iter().any(|range| range.contains(&graph.address(node))))
            .collect();
        let of_copy = match traced_itself {
            true => Err(Refusal::Interleaves),
            false => inlined::exits(code, graph, &copy, &nodes(sites), &taken),
        };
        found.insert(instance, of_copy);
    }
    let apart = |instance: usize, exits: &Exits| {
        let others = found.iter().filter(|(other, _)| **other != instance);
        others.filter_map(|(_, other)| other.as_ref().ok()).all(|other| exits.is_apart_from(other))
    };
    let mixed: Vec<usize> = found
        .iter()
        .filter(|(instance, exits)| exits.as_ref().is_ok_and(|exits| !apart(**instance, exits)))
        .map(|(instance, _)| *instance)
        .collect();
    for instance in mixed {
        found.insert(instance, Err(Refusal::Interleaves));
    }
    found
}

/// Where the runtime ends calls that have no return: behind panics that are recovered, and in `runtime.Goexit`.
pub fn unwinding(lines: &dyn LineSource, code: &dyn CodeReader) -> Result<Calls, LocationError> {
    let mut calls = Calls::default();
    for (name, callee, role, trigger) in [
        (RECOVERY, "runtime.gogo", CallRole::Recovery, Trigger::Panic),
        (GOEXIT, "runtime.goexit1", CallRole::Goexit, Trigger::Goexit),
    ] {
        let before = calls.ends.len();
        for function in lines.functions_matching(name)?.into_iter().flat_map(|found| found.functions) {
            if &*function.name != name || is_wrapper(&function) {
                continue;
            }
            let Ok(graph) = FlowGraph::of(code, &function.ranges, function.entry) else { continue };
            for node in 0..graph.len() {
                let instruction = graph.instruction(node);
                let called = (instruction.flow_control() == FlowControl::Call)
                    .then(|| code.function_name(instruction.near_branch_target()))
                    .flatten();
                if called.is_some_and(|called| called.strip_suffix(".abi0").unwrap_or(called) == callee) {
                    let location = Location {
                        file: function.decl_file.clone().unwrap_or_default(),
                        line: function.decl_line.unwrap_or(0),
                        function: Arc::clone(&function.name),
                        pc: Address(graph.address(node)),
                        inlined_into: None,
                    };
                    calls.ends.push(end(code, &graph, &function, node, (location, trigger, role)));
                }
            }
        }
        // A program that never calls `runtime.Goexit` does not have it.
        if calls.ends.len() == before && role == CallRole::Recovery {
            calls.warnings.push(format!(
                "{name} is not as this version of RipTrace knows it: calls that a panic ends stay open"
            ));
        }
    }
    Ok(calls)
}

fn end(
    code: &dyn CodeReader,
    graph: &FlowGraph,
    function: &Arc<Function>,
    node: Node,
    (location, trigger, role): (Location, Trigger, CallRole),
) -> End {
    let (link_address, instruction) = (graph.address(node), graph.instruction(node));
    let site = Site {
        link_address,
        location,
        trigger,
        function: Some(Arc::clone(function)),
        instance: None,
        scope_address: link_address,
        instruction: text_of(instruction),
        fast: bytes_of(code, instruction).is_some_and(is_emulated),
        entry_address: link_address,
        branch: None,
        stretch: Stretch::of_one(code, graph, node),
        candidates: Vec::new(),
        choice: Arc::from(""),
    };
    End { site, role }
}

/// How a function can be left.
struct Found {
    /// The instruction that is armed, the one that it stands for, and how the call ends there.
    ends: Vec<(Node, Node, CallRole)>,
    /// Jumps of which it is not known whether they leave the function.
    beyond: Vec<Node>,
}

impl Found {
    fn of(code: &dyn CodeReader, graph: &FlowGraph, results: Option<&[Place]>) -> Self {
        let mut found = Self { ends: Vec::new(), beyond: Vec::new() };
        let mut factory = InstructionInfoFactory::new();
        for node in 0..graph.len() {
            let instruction = graph.instruction(node);
            match instruction.flow_control() {
                FlowControl::Return => {
                    match cheaper(code, graph, node, results, &mut factory) {
                        Some(nodes) => {
                            found.ends.extend(nodes.into_iter().map(|armed| (armed, node, CallRole::Return)));
                        }
                        None => found.ends.push((node, node, CallRole::Return)),
                    };
                }
                FlowControl::UnconditionalBranch if graph.at(instruction.near_branch_target()).is_none() => {
                    found.ends.push((node, node, CallRole::TailJump));
                }
                FlowControl::ConditionalBranch if graph.at(instruction.near_branch_target()).is_none() => {
                    found.beyond.push(node);
                }
                // A jump through a register or a table; one within the function has its targets there.
                FlowControl::IndirectBranch if graph.successors(node).is_empty() => {
                    found.ends.push((node, node, CallRole::TailJump));
                }
                _ => {}
            }
        }
        found
    }
}

/// Emulated instructions of which exactly one runs each time that `ret` does, with the results in place.
fn cheaper(
    code: &dyn CodeReader,
    graph: &FlowGraph,
    ret: Node,
    results: Option<&[Place]>,
    factory: &mut InstructionInfoFactory,
) -> Option<Vec<Node>> {
    let results = results?;
    let mut standing = Vec::new();
    // Instructions that lead to `ret` and nowhere else, and how far from it they are.
    let mut work = vec![(ret, 0)];
    let mut seen = BTreeSet::new();
    while let Some((node, distance)) = work.pop() {
        // A way from outside, a loop, or a long way: something of it would be missed or counted twice.
        if !seen.insert(node)
            || graph.roots().contains(&node)
            || graph.predecessors(node).is_empty()
            || distance > MAX_DISTANCE
        {
            return None;
        }
        for &before in graph.predecessors(node) {
            if !graph.is_reachable(before) {
                continue;
            }
            let instruction = graph.instruction(before);
            let only_here = graph.successors(before) == [node];
            // A call may panic or take long: it is not over when it begins.
            let calls = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
            if !only_here || calls || may_fault_or_write(instruction, results, factory) {
                return None;
            }
            if bytes_of(code, instruction).is_some_and(is_emulated) {
                standing.push(before);
                if standing.len() > MAX_STANDING_FOR {
                    return None;
                }
            } else {
                work.push((before, distance + 1));
            }
        }
    }
    standing.sort_unstable();
    (!standing.is_empty()).then_some(standing)
}

/// Whether the instruction could trap into a panic.
pub(super) fn may_fault(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> bool {
    let on_stack = |memory: &UsedMemory| matches!(memory.base(), Register::RSP | Register::RBP);
    // A division can trap.
    matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv)
        || factory.info(instruction).used_memory().iter().any(|memory| !on_stack(memory))
}

/// Whether the instruction writes a result, or could trap into a panic before the function returns. The way out of the
/// frame (`add rsp, N`, `pop rbp`) does neither.
fn may_fault_or_write(
    instruction: &Instruction,
    results: &[Place],
    factory: &mut InstructionInfoFactory,
) -> bool {
    if may_fault(instruction, factory) {
        return true;
    }
    let info = factory.info(instruction);
    if info.used_memory().iter().any(|memory| writes(memory.access())) {
        return true;
    }
    info.used_registers().iter().any(|used| {
        writes(used.access())
            && results.iter().any(|place| match *place {
                Place::Register(number) => general(number) == Some(used.register().full_register()),
                // Not read by the kernel side.
                _ => false,
            })
    })
}

fn writes(access: OpAccess) -> bool {
    !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

/// The register of a DWARF number (System V ABI, AMD64 supplement, figure 3.36).
fn general(number: u16) -> Option<Register> {
    const REGISTERS: [Register; 16] = [
        Register::RAX,
        Register::RDX,
        Register::RCX,
        Register::RBX,
        Register::RSI,
        Register::RDI,
        Register::RBP,
        Register::RSP,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R14,
        Register::R15,
    ];
    REGISTERS.get(usize::from(number)).copied()
}
