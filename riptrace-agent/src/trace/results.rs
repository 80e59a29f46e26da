//! Where the calls of a function end, and what is read there: its results.

use std::{collections::HashMap, sync::Arc};

use riptrace_common::wire::{event::Role, value::Unavailable};

use super::{
    Image, PlanFailure, Wanted,
    outputs::{self, Names},
    planning::{cfa_from_table, has_redacted, package_of, place_of},
    proofs::Proofs,
};
use crate::{
    dwarf::{DebugInfo, DictIndex, DwarfError, Function, Piece, Place, VariableLocation, VisibleVariable},
    expr::Outputs,
    golang::abi_internal::{self, Parameters},
    plan::{
        CallRole, SitePlan,
        captures::{SiteContext, plan_site},
        dictionary::GenericName,
        path::PathExpression,
        returns::{self, Calls, End},
        sites::{LineSource, LocationError, Resolved, Site},
        stripped::{RawTypes, argument_registers},
        types::TypeRegistry,
    },
};

/// Finds where the calls of the functions end that were found.
pub(super) fn calls(lines: &dyn LineSource, image: &Image, found: &Resolved) -> Result<Calls, LocationError> {
    let places = |function: &Arc<Function>| {
        let variables = results(image, image.debug.as_deref()?, function, CallRole::Return).ok()?;
        let pieces = variables.into_iter().flat_map(|variable| match variable.location {
            VariableLocation::Pieces(pieces) => pieces,
            _ => Vec::new(),
        });
        Some(pieces.map(|piece| piece.place).collect())
    };
    let mut calls = returns::ends(lines, image, found, &places)?;
    if !calls.ends.is_empty() {
        let unwinding = returns::unwinding(lines, image)?;
        calls.ends.extend(unwinding.ends);
        calls.warnings.extend(unwinding.warnings);
    }
    let mut assembly: HashMap<&str, ()> = HashMap::new();
    let mut warnings = Vec::new();
    for function in found.sites.iter().filter_map(|site| site.function.as_ref()) {
        if is_assembly(function) && assembly.insert(&function.name, ()).is_none() {
            warnings.push(format!(
                "{} is written in assembly: debug data does not know its results",
                function.name
            ));
        }
    }
    calls.warnings.extend(warnings);
    Ok(calls)
}

fn is_assembly(function: &Function) -> bool {
    function.decl_file.as_ref().is_some_and(|file| file.ends_with(".s"))
}

/// The results of the call that begins or ends at a site.
fn results_at(
    image: &Image,
    debug: &DebugInfo,
    site: &Site,
    role: CallRole,
) -> Result<Vec<VisibleVariable>, DwarfError> {
    let Some(function) = &site.function else { return Ok(Vec::new()) };
    if site.instance.is_none() {
        return results(image, debug, function, role);
    }
    let mut variables = debug.variables_between(function, site.scope_address, site.link_address)?;
    variables.retain(|variable| variable.role == Role::Return);
    Ok(variables)
}

/// What a function's results are called, if this is its entry.
pub(super) fn result_names(debug: &DebugInfo, site: &Site) -> Result<Vec<Arc<str>>, DwarfError> {
    let Some(function) = site.function.as_ref().filter(|_| site.instance.is_none()) else {
        return Ok(Vec::new());
    };
    Ok(debug.signature(function)?.results.into_iter().map(|result| result.name).collect())
}

/// What is shown where the calls of a function end, if expressions tell of it.
#[derive(Debug)]
pub(super) struct AtEnd {
    /// The results that are read.
    paths: Vec<PathExpression>,
    /// What is read at the entry for it.
    pub(super) kept: Vec<PathExpression>,
    /// What is made of both.
    pub(super) outputs: Arc<Outputs>,
}

/// Plans the expressions that tell of the end of a call which begins at this site.
pub(super) fn at_end(image: &Image, wanted: &Wanted, site: &Site) -> Result<Option<AtEnd>, PlanFailure> {
    if wanted.arguments_only || (wanted.captures.is_empty() && wanted.expressions.is_empty()) {
        return Ok(None);
    }
    let (Some(types), Some(function)) = (image.types(), &site.function) else { return Ok(None) };
    let debug: &DebugInfo = types.unredacted();
    let variables = debug.variables_between(function, site.scope_address, site.link_address)?;
    let mut results = results_at(image, debug, site, CallRole::Return)?;
    types.redact_results(&site.location.function, &mut results);
    let package = package_of(&site.location.function);
    let all: Vec<VisibleVariable> = results.iter().chain(&variables).cloned().collect();
    let names = Names { types, package, variables: &all };
    let (captures, expressions) = names.captures_and_expressions(&wanted.captures, &wanted.expressions)?;
    let mut expressions = names.of_ends(&[], expressions, true);
    if site.instance.is_some() {
        expressions = expressions.of_copy(&results);
    }
    if expressions.is_empty() {
        return Ok(None);
    }
    let mut paths: Vec<PathExpression> =
        captures.iter().filter_map(|capture| of_result(capture, site, &results)).collect();
    let names = Names { types, package, variables: &variables };
    let planned = outputs::plan_of_end(names, (&results, site.instance.is_none()), paths.len(), &expressions)
        .map_err(|reason| PlanFailure::Expression { place: place_of(site), reason })?;
    paths.extend(planned.operands);
    Ok(Some(AtEnd { paths, kept: planned.kept, outputs: Arc::new(planned.outputs) }))
}

