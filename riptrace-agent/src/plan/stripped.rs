//! Sites and variables of a binary without debug data: lines, functions and inlined calls from the runtime's own line
//! table (`golang::pclntab`), which `strip` can't remove, and the registers in which Go passes arguments.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use riptrace_common::wire::event::Role;

use super::lines::{LineSource, without_type_arguments};
use crate::{
    dwarf::{
        DwarfError, Function, FunctionMatch, InlinedInstance, LineRow, Piece, Place, VariableLocation,
        VisibleVariable,
    },
    golang::{
        abi_internal::INTEGER_REGISTERS,
        pclntab::{self, LineRange, Pclntab},
        types::{GoType, Kind, Shape, TypeId, TypeSource},
    },
};

/// Inlined calls within each other.
const MAX_INLINED: usize = 64;

/// The type of a raw register in [`RawTypes`]: an `uintptr`.
pub const REGISTER_WORD: TypeId = TypeId(u64::MAX);

/// The raw argument registers, as variables for a function's entry. Their types come from [`RawTypes`].
#[must_use]
pub fn argument_registers() -> Vec<VisibleVariable> {
    INTEGER_REGISTERS
        .iter()
        .map(|&(number, name)| VisibleVariable {
            name: Arc::from(name),
            role: Role::Register,
            ty: REGISTER_WORD,
            decl_line: 0,
            location: VariableLocation::Pieces(vec![Piece { bytes: 8, place: Place::Register(number) }]),
            dict_index: None,
        })
        .collect()
}

/// The types of a binary without debug data: [`REGISTER_WORD`] alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawTypes;

impl TypeSource for RawTypes {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        let known = id == REGISTER_WORD;
        Arc::new(GoType {
            name: Arc::from(if known { "uintptr" } else { "?" }),
            bytes: if known { 8 } else { 0 },
            kind: if known { Kind::Uintptr } else { Kind::Invalid },
            shape: if known { Shape::Scalar } else { Shape::Unknown },
            runtime_type: None,
        })
    }

    fn by_runtime_type(&self, _: u64) -> Option<TypeId> {
        None
    }
}

/// The runtime's line table as a source of lines and functions.
pub struct TableLines<'a> {
    table: &'a Pclntab,
    functions: Mutex<BTreeMap<u64, Arc<Function>>>,
}

impl<'a> TableLines<'a> {
    /// Reads on demand.
    #[must_use]
    pub fn new(table: &'a Pclntab) -> Self {
        Self { table, functions: Mutex::default() }
    }

    fn function(&self, function: &pclntab::Function<'_>) -> Arc<Function> {
        let mut known = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(function.entry).or_insert_with(|| Arc::new(described(function))))
    }
}

/// The function as debug data would describe it.
fn described(function: &pclntab::Function<'_>) -> Function {
    let own = function.frames(function.entry).into_iter().next_back();
    Function {
        name: Arc::from(function.name()),
        ranges: std::iter::once(function.entry..function.end).collect(),
        entry: function.entry,
        decl_file: own.map(|frame| Arc::from(frame.file)),
        decl_line: Some(function.start_line()).filter(|&line| line > 0),
        trampoline_or_wrapper: function.is_wrapper(),
        is_go: true,
        inlined: inlined_calls(function),
        unit: 0,
        die: 0,
        origin: None,
    }
}

/// A call that was inlined, before it has its place among the others.
struct Call {
    name: Arc<str>,
    ranges: Vec<Range<u64>>,
    call_file: Arc<str>,
    call_line: u32,
    file: Arc<str>,
    start_line: u32,
    /// Inline-tree indexes of the calls around it, innermost first.
    around: Vec<i32>,
}

