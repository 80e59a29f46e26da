//! Which variables are visible at an address.

use std::{collections::HashMap, sync::Arc};

use riptrace_common::wire::{event::Role, value::Unavailable};

use super::{
    DebugInfo, DwarfError,
    lines::UnitLines,
    locations::{self, At, CONTEXT_REGISTER},
    names,
    scopes::{Function, LocationAttribute, Owner, Scopes, Variable, covers},
    unit::{Unit, View},
    variable::{DictIndex, VariableLocation, VisibleVariable},
};
use crate::golang::types::{TypeId, TypeSource};

/// The hidden parameter that holds the dictionary's address.
const DICTIONARY: &str = ".dict";
/// What is in the names of functions that several instantiations share.
const SHAPE: &str = "go.shape.";

/// Which of several variables is meant can't be told.
struct Ambiguous;

/// The parameters and results of a function, in the order of its declaration.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Signature {
    /// Receiver first. A hidden dictionary parameter is not among them.
    pub parameters: Vec<Parameter>,
    /// Results, named or not.
    pub results: Vec<Parameter>,
    /// A hidden dictionary parameter is listed: behind the receiver, before everything else. Optimised code often leaves
    /// it out.
    pub has_dictionary: bool,
}

/// A parameter or result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name; as the compiler calls it (`~r0`, `_`) where the source does not.
    pub name: Arc<str>,
    /// Its type.
    pub ty: TypeId,
    /// See [`VisibleVariable::dict_index`].
    pub dict_index: Option<u32>,
    /// It is the receiver.
    pub is_receiver: bool,
}

/// The function's own row at or before an address, so that lines can be compared with declarations.
fn line_at(lines: &UnitLines, address: u64, file: Option<&str>, start: u64) -> u32 {
    let mut at = address;
    for _ in 0..64 {
        let Some((row, row_file)) = lines.at(at) else { break };
        let own = file.is_none() || row_file.map(AsRef::as_ref) == file;
        if own && row.line != 0 {
            return row.line;
        }
        match row.address.checked_sub(1) {
            Some(before) if before >= start => at = before,
            _ => break,
        }
    }
    // No line at all: everything in scope counts as declared.
    u32::MAX
}

/// The name in the source, and whether the variable is the address of it.
fn source_name(name: &str) -> (&str, bool) {
    name.strip_prefix('&').map_or((name, false), |name| (name, true))
}

/// Names that only the compiler knows. `s.ptr` is a slot into which Go 1.27 spills a part of `s`: it has one place for the
/// whole function, but holds the part only after the spill.
fn is_hidden(name: &str) -> bool {
    name.is_empty() || name == "_" || name.contains('.') || name.starts_with(['~', '#'])
}

/// Closures and bodies of range-over-func loops; only they have captured variables.
fn is_closure(name: &str) -> bool {
    name.contains(".func")
        || name.contains("-range")
        || name.contains(".gowrap")
        || name.contains(".deferwrap")
}

impl DebugInfo {
    /// As [`Self::variables_at`], where the scope is that of one address and the places are those of another one: what
    /// is visible on a line, read at an instruction further on.
    pub fn variables_between(
        &self,
        function: &Function,
        scope_address: u64,
        location_address: u64,
    ) -> Result<Vec<VisibleVariable>, DwarfError> {
        let Some(scopes) = self.scopes(function.die)? else { return Ok(Vec::new()) };
        if !function.is_go {
            return Ok(Vec::new());
        }
        let view = self.view();
        let unit = self.unit(&view, function.unit)?;
        let lines = self.unit_lines(function.unit)?;
        let site =
            Site { view: &view, unit: &unit, lines: &lines, scopes: &scopes, address: location_address };
        Ok(self.visible(&site, scope_address))
    }