/// Plans what is read where a call ends.
pub(super) fn plan_end(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    wanted: &Wanted,
    (end, at_end): (&End, Option<&AtEnd>),
    proofs: Option<&mut Proofs<'_>>,
) -> Result<SitePlan, PlanFailure> {
    let site = &end.site;
    let address = site.link_address;
    let file_offset = image.executable.file_offset(address).ok_or(PlanFailure::NotInFile { address })?;
    let cfa_from_sp = match &image.debug {
        Some(debug) => debug.cfa_from_sp(address),
        None => cfa_from_table(image, address),
    };
    let context = SiteContext {
        image: index,
        types: &RawTypes,
        exact: false,
        site,
        file_offset,
        cfa_from_sp,
        dictionary: None,
        limits: wanted.limits,
        contexts: &[],
    };
    let mut plan = match (image.types(), &site.function, proofs) {
        _ if end.role.is_internal() => plan_site(registry, &context, &[], &[])?,
        (Some(types), Some(function), Some(proofs)) => {
            let debug: &DebugInfo = types.unredacted();
            let mut variables = results_at(image, debug, site, end.role)?;
            proofs.settle(function, site, &mut variables);
            let dictionary = proofs.real_types(function, site, &mut variables)?;
            label_floats(&mut variables);
            if site.instance.is_some() {
                // A copy returns nothing anywhere, and what its variables hold behind it is not proved to be the results.
                for variable in &mut variables {
                    variable.location = VariableLocation::Unavailable(Unavailable::OptimizedOut);
                }
            }
            types.redact_results(&site.location.function, &mut variables);
            let exact = has_redacted(types, function)?;
            let context = SiteContext { types, exact, dictionary: dictionary.as_ref(), ..context };
            // What an expression names is an argument, seen at the entry, or a result.
            let of_results: Vec<PathExpression> = match at_end {
                Some(at_end) => at_end.paths.clone(),
                None => wanted
                    .captures
                    .iter()
                    .filter_map(|capture| of_result(capture, site, &variables))
                    .collect(),
            };
            let shows_all = wanted.captures.is_empty() && at_end.is_none();
            let shown: &[VisibleVariable] =
                if of_results.is_empty() && !shows_all { &[] } else { &variables };
            let contexts = if image.context_links().is_empty() { &[][..] } else { &variables };
            let context = SiteContext { contexts, ..context };
            let plan = plan_site(registry, &context, shown, &of_results)?;
            SitePlan { outputs: at_end.map(|at_end| Arc::clone(&at_end.outputs)), ..plan }
        }
        _ => {
            let returns = end.role == CallRole::Return && site.instance.is_none();
            let registers = if returns { argument_registers() } else { Vec::new() };
            plan_site(registry, &context, &registers, &[])?
        }
    };
    plan.call = end.role;
    Ok(plan)
}

/// The capture, if it begins at a result: by its name, or by its number as `~r1`, which is the name of a result without one.
/// Debug data may leave results of a copy out, which are not numbered then.
fn of_result(capture: &PathExpression, site: &Site, results: &[VisibleVariable]) -> Option<PathExpression> {
    let named = results.iter().find(|result| result.name == capture.variable);
    let all = results.get(..).filter(|_| site.instance.is_none());
    let numbered = || all?.get(capture.variable.strip_prefix("~r")?.parse::<usize>().ok()?);
    let variable = named.or_else(numbered)?.name.clone();
    Some(PathExpression { variable, ..capture.clone() })
}

/// The function's results, where they are when it returns.
fn results(
    image: &Image,
    debug: &DebugInfo,
    function: &Function,
    role: CallRole,
) -> Result<Vec<VisibleVariable>, DwarfError> {
    let signature = debug.signature(function)?;
    let parameters: Vec<_> = signature.parameters.iter().map(|parameter| parameter.ty).collect();
    let types: Vec<_> = signature.results.iter().map(|result| result.ty).collect();
    // Debug data may leave the dictionary out.
    let dictionary_behind = GenericName::of(&function.name).and_then(|name| name.dictionary_behind());
    let parameters = Parameters { types: &parameters, dictionary_behind };
    let assigned = abi_internal::results(debug, parameters, &types);
    let in_table = image.executable.pclntab().ok().and_then(|table| table.function_at(function.entry));
    let complete = in_table.is_none_or(|known| u64::from(known.argument_bytes()) == assigned.argument_bytes);
    let places = assigned.places.map(|places| places.into_iter().map(Some).collect());
    let places: Vec<Option<Vec<Piece>>> = places.unwrap_or_else(|| vec![None; types.len()]);
    let location = |pieces: Option<Vec<Piece>>| match (role, pieces) {
        (CallRole::Return, Some(pieces)) if complete || !pieces.iter().any(is_on_stack) => {
            VariableLocation::Pieces(pieces)
        }
        (CallRole::Return, _) => VariableLocation::Unavailable(Unavailable::BadDebugInfo),
        // The function that it goes over into has not run yet.
        _ => VariableLocation::Unavailable(Unavailable::NotInitialized),
    };
    let results = signature.results.into_iter().zip(places).map(|(result, pieces)| VisibleVariable {
        name: result.name,
        role: Role::Return,
        ty: result.ty,
        decl_line: 0,
        location: location(pieces),
        dict_index: result.dict_index.map(|word| DictIndex { word, of_pointer: false }),
    });
    Ok(results.collect())
}

/// A result of which nothing can be read has one label for all of it.
fn label_floats(results: &mut [VisibleVariable]) {
    for result in results {
        if let VariableLocation::Pieces(pieces) = &result.location
            && !pieces.is_empty()
            && pieces.iter().all(|piece| matches!(piece.place, Place::FloatRegister(_)))
        {
            result.location = VariableLocation::Unavailable(Unavailable::RegisterFloat);
        }
    }
}

fn is_on_stack(piece: &Piece) -> bool {
    matches!(piece.place, Place::Frame(_))
}
