//! From a location to the addresses that are armed for it.
//!
//! Lines and functions come from a [`LineSource`] (debug data, or the runtime's own table), machine code from a
//! [`CodeReader`]. A location is many places: every function whose code holds the line, every copy that was inlined, every
//! instantiation of a generic function gets its sites (`docs/`, "Location → sites").

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use riptrace_common::wire::{
    event::{Location, Trigger},
    number::Address,
};

pub use super::{
    code::{CodeError, CodeReader},
    lines::{LineSource, lines_with_code, reason_in_source},
    location::{LocationError, LocationRequest, LocationSyntaxError},
};
use super::{
    code::{FlowGraph, Node, bytes_of, is_emulated, text_of},
    entries::{entries, function_entry},
    fast::{Branch, Candidate, Choice, NonNil, Stretch, Way, Ways},
    lines::{InstructionLines, Owner, is_wrapper, without_type_arguments},
    path::{distance, nearest},
};
use crate::dwarf::{Function, FunctionMatch};

/// Candidates among which names that look alike are searched.
const MAX_CANDIDATES: usize = 50_000;

/// An address that stands for a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Link-time address of the instruction.
    pub link_address: u64,
    /// What it stands for.
    pub location: Location,
    /// Why it gives a hit.
    pub trigger: Trigger,
    /// The function whose code holds it; `None` without debug data.
    pub function: Option<Arc<Function>>,
    /// The inlined instance (an index into `Function::inlined`) whose source the location is in. The instruction may lie
    /// in an instance further in, when a line begins with a call that was inlined.
    pub instance: Option<usize>,
    /// An address whose scope is that of the location's source: where a line begins with a call that was inlined, the
    /// armed instruction lies in the called function's scope, and this one in the line's own.
    pub scope_address: u64,
    /// The instruction there, in words.
    pub instruction: String,
    /// The kernel emulates the instruction: a hit costs one trap, not two.
    pub fast: bool,
    /// Link-time address of the instruction where the location begins; `link_address` runs exactly when it runs.
    pub entry_address: u64,
    /// The instruction is a branch, and the location is entered by one of its ways.
    pub branch: Option<Branch>,
    /// What runs exactly when the entry runs.
    pub stretch: Stretch,
    /// What was chosen from, once it was.
    pub candidates: Vec<Candidate>,
    /// Why this instruction, in words.
    pub choice: Arc<str>,
}

impl Site {
    /// The same site, armed at the instruction that was chosen.
    #[must_use]
    pub fn moved(&self, choice: &Choice) -> Self {
        match choice.candidates.get(choice.index) {
            Some(chosen) => self.armed_at(choice, chosen, choice.branch),
            None => self.clone(),
        }
    }

    /// The same site, armed at one of the ways in that were chosen.
    #[must_use]
    pub fn at_way(&self, choice: &Choice, way: &Way) -> Self {
        self.armed_at(choice, &way.candidate, way.branch)
    }

    /// The same site, of which one address is armed.
    #[must_use]
    pub fn with_one_way_in(&self) -> Self {
        let mut site = self.clone();
        site.stretch.ways = Ways::default();
        site
    }

    fn armed_at(&self, choice: &Choice, chosen: &Candidate, branch: Option<Branch>) -> Self {
        let mut site = self.clone();
        site.link_address = chosen.link_address;
        site.location.pc = Address(chosen.link_address);
        site.instruction.clone_from(&chosen.instruction);
        site.fast = chosen.fast;
        site.branch = branch;
        site.candidates.clone_from(&choice.candidates);
        site.choice = choice.reason().into();
        site
    }
}

/// The sites of a location.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// By address, each address once.
    pub sites: Vec<Site>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Finds the sites of a location.
pub fn resolve(
    lines: &dyn LineSource,
    code: &dyn CodeReader,
    request: &LocationRequest,
) -> Result<Resolved, LocationError> {
    let mut search =
        Search { lines, code, sites: BTreeMap::new(), warnings: Vec::new(), error: None, non_nil: None };
    match request {
        LocationRequest::Line { file, line } => search.line(file, *line)?,
        LocationRequest::Function { name } => search.function(name)?,
        LocationRequest::Address { link_address } => search.address(*link_address)?,
    }
    match search.error {
        Some(source) if search.sites.is_empty() => {
            Err(LocationError::Code { requested: request.to_string(), source })
        }
        _ => Ok(Resolved { sites: search.sites.into_values().collect(), warnings: search.warnings }),
    }
}

struct Search<'a> {
    lines: &'a dyn LineSource,
    code: &'a dyn CodeReader,
    sites: BTreeMap<u64, Site>,
    warnings: Vec<String>,
    /// The first thing that was wrong with machine code.
    error: Option<CodeError>,
    /// Of the function, by its entry, that was looked at last.
    non_nil: Option<(u64, NonNil)>,
}