    /// Where a function's body starts, behind the stores of what it was called with.
    pub fn body_of(&self, function: &Function) -> Result<u64, DwarfError> {
        let lines = self.unit_lines(function.unit)?;
        let prologue = lines.prologue_end(&function.ranges, function.decl_line.unwrap_or(0));
        Ok(prologue.map_or(function.entry, |(_, body)| body))
    }

    /// Where the dictionary's address is: the hidden argument by which an instantiated generic function (or method)
    /// learns its real types. `None`: the function has none, or debug data does not mention it (optimised code that
    /// does not use it). See [`VisibleVariable::dict_index`].
    pub fn dictionary_at(
        &self,
        function: &Function,
        link_address: u64,
    ) -> Result<Option<VariableLocation>, DwarfError> {
        let Some(scopes) = self.scopes(function.die)? else { return Ok(None) };
        let Some(variable) = scopes
            .variables
            .iter()
            .find(|variable| variable.owner == Owner::Function && &*variable.name == DICTIONARY)
        else {
            return Ok(None);
        };
        let view = self.view();
        let unit = self.unit(&view, function.unit)?;
        let at = At { address: link_address, cfa_from_sp: self.cfa_from_sp(link_address), entry: None };
        if variable.is_parameter {
            return Ok(Some(locations::evaluate(&view, &unit, &variable.location, at, 8, None)));
        }
        // A closure has it from the function around it.
        let lines = self.unit_lines(function.unit)?;
        let site = Site { view: &view, unit: &unit, lines: &lines, scopes: &scopes, address: link_address };
        Ok(Some(self.place(&site, at, variable, Role::Captured).location))
    }

    /// Names and types of all variables of a function and of what is inlined into it, wherever they are visible.
    pub fn all_variables(&self, function: &Function) -> Result<Vec<(Arc<str>, TypeId)>, DwarfError> {
        let Some(scopes) = self.scopes(function.die)? else { return Ok(Vec::new()) };
        let view = self.view();
        let named = scopes.variables.iter().map(|variable| {
            let ty = self.variable_type(&view, variable.ty);
            let (name, by_address) = source_name(&variable.name);
            (Arc::from(name), if by_address { self.pointee_of(ty.id) } else { ty.id })
        });
        Ok(named.collect())
    }

    /// The function's parameters and results as its debug data lists them.
    pub fn signature(&self, function: &Function) -> Result<Signature, DwarfError> {
        let mut out = Signature::default();
        let Some(scopes) = self.scopes(function.die)? else { return Ok(out) };
        let view = self.view();
        let receiver = self.receiver(&view, &scopes);
        for (index, variable) in scopes.variables.iter().enumerate() {
            if variable.owner != Owner::Function || !variable.is_parameter {
                continue;
            }
            if &*variable.name == DICTIONARY {
                out.has_dictionary = true;
                continue;
            }
            let ty = self.variable_type(&view, variable.ty);
            let (name, by_address) = source_name(&variable.name);
            let parameter = Parameter {
                name: Arc::from(name),
                ty: if by_address { self.pointee_of(ty.id) } else { ty.id },
                dict_index: ty.dict_index.filter(|_| !by_address),
                is_receiver: receiver == Some(index),
            };
            let list = if variable.is_result { &mut out.results } else { &mut out.parameters };
            // A result has one entry for the place that it is returned in and may have another one for the variable.
            if name == "_" || list.iter().all(|known| known.name != parameter.name) {
                list.push(parameter);
            }
        }
        Ok(out)
    }

    /// For an escaped variable: the type that its pointer points at.
    pub(crate) fn pointee_of(&self, pointer: TypeId) -> TypeId {
        match self.get(pointer).shape {
            crate::golang::types::Shape::Pointer { elem: Some(elem) } => elem,
            _ => pointer,
        }
    }

