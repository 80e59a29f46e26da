//! From names, lines and addresses to entries: the requests that go through the index, and the caches behind them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    DebugInfo, DwarfError, Function, FunctionMatch, LineRow, VisibleVariable, frames,
    index::Table,
    lines::{UnitLines, rows_of_file},
    names,
    scopes::{self, Abstract, Scopes},
    unit::{Unit, View},
};
use crate::golang::{
    abi_type::AbiTypes,
    types::{GoType, TypeId, TypeSource},
};

/// A name that stands for more functions than this stands for nothing.
const MAX_MATCHES: usize = 1 << 14;

impl DebugInfo {
    pub(crate) fn view(&self) -> View<'_> {
        View::new(&self.sections, &self.abbreviations)
    }

    pub(crate) fn unit<'a>(&'a self, view: &View<'a>, index: u32) -> Result<Arc<Unit<'a>>, DwarfError> {
        let record =
            self.index.unit(index).ok_or(DwarfError::BadOffset { what: "unit", offset: u64::from(index) })?;
        view.unit(u64::from(record.start))
    }

    /// The unit's line table. A unit without one has an empty one.
    pub(crate) fn unit_lines(&self, index: u32) -> Result<Arc<UnitLines>, DwarfError> {
        self.lines.get_or_try_insert(&index, || {
            let record = self
                .index
                .unit(index)
                .ok_or(DwarfError::BadOffset { what: "unit", offset: u64::from(index) })?;
            if record.line_program == u32::MAX {
                return Ok(Arc::default());
            }
            let view = self.view();
            let unit = view.unit(u64::from(record.start))?;
            Ok(Arc::new(UnitLines::read(&view, &unit, record.line_program, record.is_go)?))
        })
    }

    /// The rows of one file (named as [`Self::files`] names it) from every unit that has it, by address.
    pub fn line_rows(&self, file: &str) -> Result<Arc<[LineRow]>, DwarfError> {
        if let Ok(known) = self.file_rows.read()
            && let Some((name, rows)) = &*known
            && **name == *file
        {
            return Ok(Arc::clone(rows));
        }
        let rows: Arc<[LineRow]> = self.read_line_rows(file)?.into();
        if let Ok(mut known) = self.file_rows.write() {
            *known = Some((Arc::from(file), Arc::clone(&rows)));
        }
        Ok(rows)
    }

    fn read_line_rows(&self, file: &str) -> Result<Vec<LineRow>, DwarfError> {
        let units = self.index.units_of_file(file);
        let name: Arc<str> = Arc::from(file);
        let next = AtomicUsize::new(0);
        let worker = || -> Result<Vec<LineRow>, DwarfError> {
            let view = self.view();
            let mut out = Vec::new();
            while let Some(&unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Some(record) = self.index.unit(unit).filter(|unit| unit.line_program != u32::MAX) else {
                    continue;
                };
                let unit = view.unit(u64::from(record.start))?;
                out.extend(rows_of_file(&view, &unit, record.line_program, record.is_go, &name)?);
            }
            Ok(out)
        };
        // A file whose functions are inlined everywhere is named by most units.
        let threads = if units.len() < 8 { 1 } else { super::threads() };
        let mut out = std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
            let mut out = worker()?;
            for helper in helpers {
                out.extend(helper.join().unwrap_or_else(|_| Ok(Vec::new()))?);
            }
            Ok::<_, DwarfError>(out)
        })?;
        out.sort_by_key(|row| row.address);
        out.dedup();
        Ok(out)
    }

    /// All rows inside the function's ranges, by address.
    pub fn rows_of(&self, function: &Function) -> Result<Vec<LineRow>, DwarfError> {
        Ok(self.unit_lines(function.unit)?.of_ranges(&function.ranges))
    }

    /// The out-of-line function whose code covers the address.
    pub fn function_at(&self, link_address: u64) -> Result<Option<Arc<Function>>, DwarfError> {
        let Some(die) = self.index.function_at(link_address) else { return Ok(None) };
        Ok(self
            .scopes(die)?
            .map(|scopes| Arc::clone(&scopes.function))
            .filter(|function| function.contains(link_address)))
    }

    /// The function whose entry lies at `die`, with all that is in it.
    pub(crate) fn scopes(&self, die: u64) -> Result<Option<Arc<Scopes>>, DwarfError> {
        self.functions.get_or_try_insert(&die, || Ok(self.read_scopes(die)?.map(Arc::new)))
    }

    fn read_scopes(&self, die: u64) -> Result<Option<Scopes>, DwarfError> {
        let Some((index, record)) = self.index.unit_of(die) else {
            return Err(DwarfError::BadOffset { what: "function", offset: die });
        };
        let view = self.view();
        let unit = view.unit(u64::from(record.start))?;
        let lines = self.unit_lines(index)?;
        // Instances of one function share its abstract entry, and those of one package their unit.
        let units: RefCell<HashMap<u32, Arc<Unit<'_>>>> = RefCell::default();
        let unit_of = |die: u64| {
            let (index, record) = self.index.unit_of(die)?;
            if let Some(unit) = units.borrow().get(&index) {
                return Some(Arc::clone(unit));
            }
            let unit = view.unit(u64::from(record.start)).ok()?;
            units.borrow_mut().insert(index, Arc::clone(&unit));
            Some(unit)
        };
        let abstracts: RefCell<HashMap<u64, Abstract>> = RefCell::default();
        let origins = |die: u64| {
            if let Some(known) = abstracts.borrow().get(&die) {
                return known.clone();
            }
            let found = scopes::read_abstract(&view, &unit_of, die);
            abstracts.borrow_mut().insert(die, found.clone());
            found
        };
        scopes::read(&view, &unit, index, record.is_go, die, &lines, &origins)
    }

    /// The functions that `name` stands for: `pkg.Func`, `pkg.(*T).Method`, or the same with more of the import path in
    /// front (a suffix on a `/` boundary). Instantiations of a generic function match its name without type arguments,
    /// and each alone its name with them. A closure matches only its own name (`pkg.Func.func1`).
    pub fn functions_matching(&self, name: &str) -> Result<Vec<FunctionMatch>, DwarfError> {
        let key = names::hash(names::last_segment(&names::base(name)));
        let view = self.view();
        let mut functions: BTreeMap<String, BTreeMap<u64, Arc<Scopes>>> = BTreeMap::new();
        let mut abstracts: Vec<(String, u64)> = Vec::new();
        for die in self.index.lookup(Table::Names, key).take(MAX_MATCHES) {
            let Some((_, record)) = self.index.unit_of(die) else { continue };
            let unit = view.unit(u64::from(record.start))?;
            let entry = scopes::read_abstract(&view, &|_| Some(Arc::clone(&unit)), die);
            let Some(full) = entry.name.filter(|full| names::matches(full, name)) else { continue };
            let base = names::base(&full).into_owned();
            match self.scopes(die)? {
                Some(scopes) => {
                    functions.entry(base).or_default().insert(scopes.function.entry, scopes);
                }
                None => abstracts.push((base, die)),
            }
        }
        let mut inlined: BTreeMap<(String, u64), (Arc<Function>, usize)> = BTreeMap::new();
        for (base, die) in abstracts {
            let Ok(key) = u32::try_from(die) else { continue };
            functions.entry(base.clone()).or_default();
            for die_of_function in self.index.lookup(Table::Origins, key).take(MAX_MATCHES) {
                let Some(scopes) = self.scopes(die_of_function)? else { continue };
                let function = &scopes.function;
                if function.origin == Some(die) {
                    functions.entry(base.clone()).or_default().insert(function.entry, Arc::clone(&scopes));
                }
                for (index, instance) in function.inlined.iter().enumerate() {
                    if instance.origin == die
                        && let Some(range) = instance.ranges.first()
                    {
                        inlined.insert((base.clone(), range.start), (Arc::clone(function), index));
                    }
                }
            }
        }
        Ok(functions
            .into_iter()
            .map(|(name, functions)| FunctionMatch {
                inlined: inlined
                    .iter()
                    .filter(|((base, _), _)| *base == name)
                    .map(|(_, place)| place.clone())
                    .collect(),
                functions: functions.into_values().map(|scopes| Arc::clone(&scopes.function)).collect(),
                name: Arc::from(name),
            })
            .filter(|found| !found.functions.is_empty() || !found.inlined.is_empty())
            .collect())
    }

    /// The inlined calls that stand on a line: for a line that has no rows of its own because its only code is the body
    /// of what it calls. Reads every function of the units that have the file.
    pub fn calls_on_line(&self, file: &str, line: u32) -> Result<Vec<(Arc<Function>, usize)>, DwarfError> {
        let mut out = Vec::new();
        for unit in self.index.units_of_file(file) {
            let Some(record) = self.index.unit(unit) else { continue };
            for die in self.index.functions_in(record.start..record.end) {
                let Some(scopes) = self.scopes(die)? else { continue };
                for (index, instance) in scopes.function.inlined.iter().enumerate() {
                    if instance.call_line == line && &*instance.call_file == file {
                        out.push((Arc::clone(&scopes.function), index));
                    }
                }
            }
        }
        Ok(out)
    }

    /// The variables that are visible at the address, in the innermost inlined instance there: arguments first, then
    /// what a closure captured, then locals in order of declaration. Of a name that is declared several times only the
    /// innermost. A named result is a local.
    ///
    /// A captured variable that has no place of its own yet is [`VariableLocation::Closure`](super::VariableLocation)
    /// only up to the end of the prologue, where the context register is still what it was at entry.
    pub fn variables_at(
        &self,
        function: &Function,
        link_address: u64,
    ) -> Result<Vec<VisibleVariable>, DwarfError> {
        self.variables_between(function, link_address, link_address)
    }

    /// CFA minus SP when the instruction at the address is about to run.
    pub fn cfa_from_sp(&self, link_address: u64) -> Option<i32> {
        self.index
            .frame_at(link_address)
            .and_then(|offset| frames::cfa_from_sp(&self.sections, offset, link_address))
            .or_else(|| {
                let table = self.eh_frames.get_or_init(|| frames::scan_eh(&self.sections));
                frames::cfa_from_sp_eh(&self.sections, table, link_address)
            })
    }

    /// The type of that name as the linker writes it (`runtime.g`, `*main.T`).
    pub fn type_named(&self, name: &str) -> Option<TypeId> {
        let view = self.view();
        let die = self.types_named(name).into_iter().next()?;
        Some(self.variable_type(&view, die).id)
    }

    /// The entries of types with exactly that name: a type and the typedef that names it.
    pub(crate) fn types_named(&self, name: &str) -> Vec<u64> {
        self.index
            .lookup(Table::TypeNames, names::hash(name))
            .take(MAX_MATCHES)
            .filter(|die| *self.get(TypeId(*die)).name == *name)
            .collect()
    }

    /// Every type that has an `abi.Type`, with its link-time address.
    pub fn runtime_types(&self) -> impl Iterator<Item = (u64, TypeId)> {
        let base = self.sections.runtime_types_base;
        let count = base.map_or(0, |_| self.index.len(Table::RuntimeTypes));
        (0..count).filter_map(move |at| {
            let (raw, die) = self.index.pair(Table::RuntimeTypes, at);
            Some((base?.checked_add(u64::from(raw))?, TypeId(u64::from(die))))
        })
    }
}

impl DebugInfo {
    /// The entry of debug data for the type whose `abi.Type` lies there.
    fn described(&self, link_address: u64) -> Option<TypeId> {
        let raw = link_address.checked_sub(self.sections.runtime_types_base?)?;
        let die = self.index.lookup(Table::RuntimeTypes, u32::try_from(raw).ok()?).next()?;
        Some(TypeId(die))
    }
}

impl TypeSource for DebugInfo {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        let read = || match AbiTypes::address(id).zip(self.abi_types()) {
            None => self.read_type(&self.view(), id.0, 0),
            Some((address, types)) => types
                .read(address, |address| self.described(address))
                .unwrap_or_else(|| self.read_type(&self.view(), id.0, 0)),
        };
        self.types.get_or_insert(&id.0, || Arc::new(read()))
    }

    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId> {
        self.described(link_address).or_else(|| {
            let types = self.abi_types()?;
            types.describes(link_address).then(|| AbiTypes::id(link_address))
        })
    }
}