/// Whose source a site is in.
#[derive(Clone)]
struct Place {
    file: Arc<str>,
    line: u32,
    owner: Owner,
    trigger: Trigger,
    /// The address itself was asked for.
    is_exact: bool,
}

impl Search<'_> {
    fn line(&mut self, requested: &str, line: u32) -> Result<(), LocationError> {
        let file = self.file(requested)?;
        for function in self.functions_with_line(&file, line)? {
            let rows = self.lines.rows_of(&function)?;
            let direct = rows.iter().any(|row| row.line == line && row.file == file);
            let called = function
                .inlined
                .iter()
                .any(|instance| instance.call_line == line && instance.call_file == file);
            if !direct && !called {
                continue;
            }
            let Some(graph) = self.graph(&function) else { continue };
            let instructions = InstructionLines::of(&graph, &function, &rows);
            for (owner, nodes) in instructions.on_line(&file, line) {
                // A wrapper has the lines of what it wraps without executing them; what was inlined into it is executed.
                if owner.is_none() && is_wrapper(&function) {
                    continue;
                }
                let place =
                    Place { file: Arc::clone(&file), line, owner, trigger: Trigger::Line, is_exact: false };
                self.enter(&graph, &function, &instructions, &nodes, &place);
            }
        }
        if self.sites.is_empty() && self.error.is_none() {
            return Err(LocationError::NoCode {
                file: requested.to_owned(),
                line,
                reason: None,
                nearest: self.nearest_lines(&file, line)?,
            });
        }
        Ok(())
    }

    fn function(&mut self, name: &str) -> Result<(), LocationError> {
        let mut matches = self.lines.functions_matching(name)?;
        matches.retain(|found| {
            found.functions.iter().any(|f| !is_wrapper(f))
                || !found.inlined.is_empty()
                || found.functions.is_empty()
        });
        if let Some(exact) = matches.iter().position(|found| &*found.name == name) {
            matches = vec![matches.swap_remove(exact)];
        }
        let found = match matches.as_slice() {
            [] => {
                let names = self.code.function_names();
                return Err(LocationError::NoFunction {
                    name: name.to_owned(),
                    nearest: nearest_functions(name, &names),
                });
            }
            [one] => one.clone(),
            several => {
                return Err(LocationError::SeveralFunctions {
                    name: name.to_owned(),
                    count: several.len(),
                    functions: several.iter().map(|found| Arc::clone(&found.name)).collect(),
                });
            }
        };
        self.function_entries(&found)?;
        if self.sites.is_empty() && self.error.is_none() {
            return Err(LocationError::NoBody { name: found.name });
        }
        Ok(())
    }

    fn function_entries(&mut self, found: &FunctionMatch) -> Result<(), LocationError> {
        for function in found.functions.iter().filter(|function| !is_wrapper(function)) {
            let rows = self.lines.rows_of(function)?;
            let Some(graph) = self.graph(function) else { continue };
            let instructions = InstructionLines::of(&graph, function, &rows);
            let node = function_entry(self.code, &graph, |node| instructions.ends_prologue(node));
            let first = instructions.row(graph.entry());
            let place = Place {
                file: function
                    .decl_file
                    .clone()
                    .or_else(|| first.map(|row| Arc::clone(&row.file)))
                    .unwrap_or_default(),
                line: function.decl_line.or_else(|| first.map(|row| row.line)).unwrap_or(0),
                owner: None,
                trigger: Trigger::Entry,
                is_exact: false,
            };
            self.put(&graph, function, node, node, &place);
        }
        for (function, instance) in &found.inlined {
            let Some(inlined) = function.inlined.get(*instance) else { continue };
            let rows = self.lines.rows_of(function)?;
            let Some(graph) = self.graph(function) else { continue };
            let instructions = InstructionLines::of(&graph, function, &rows);
            let nodes: BTreeSet<Node> = (0..graph.len())
                .filter(|&node| inlined.ranges.iter().any(|range| range.contains(&graph.address(node))))
                .collect();
            let place = Place {
                file: inlined.decl_file.clone().unwrap_or_default(),
                line: inlined.decl_line.unwrap_or(0),
                owner: Some(*instance),
                trigger: Trigger::Entry,
                is_exact: false,
            };
            self.enter(&graph, function, &instructions, &nodes, &place);
        }
        Ok(())
    }

    fn address(&mut self, address: u64) -> Result<(), LocationError> {
        let function = self.lines.function_at(address)?.ok_or(LocationError::NoSuchAddress { address })?;
        let rows = self.lines.rows_of(&function)?;
        let Some(graph) = self.graph(&function) else { return Ok(()) };
        let Some(node) = graph.at(address) else {
            let starts = (0..graph.len()).map(|node| graph.address(node));
            let before = starts.clone().filter(|&start| start < address).max().unwrap_or(address);
            let after = starts.filter(|&start| start > address).min().unwrap_or(address);
            let function = Arc::clone(&function.name);
            return Err(LocationError::InsideInstruction { address, before, after, function });
        };
        let instructions = InstructionLines::of(&graph, &function, &rows);
        let row = instructions.row(node);
        let place = Place {
            file: row.map(|row| Arc::clone(&row.file)).unwrap_or_default(),
            line: row.map_or(0, |row| row.line),
            owner: function.inline_chain_at(address).last().copied(),
            trigger: Trigger::Line,
            is_exact: true,
        };
        let checked = function_entry(self.code, &graph, |_| false);
        if node == graph.entry() && checked != node {
            self.warnings.push(format!(
                "{address:#x} is executed twice when the stack grows; {:#x} behind the stack check is not",
                graph.address(checked)
            ));
        }
        self.put(&graph, &function, node, node, &place);
        Ok(())
    }

    /// Puts a site at every place where this code is entered.
    fn enter(
        &mut self,
        graph: &FlowGraph,
        function: &Arc<Function>,
        instructions: &InstructionLines<'_>,
        nodes: &BTreeSet<Node>,
        place: &Place,
    ) {
        for entry in entries(graph, nodes, |node| instructions.starts_statement(node)) {
            let node = if entry == graph.entry() {
                function_entry(self.code, graph, |node| instructions.ends_prologue(node))
            } else {
                entry
            };
            let scope = instructions.scope_of(place.owner, nodes, node);
            self.put(graph, function, node, scope, place);
        }
    }

    fn put(&mut self, graph: &FlowGraph, function: &Arc<Function>, node: Node, scope: Node, place: &Place) {
        let link_address = graph.address(node);
        let instruction = graph.instruction(node);
        let name = place
            .owner
            .and_then(|owner| function.inlined.get(owner))
            .map_or_else(|| Arc::clone(&function.name), |instance| Arc::clone(&instance.name));
        let location = Location {
            file: Arc::clone(&place.file),
            line: place.line,
            function: name,
            pc: Address(link_address),
            inlined_into: place.owner.map(|_| Arc::clone(&function.name)),
        };
        let stretch = self.stretch(graph, function, node, place);
        self.sites.entry(link_address).or_insert_with(|| Site {
            link_address,
            location,
            trigger: place.trigger,
            function: Some(Arc::clone(function)),
            instance: place.owner,
            scope_address: graph.address(scope),
            instruction: text_of(instruction),
            fast: bytes_of(self.code, instruction).is_some_and(is_emulated),
            entry_address: link_address,
            branch: None,
            stretch,
            candidates: Vec::new(),
            choice: Arc::from(""),
        });
    }

    /// What runs exactly when an instruction runs. Only of compiled Go code is it known which loads can't fault; an
    /// address that was asked for is armed itself.
    fn stretch(&mut self, graph: &FlowGraph, function: &Function, node: Node, place: &Place) -> Stretch {
        let is_compiled_go = function.is_go && !place.file.ends_with(".s");
        // Where a jump leads that could not be read, control may come in anywhere.
        if place.is_exact || !is_compiled_go || graph.has_unknown_jumps() {
            return Stretch::of_one(self.code, graph, node);
        }
        let code = self.code;
        let (_, non_nil) = match self.non_nil.take() {
            Some(known) if known.0 == function.entry => self.non_nil.insert(known),
            _ => self.non_nil.insert((function.entry, NonNil::of(code, graph))),
        };
        Stretch::around(code, graph, non_nil, node)
    }

    fn graph(&mut self, function: &Function) -> Option<FlowGraph> {
        match FlowGraph::of(self.code, &function.ranges, function.entry) {
            Ok(graph) => Some(graph),
            Err(error) => {
                self.warnings.push(format!("{} is left out: {error}", function.name));
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn file(&self, requested: &str) -> Result<Arc<str>, LocationError> {
        let mut files = self.lines.files_matching(requested);
        files.sort();
        files.dedup();
        if let Some(exact) = files.iter().find(|file| &***file == requested) {
            return Ok(Arc::clone(exact));
        }
        match files.as_slice() {
            [] => {
                let names = self.lines.file_names();
                Err(LocationError::NoFile {
                    file: requested.to_owned(),
                    nearest: nearest_files(requested, &names),
                })
            }
            [one] => Ok(Arc::clone(one)),
            _ => Err(LocationError::SeveralFiles { file: requested.to_owned(), count: files.len(), files }),
        }
    }

    /// Every function that may execute the line: those with rows of it, and the copies, whole or inlined, of the source
    /// functions around it, in which the line may have no row because all of its code belongs to calls that were inlined.
    fn functions_with_line(&self, file: &str, line: u32) -> Result<Vec<Arc<Function>>, LocationError> {
        let rows = self.lines.rows_of_file(file)?;
        let mut functions: BTreeMap<u64, Arc<Function>> = BTreeMap::new();
        let mut names: BTreeSet<String> = BTreeSet::new();
        let before = rows.iter().filter(|row| row.line > 0 && row.line <= line).map(|row| row.line).max();
        let after = rows.iter().filter(|row| row.line > line).map(|row| row.line).min();
        for row in rows.iter() {
            if row.line != line && Some(row.line) != before && Some(row.line) != after {
                continue;
            }
            let Some(function) = self.lines.function_at(row.address)? else { continue };
            let chain = function.inline_chain_at(row.address);
            let source = match chain.last().and_then(|&instance| function.inlined.get(instance)) {
                Some(instance) => &instance.name,
                None => &function.name,
            };
            names.insert(without_type_arguments(source));
            functions.insert(function.entry, function);
        }
        for name in names {
            for found in self.lines.functions_matching(&name)? {
                let holders = found.inlined.iter().map(|(function, _)| function);
                for function in found.functions.iter().chain(holders) {
                    functions.insert(function.entry, Arc::clone(function));
                }
            }
        }
        Ok(functions.into_values().collect())
    }

    fn nearest_lines(&self, file: &str, line: u32) -> Result<Vec<u32>, LocationError> {
        let lines = lines_with_code(self.lines, file)?;
        let before = lines.range(..line).next_back();
        let after = lines.range(line..).find(|&&other| other != line);
        Ok(before.into_iter().chain(after).copied().collect())
    }
}

fn nearest_files(requested: &str, names: &[Arc<str>]) -> Vec<Arc<str>> {
    let base = requested.rsplit('/').next().unwrap_or(requested);
    let mut same: Vec<&Arc<str>> =
        names.iter().filter(|name| name.rsplit('/').next() == Some(base)).collect();
    if !same.is_empty() {
        same.sort_by_cached_key(|name| (Reverse(likeness(requested, name)), name.matches('/').count()));
        return same.into_iter().take(4).cloned().collect();
    }
    let bases: Vec<Arc<str>> = names
        .iter()
        .take(MAX_CANDIDATES)
        .map(|name| Arc::from(name.rsplit('/').next().unwrap_or(name)))
        .collect();
    // Most names of files are short: with the usual bound a third of their letters could be others.
    let far = |name: &str| distance(stem(base), stem(name), (stem(base).len() / 4).max(1));
    let close: Vec<Arc<str>> =
        nearest(base, bases.iter()).into_iter().filter(|name| far(name) != usize::MAX).collect();
    names
        .iter()
        .filter(|name| close.iter().any(|close| name.rsplit('/').next() == Some(&**close)))
        .take(4)
        .cloned()
        .collect()
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Of two paths with the same last part, how many other parts of the one are, apart from a version, in the other.
fn likeness(requested: &str, path: &str) -> usize {
    let name = |part: &str| part.split_once('@').map_or(part, |(name, _)| name).to_owned();
    let parts: HashSet<String> = path.split('/').rev().skip(1).map(name).collect();
    requested.split('/').rev().skip(1).filter(|part| !part.is_empty() && parts.contains(&name(part))).count()
}

fn nearest_functions(requested: &str, names: &[Arc<str>]) -> Vec<Arc<str>> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let wanted = last(requested);
    let bases: Vec<Arc<str>> = names.iter().take(MAX_CANDIDATES).map(|name| Arc::from(last(name))).collect();
    let close = nearest(&wanted, bases.iter());
    names.iter().filter(|name| close.iter().any(|close| last(name) == **close)).take(4).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_suggested_are_likely_meant() {
        let names: Vec<Arc<str>> = [
            "/m/github.com/shop@v1.2.0/cmd/bisync/cmd.go",
            "/m/github.com/shop@v1.2.0/cmd/cmd.go",
            "/m/other.org/server/v2@v2.0.1/cmd.go",
            "/m/github.com/shop@v1.2.0/store/orders.go",
            "/usr/lib/go/src/os/exec.go",
        ]
        .map(Arc::from)
        .into();
        for (requested, first) in [
            ("shop/cmd/cmd.go", Some("/m/github.com/shop@v1.2.0/cmd/cmd.go")),
            ("server/cmd.go", Some("/m/other.org/server/v2@v2.0.1/cmd.go")),
            ("order.go", Some("/m/github.com/shop@v1.2.0/store/orders.go")),
            ("nosuch.go", None),
            ("execs/main.go", None),
        ] {
            assert_eq!(nearest_files(requested, &names).first().map(|name| &**name), first, "{requested}");
        }
    }
}