    /// The index of the receiver among the function's variables: its first parameter, if its type is the one that the
    /// function's name names.
    fn receiver(&self, view: &View<'_>, scopes: &Scopes) -> Option<usize> {
        let wanted = names::receiver_type(&scopes.function.name)?;
        let (index, first) = scopes.variables.iter().enumerate().find(|(_, variable)| {
            variable.owner == Owner::Function
                && variable.is_parameter
                && !variable.is_result
                && &*variable.name != DICTIONARY
        })?;
        self.has_type_named(view, first, &wanted).then_some(index)
    }

    /// Whether the variable's type, less pointers, is called `wanted`.
    fn has_type_named(&self, view: &View<'_>, variable: &Variable, wanted: &str) -> bool {
        let mut ty = self.variable_type(view, variable.ty).id;
        for _ in 0..3 {
            let found = self.get(ty);
            if names::unescape(&found.name) == names::unescape(wanted) {
                return true;
            }
            let next = self.pointee_of(ty);
            if next == ty {
                break;
            }
            ty = next;
        }
        false
    }

    fn visible(&self, site: &Site<'_, '_>, scope_address: u64) -> Vec<VisibleVariable> {
        let Site { view, lines, scopes, .. } = *site;
        let function = &scopes.function;
        let instance = function.inline_chain_at(scope_address).last().copied();
        let body = instance.and_then(|index| function.inlined.get(index));
        let (file, start) = match body {
            Some(body) => (body.decl_file.as_deref(), body.ranges.first().map_or(0, |range| range.start)),
            None => (function.decl_file.as_deref(), function.entry),
        };
        let body_name = body.map_or(&function.name, |body| &body.name);
        let body_line = body.map_or(function.decl_line, |body| body.decl_line).unwrap_or(0);
        let line = line_at(lines, scope_address, file, start);
        let receiver = match instance {
            None => self.receiver(view, scopes),
            Some(index) => self.inlined_receiver(view, scopes, index, body_name),
        };
        let closure = is_closure(body_name);

        // Name → nesting, line of declaration, whether it has a place here, index.
        let mut winners: HashMap<&str, (usize, u32, bool, usize)> = HashMap::new();
        for (index, variable) in scopes.variables.iter().enumerate() {
            let nesting = match (variable.owner, instance) {
                (Owner::Inlined(owner), Some(instance)) if owner == instance => 0,
                (Owner::Function, None) => 0,
                (Owner::Block(block), None) => match scopes.blocks.get(block) {
                    Some(block) if covers(&block.ranges, scope_address) => block.depth + 1,
                    _ => continue,
                },
                _ => continue,
            };
            let (name, _) = source_name(&variable.name);
            if is_hidden(name) {
                continue;
            }
            let from_the_start = variable.is_parameter || is_captured(variable, closure, body_line);
            if !from_the_start && variable.decl_line != 0 && variable.decl_line >= line {
                continue;
            }
            let here = locations::is_described(view, site.unit, &variable.location, site.address);
            let rank = (nesting, variable.decl_line, here, index);
            winners.entry(name).and_modify(|best| *best = (*best).max(rank)).or_insert(rank);
        }
        let mut chosen: Vec<usize> = winners.into_values().map(|(.., index)| index).collect();
        let group = |variable: &Variable| {
            if variable.is_parameter && !variable.is_result {
                0
            } else if is_captured(variable, closure, body_line) {
                1
            } else {
                2
            }
        };
        chosen.sort_by_key(|&index| {
            let variable = &scopes.variables[index];
            let group = group(variable);
            (group, if group == 2 { variable.decl_line } else { 0 }, index)
        });
        let at = At { address: site.address, cfa_from_sp: self.cfa_from_sp(site.address), entry: None };
        chosen
            .into_iter()
            .map(|index| {
                let variable = &scopes.variables[index];
                let role = match group(variable) {
                    0 if receiver == Some(index) => Role::Receiver,
                    0 => Role::Argument,
                    1 => Role::Captured,
                    _ => Role::Local,
                };
                self.place(site, at, variable, role)
            })
            .collect()
    }