/// The inlined calls of a function, outer before inner.
fn inlined_calls(function: &pclntab::Function<'_>) -> Vec<InlinedInstance> {
    let runs = function.lines();
    let run_at = |address: u64| {
        let behind = runs.partition_point(|run| run.address <= address);
        behind.checked_sub(1).and_then(|at| runs.get(at)).filter(|run| address < run.end)
    };
    let mut calls: BTreeMap<i32, Call> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.inlined >= 0) {
        // A call is looked up once: its other runs have the same calls around them.
        if !calls.contains_key(&run.inlined) {
            let mut levels: Vec<(i32, Call)> = Vec::new();
            let (mut index, mut file) = (run.inlined, run.file);
            while index >= 0
                && levels.len() < MAX_INLINED
                && let Some(call) = function.inlined_at(index)
            {
                let outer = run_at(call.call_address);
                let call = Call {
                    name: Arc::from(call.name),
                    ranges: Vec::new(),
                    call_file: Arc::from(outer.map_or("", |outer| outer.file)),
                    call_line: outer.map_or(0, |outer| outer.line),
                    file: Arc::from(file),
                    start_line: call.start_line,
                    around: Vec::new(),
                };
                levels.push((index, call));
                (index, file) = outer.map_or((-1, ""), |outer| (outer.inlined, outer.file));
            }
            let chain: Vec<i32> = levels.iter().map(|(index, _)| *index).collect();
            for (level, (index, call)) in levels.into_iter().enumerate() {
                let around = chain.get(level + 1..).unwrap_or_default().to_vec();
                calls.entry(index).or_insert(Call { around, ..call });
            }
        }
        let around = calls.get(&run.inlined).map(|call| call.around.clone()).unwrap_or_default();
        for index in std::iter::once(run.inlined).chain(around) {
            let Some(call) = calls.get_mut(&index) else { continue };
            match call.ranges.last_mut() {
                Some(before) if before.end == run.address => before.end = run.end,
                _ => call.ranges.push(run.address..run.end),
            }
        }
    }
    let mut ordered: Vec<(i32, Call)> = calls.into_iter().collect();
    ordered.sort_by_key(|(_, call)| call.around.len());
    let places: BTreeMap<i32, usize> =
        ordered.iter().enumerate().map(|(place, (index, _))| (*index, place)).collect();
    ordered
        .into_iter()
        .map(|(_, call)| InlinedInstance {
            parent: call.around.first().and_then(|around| places.get(around).copied()),
            depth: call.around.len(),
            name: call.name,
            ranges: call.ranges,
            call_file: call.call_file,
            call_line: call.call_line,
            decl_file: Some(call.file),
            decl_line: Some(call.start_line).filter(|&line| line > 0),
            origin: 0,
        })
        .collect()
}

fn row(run: &LineRange<'_>) -> LineRow {
    LineRow {
        address: run.address,
        end: run.end,
        file: Arc::from(run.file),
        line: run.line,
        // The runtime's table has no such marks.
        is_stmt: false,
        prologue_end: false,
    }
}

impl LineSource for TableLines<'_> {
    fn files_matching(&self, suffix: &str) -> Vec<Arc<str>> {
        self.table.files_matching(suffix).into_iter().map(Arc::from).collect()
    }

    fn file_names(&self) -> Vec<Arc<str>> {
        self.table.files().map(Arc::from).collect()
    }

    fn rows_of_file(&self, file: &str) -> Result<Arc<[LineRow]>, DwarfError> {
        Ok(self.table.lines_of_file(file).iter().map(row).collect())
    }

    fn rows_of(&self, function: &Function) -> Result<Vec<LineRow>, DwarfError> {
        let found = self.table.function_at(function.entry);
        let mut rows: Vec<LineRow> =
            found.iter().flat_map(|function| function.lines()).map(|run| row(&run)).collect();
        rows.sort_by_key(|row| row.address);
        Ok(rows)
    }

    fn function_at(&self, link_address: u64) -> Result<Option<Arc<Function>>, DwarfError> {
        Ok(self.table.function_at(link_address).map(|function| self.function(&function)))
    }

    fn functions_matching(&self, name: &str) -> Result<Vec<FunctionMatch>, DwarfError> {
        let mut found: BTreeMap<String, FunctionMatch> = BTreeMap::new();
        let mut of = |name: &str, add: &mut dyn FnMut(&mut FunctionMatch)| {
            let base = without_type_arguments(name);
            let name = Arc::from(base.as_str());
            add(found.entry(base).or_insert_with(|| FunctionMatch {
                name,
                functions: Vec::new(),
                inlined: Vec::new(),
            }));
        };
        for function in self.table.functions_matching(name) {
            of(function.name(), &mut |found| found.functions.push(self.function(&function)));
        }
        for (holder, ranges) in self.table.inlined_matching(name) {
            let holder = self.function(&holder);
            for (index, instance) in holder.inlined.iter().enumerate() {
                let in_ranges = instance.ranges.iter().any(|range| {
                    ranges.iter().any(|matching| matching.start < range.end && range.start < matching.end)
                });
                if in_ranges && pclntab::name_matches(&instance.name, name) {
                    of(&instance.name, &mut |found| found.inlined.push((Arc::clone(&holder), index)));
                }
            }
        }
        Ok(found.into_values().collect())
    }
}