    fn inlined_receiver(
        &self,
        view: &View<'_>,
        scopes: &Scopes,
        instance: usize,
        name: &str,
    ) -> Option<usize> {
        let wanted = names::receiver_type(name)?;
        let (index, first) = scopes.variables.iter().enumerate().find(|(_, variable)| {
            variable.owner == Owner::Inlined(instance) && variable.is_parameter && !variable.is_result
        })?;
        self.has_type_named(view, first, &wanted).then_some(index)
    }

    fn place(&self, site: &Site<'_, '_>, at: At, variable: &Variable, role: Role) -> VisibleVariable {
        let Site { view, unit, .. } = *site;
        let is_own_parameter =
            variable.is_parameter && !variable.is_result && variable.owner == Owner::Function;
        let at = At { entry: is_own_parameter.then_some(site.scopes.function.entry), ..at };
        let ty = self.variable_type(view, variable.ty);
        let (name, by_address) = source_name(&variable.name);
        let described = locations::is_described(view, unit, &variable.location, at.address);
        // An expression, other than a list, does not say from where on it holds.
        let stored = described
            && (matches!(variable.location, LocationAttribute::List(_))
                || variable.owner != Owner::Function
                || !(role == Role::Captured || variable.is_result)
                || site.is_in_body());
        let location = match variable.closure_offset {
            Some(offset) if !stored && site.holds_context() => {
                VariableLocation::Closure { register: CONTEXT_REGISTER, offset, by_reference: by_address }
            }
            _ if described && !stored => VariableLocation::Unavailable(Unavailable::NotInitialized),
            _ => {
                let bytes = if by_address { 8 } else { self.get(ty.id).bytes };
                let leaves = match variable.location {
                    LocationAttribute::List(_) if !by_address => self.leaves(ty.id),
                    _ => None,
                };
                match locations::evaluate(view, unit, &variable.location, at, bytes, leaves.as_deref()) {
                    VariableLocation::Pieces(pieces) if by_address => VariableLocation::Heap(pieces),
                    location => location,
                }
            }
        };
        VisibleVariable {
            name: Arc::from(name),
            role,
            ty: if by_address { self.pointee_of(ty.id) } else { ty.id },
            decl_line: variable.decl_line,
            location,
            dict_index: ty
                .dict_index
                .map(|word| DictIndex { word, of_pointer: by_address })
                .or_else(|| self.declared_dict_index(view, site.scopes, variable, role)),
        }
    }

    /// What the dictionary says of a variable that a closure captured, or that escaped. Debug data says so only where the
    /// variable was declared: in a function around the closure (all of them have the same dictionary), and of a
    /// parameter.
    fn declared_dict_index(
        &self,
        view: &View<'_>,
        scopes: &Scopes,
        variable: &Variable,
        role: Role,
    ) -> Option<DictIndex> {
        let name = &*scopes.function.name;
        let generic_end = name.rfind(']')?;
        if !name.contains(SHAPE) || matches!(variable.owner, Owner::Inlined(_)) {
            return None;
        }
        let mut found = None;
        if role != Role::Captured {
            self.add_dict_index(view, scopes, scopes, variable, &mut found).ok()?;
            return found;
        }
        let mut around = name;
        while let Some(end) = around.rfind(['.', '-']).filter(|end| *end > generic_end) {
            around = around.get(..end)?;
            let matches = self.functions_matching(around).ok()?;
            let functions = matches.iter().flat_map(|found| &found.functions);
            for function in functions.filter(|function| &*function.name == around) {
                let declared = self.scopes(function.die).ok()??;
                self.add_dict_index(view, &declared, scopes, variable, &mut found).ok()?;
            }
        }
        found
    }

    /// Adds what the variables in `declared` say that have the name, line and type of a variable of `scopes`. An error:
    /// two that differ, so that it is not known which of them it is.
    fn add_dict_index(
        &self,
        view: &View<'_>,
        declared: &Scopes,
        scopes: &Scopes,
        variable: &Variable,
        found: &mut Option<DictIndex>,
    ) -> Result<(), Ambiguous> {
        let bare = |ty: TypeId, by_address: bool| if by_address { self.pointee_of(ty) } else { ty };
        let (wanted, by_address) = source_name(&variable.name);
        let wanted_type = bare(self.variable_type(view, variable.ty).id, by_address);
        let same_body = std::ptr::eq(declared, scopes);
        for other in &declared.variables {
            let (name, of_pointer) = source_name(&other.name);
            let owned =
                !matches!(other.owner, Owner::Inlined(_)) && (!same_body || other.owner == variable.owner);
            if name != wanted || other.decl_line != variable.decl_line || !owned {
                continue;
            }
            let ty = self.variable_type(view, other.ty);
            let Some(word) = ty.dict_index else { continue };
            let index = DictIndex { word, of_pointer };
            if bare(ty.id, of_pointer) != wanted_type || found.is_some_and(|found| found != index) {
                return Err(Ambiguous);
            }
            *found = Some(index);
        }
        Ok(())
    }

    /// A package variable's entry as a variable, with its full name; `None`: it has no fixed address.
    pub(crate) fn global<'a>(
        &self,
        view: &View<'a>,
        unit: &Unit<'a>,
        name: &str,
        ty: u64,
        location: &LocationAttribute,
    ) -> VisibleVariable {
        let ty = self.variable_type(view, ty);
        let at = At { address: 0, cfa_from_sp: None, entry: None };
        let location = match locations::evaluate(view, unit, location, at, self.get(ty.id).bytes, None) {
            VariableLocation::Pieces(pieces)
                if pieces.iter().any(|piece| !matches!(piece.place, super::Place::Address(_))) =>
            {
                VariableLocation::Unavailable(Unavailable::BadDebugInfo)
            }
            location => location,
        };
        VisibleVariable {
            name: Arc::from(name),
            role: Role::Global,
            ty: ty.id,
            decl_line: 0,
            location,
            dict_index: None,
        }
    }
}

/// Captured variables carry their offset; in functions that are also inlined somewhere they don't, but they are
/// declared before the function is.
fn is_captured(variable: &Variable, in_closure: bool, body_line: u32) -> bool {
    if variable.closure_offset.is_some() {
        return true;
    }
    let by_address = variable.name.starts_with('&');
    in_closure
        && !variable.is_parameter
        && matches!(variable.owner, Owner::Function | Owner::Inlined(_))
        && variable.decl_line != 0
        && (variable.decl_line < body_line || by_address && variable.decl_line == body_line)
}

/// An address of a function, opened.
#[derive(Clone, Copy)]
struct Site<'s, 'a> {
    view: &'s View<'a>,
    unit: &'s Unit<'a>,
    lines: &'s UnitLines,
    scopes: &'s Scopes,
    address: u64,
}

impl Site<'_, '_> {
    /// End of the prologue and start of the body.
    fn prologue(&self) -> (u64, u64) {
        let function = &self.scopes.function;
        self.lines
            .prologue_end(&function.ranges, function.decl_line.unwrap_or(0))
            .unwrap_or((function.entry, function.entry))
    }

    /// Whether the context register still holds the closure object: until the prologue's end, since nothing in a
    /// prologue changes it.
    fn holds_context(&self) -> bool {
        (self.scopes.function.entry..=self.prologue().0).contains(&self.address)
    }

    /// Whether the stores at the function's start lie behind.
    fn is_in_body(&self) -> bool {
        self.address >= self.prologue().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_compiler_made_up_is_hidden() {
        for (name, hidden) in [
            ("s", false),
            ("größe", false),
            ("_", true),
            ("~r0", true),
            (".dict", true),
            ("#yield1", true),
            ("s.ptr", true),
            ("s.len", true),
        ] {
            assert_eq!(is_hidden(name), hidden, "{name}");
        }
    }
}
