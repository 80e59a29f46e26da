//! From a location in a binary to the plans of its sites: asks `plan` and `dwarf`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    sync::Arc,
};

use riptrace_common::wire::event::{Location, Role, Trigger};

use super::{
    Image, PlanFailure, PlannedLocation, SiteChoice, Wanted,
    armed::{ArmedAddress, armed},
    outputs::{self, Names},
    preload,
    proofs::Proofs,
    results::{self, AtEnd},
    scope,
};
use crate::{
    binary::FileIdentity,
    dwarf::{DebugInfo, DwarfError, Function, VariableLocation, VisibleVariable},
    expr,
    golang::types::{TypeSource, leads_on},
    plan::{
        CallRole, SitePlan,
        captures::{PlanError, plan_site},
        condition::Condition,
        copies::Copies,
        fast::{Choice, Question, choose},
        path::{PathError, PathExpression, PathStep, nearest},
        referenced::referenced_first,
        returns::Calls,
        sites::{self, LineSource, LocationError, Site},
        stripped::{RawTypes, TableLines, argument_registers},
        trace_context,
        types::TypeRegistry,
    },
    redact::RedactedTypes,
};

/// A binary's types, as far as they may be read.
pub(super) type ImageTypes = RedactedTypes<Arc<DebugInfo>>;

/// Plans a location, and tells the registry of the types that its interfaces are likely to hold.
pub(super) fn plan(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    wanted: &Wanted,
) -> Result<PlannedLocation, PlanFailure> {
    let planned = plan_sites(registry, image, index, wanted)?;
    if planned.plans.iter().any(|plan| plan.contexts.is_some()) {
        registry.add_context_links(index, image.context_links());
    }
    if let Some(types) = image.types() {
        preload::preload(registry, image, index, types, &planned.plans)?;
    }
    Ok(planned)
}

fn plan_sites(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    wanted: &Wanted,
) -> Result<PlannedLocation, PlanFailure> {
    let mut warnings = Vec::new();
    let table;
    let lines: &dyn LineSource = match &image.debug {
        Some(debug) => debug.as_ref(),
        None => {
            let reason = image.debug_missing.clone().unwrap_or_default();
            if !wanted.captures.is_empty() || wanted.when.is_some() || !wanted.expressions.is_empty() {
                return Err(PlanFailure::NoVariables { reason });
            }
            warnings.push(reason);
            if image.is_redacted() {
                let unnamed = "without debug data nothing has a name that a redaction rule could forbid; the registers are \
                               shown as they are";
                warnings.push(unnamed.to_owned());
            }
            table = TableLines::new(image.executable.pclntab()?);
            &table
        }
    };
    let found = sites::resolve(lines, image, &wanted.location).map_err(|error| match &image.debug {
        Some(debug) => with_reason(error, debug, image),
        None => error,
    })?;
    let calls = if wanted.returns { results::calls(lines, image, &found)? } else { Calls::default() };
    warnings.extend(found.warnings);
    warnings.extend(calls.warnings);
    let mut plans = Vec::with_capacity(found.sites.len() + calls.ends.len());
    let mut proofs = image.debug.as_deref().map(|debug| Proofs::new(image, debug));
    let ends = calls.ends.iter().map(|end| end.site.link_address);
    let mut taken: BTreeSet<u64> = found.sites.iter().map(|site| site.link_address).chain(ends).collect();
    // By the function's entry, and the copy in it.
    let mut at_ends: HashMap<(u64, Option<usize>), AtEnd> = HashMap::new();
    let entry_alone = Wanted { sites: SiteChoice::LineStart, ..wanted.clone() };
    for site in &found.sites {
        let is_followed = calls.entries.contains(&site.link_address);
        let at_end = if is_followed { results::at_end(image, wanted, site)? } else { None };
        let one_way_in;
        let site = if is_followed {
            one_way_in = site.with_one_way_in();
            &one_way_in
        } else {
            site
        };
        // What runs exactly when a copy's entry does may lie behind its end.
        let wanted = if is_followed && site.instance.is_some() { &entry_alone } else { wanted };
        let place = (site, at_end.as_ref());
        let of_site = plan_one(registry, image, index, wanted, place, &taken, proofs.as_mut())?;
        for mut plan in of_site {
            if plan.fault_address.is_none() {
                taken.insert(plan.link_address);
            }
            if is_followed {
                plan.call = CallRole::Entry;
            }
            plans.push(plan);
        }
        if let (Some(at_end), Some(function)) = (at_end, &site.function) {
            at_ends.insert((function.entry, site.instance), at_end);
        }
    }
    for end in &calls.ends {
        let function = end.site.function.as_ref().filter(|_| !end.role.is_internal());
        let at_end = function.and_then(|function| at_ends.get(&(function.entry, end.site.instance)));
        let mut plan = results::plan_end(registry, image, index, wanted, (end, at_end), proofs.as_mut())?;
        // Of a call that began before, nobody knows whether the condition held.
        plan.condition = wanted.when.as_ref().map(|_| Condition::never());
        plans.push(plan);
    }
    Ok(PlannedLocation { plans, warnings })
}

/// A line without code: the source says why, where it is the source that the binary was built from as far as can be told
/// (a file of that path, not younger than the binary).
fn with_reason(error: LocationError, debug: &DebugInfo, image: &Image) -> LocationError {
    let LocationError::NoCode { file, line, reason: None, nearest } = error else { return error };
    let reason = || {
        let files = debug.files_matching(&file);
        let [path] = files.as_slice() else { return None };
        let source = FileIdentity::of(&fs::metadata(&**path).ok()?);
        if source.modified_ns > image.executable.identity().modified_ns {
            return None;
        }
        let text = fs::read_to_string(&**path).ok()?;
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        sites::reason_in_source(text.lines().nth(index))
    };
    LocationError::NoCode { reason: reason(), file, line, nearest }
}

/// Plans a location without a kernel side, to say what would be done.
///
/// # Errors
///
/// As [`super::Planner::plan`].
pub fn plan_alone(image: &Image, wanted: &Wanted) -> Result<PlannedLocation, PlanFailure> {
    plan_sites(&mut TypeRegistry::new(), image, 0, wanted)
}

/// Plans a site, and behind it those that take over where an execution of it ends by a fault. Of a function's entry: with
/// what is shown when the call ends.
fn plan_one(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    wanted: &Wanted,
    (site, at_end): (&Site, Option<&AtEnd>),
    taken: &BTreeSet<u64>,
    proofs: Option<&mut Proofs<'_>>,
) -> Result<Vec<SitePlan>, PlanFailure> {
    let address = site.link_address;
    let (debug, types, function, proofs) = match (&image.debug, image.types(), &site.function, proofs) {
        (Some(debug), Some(types), Some(function), Some(proofs)) => (debug, types, function, proofs),
        _ => {
            let registers = if site.trigger == Trigger::Entry { argument_registers() } else { Vec::new() };
            let cfa_from_sp = |address| cfa_from_table(image, address);
            let readable =
                Readable { variables: &registers, dictionary: None, leads_to_span: &HashSet::new() };
            let choice = choose_site(image, wanted, site, taken, &cfa_from_sp, readable);
            let armed = armed(image, site, choice, &cfa_from_sp)?;
            let plan = |armed: &ArmedAddress| {
                let context = armed.context(index, &RawTypes, false, wanted.limits);
                let plan = plan_site(registry, &context, &armed.variables, &[])?;
                Ok(SitePlan { fault_address: armed.fault_address, ..plan })
            };
            return armed.iter().map(plan).collect();
        }
    };
    let mut variables = debug.variables_between(function, site.scope_address, address)?;
    let package = package_of(&site.location.function);
    if wanted.globals && !wanted.arguments_only {
        let mut globals = debug.globals(package)?;
        referenced_first(image, debug.as_ref(), site, &mut globals);
        variables.extend(globals);
    }
    let globals = || debug.globals(package);
    let names = Names { types, package, variables: &variables };
    let (mut captures, mut expressions) =
        names.captures_and_expressions(&wanted.captures, &wanted.expressions)?;
    if wanted.returns {
        // A result without a name is there only when the call ends.
        captures.retain(|capture| !capture.variable.starts_with('~'));
        expressions = names.of_ends(&results::result_names(debug, site)?, expressions, false);
    }
    let shows_all = wanted.captures.is_empty() && wanted.expressions.is_empty();
    let mut computed = None;
    // A plan of arguments only shows what it can of the operands. It is for the same address.
    let has_expressions = !expressions.is_empty() || !wanted.expressions.is_empty() || at_end.is_some();
    if has_expressions && !wanted.arguments_only {
        let planned = outputs::plan(names, captures.len(), &expressions);
        let mut planned =
            planned.map_err(|reason| PlanFailure::Expression { place: place_of(site), reason })?;
        captures.extend(planned.operands);
        if let Some(at_end) = at_end {
            planned.outputs.kept = captures.len()..captures.len() + at_end.kept.len();
            planned.outputs.at_end = Some(Arc::clone(&at_end.outputs));
            captures.extend_from_slice(&at_end.kept);
        }
        computed = Some(Arc::new(planned.outputs));
    }
    let captures = with_package_variables(&captures, package, globals, &mut variables)?;
    proofs.settle(function, site, &mut variables);
    let dictionary = proofs.real_types(function, site, &mut variables)?;
    let cfa_from_sp = |address| debug.cfa_from_sp(address);
    let wanted = &Wanted { captures, ..wanted.clone() };
    let leads_to_span = leads_to_span(image, debug, &variables);
    let choice = choose_site(
        image,
        wanted,
        site,
        taken,
        &cfa_from_sp,
        Readable { variables: &variables, dictionary: dictionary.as_ref(), leads_to_span: &leads_to_span },
    );
    let mut armed = armed(image, site, choice, &cfa_from_sp)?;
    let exact = has_redacted(types, function)?;
    let plan = |armed: &mut ArmedAddress| {
        types.redact_variables(&mut armed.variables);
        if !leads_to_span.is_empty() {
            armed.contexts.clone_from(&armed.variables);
        }
        if wanted.arguments_only {
            armed.variables.retain(|variable| matches!(variable.role, Role::Argument | Role::Receiver));
        }
        let context = armed.context(index, types, exact, wanted.limits);
        // A message without a variable captures none, and what names results alone none at the entry.
        let has_none = wanted.captures.is_empty() && !shows_all && !wanted.arguments_only;
        let shown = if has_none { &[][..] } else { &armed.variables };
        let mut plan = plan_site(registry, &context, shown, &wanted.captures)?;
        plan.fault_address = armed.fault_address;
        plan.outputs.clone_from(&computed);
        // A plan of arguments only stands in for one that has decided already.
        if let Some(when) = wanted.when.as_ref().filter(|_| !wanted.arguments_only) {
            let (site, cfa_from_sp) = (&armed.site, armed.cfa_from_sp);
            let compiled = scope::condition(types, package, site, cfa_from_sp, &armed.variables, when);
            plan.condition =
                Some(compiled.map_err(|reason| PlanFailure::Condition { place: place_of(site), reason })?);
        }
        Ok(plan)
    };
    armed.iter_mut().map(plan).collect()
}

pub(super) fn place_of(site: &Site) -> String {
    let Location { file, line, function, pc, .. } = &site.location;
    format!("{file}:{line} in {function} ({pc})")
}

/// A function has variables, visible or not, that are not copied: they may lie between others on its stack.
pub(super) fn has_redacted(types: &ImageTypes, function: &Function) -> Result<bool, DwarfError> {
    if !types.redacts() {
        return Ok(false);
    }
    let variables = types.unredacted().all_variables(function)?;
    Ok(variables.iter().any(|(name, ty)| types.holds_redacted(name, *ty)))
}

/// As [`choose_site`], of all variables of a site.
pub(super) fn choice_of(
    image: &Image,
    wanted: &Wanted,
    site: &Site,
    taken: &BTreeSet<u64>,
) -> Result<Option<Choice>, DwarfError> {
    let (Some(debug), Some(function)) = (&image.debug, &site.function) else { return Ok(None) };
    let variables = debug.variables_between(function, site.scope_address, site.link_address)?;
    let dictionary = debug.dictionary_at(function, site.link_address)?;
    let cfa_from_sp = |address| debug.cfa_from_sp(address);
    let leads_to_span = leads_to_span(image, debug, &variables);
    let readable =
        Readable { variables: &variables, dictionary: dictionary.as_ref(), leads_to_span: &leads_to_span };
    Ok(Some(choose_site(image, wanted, site, taken, &cfa_from_sp, readable)))
}

/// What there is to read at a site.
#[derive(Clone, Copy)]
struct Readable<'a> {
    variables: &'a [VisibleVariable],
    dictionary: Option<&'a VariableLocation>,
    /// Names of those that are read for the hit's span, shown or not.
    leads_to_span: &'a HashSet<Arc<str>>,
}

fn leads_to_span(image: &Image, debug: &DebugInfo, variables: &[VisibleVariable]) -> HashSet<Arc<str>> {
    match image.context_links() {
        [] => HashSet::new(),
        _ => trace_context::names(debug, variables),
    }
}

/// Whether a function is the runtime's.
fn is_runtime(function: &str) -> bool {
    ["runtime.", "runtime/", "internal/runtime/"].iter().any(|prefix| function.starts_with(prefix))
}

/// Which of the instructions that run exactly when the site's entry runs is armed (`plan::fast`).
fn choose_site(
    image: &Image,
    wanted: &Wanted,
    site: &Site,
    taken: &BTreeSet<u64>,
    cfa_from_sp: &dyn Fn(u64) -> Option<i32>,
    Readable { variables, dictionary, leads_to_span }: Readable<'_>,
) -> Choice {
    let decides = wanted.when.as_ref().map(|when| expr::names_in(&when.expr)).unwrap_or_default();
    let is_wanted = |variable: &VisibleVariable| {
        wanted.captures.is_empty()
            || wanted.captures.iter().any(|capture| capture.variable == variable.name)
            || decides.contains(&variable.name)
            || leads_to_span.contains(&variable.name)
    };
    let entry_alone;
    let stretch = match wanted.sites {
        SiteChoice::Best | SiteChoice::NoBranch => &site.stretch,
        SiteChoice::LineStart => {
            entry_alone = site.stretch.entry_alone();
            &entry_alone
        }
    };
    // Both lie in one binary's code, which has to be smaller than what the kernel side can tell apart.
    let is_near = |behind: u64| i32::try_from(behind.wrapping_sub(site.link_address).cast_signed()).is_ok();
    // The runtime's own code also runs where no fault is survived, and none comes to what is armed behind it.
    let location = &site.location;
    let is_runtime = is_runtime(location.inlined_into.as_ref().unwrap_or(&location.function));
    let types = image.types();
    let leads_on = |variable: &VisibleVariable| types.is_none_or(|types| leads_on(types, variable.ty));
    let catches_faults =
        !is_runtime && !stretch.faults.is_empty() && image.behind_faults().is_some_and(is_near);
    let question = Question {
        stretch,
        cfa_from_sp,
        variables,
        dictionary,
        is_wanted: &is_wanted,
        taken,
        leads_on: &leads_on,
        keeps_go_rules: !is_runtime,
        catches_faults,
        // A call's entry and its end are seen both or not at all.
        at_branches: wanted.sites == SiteChoice::Best && !wanted.returns,
        copies: None,
    };
    let choice = choose(&question);
    if !choice.lacks_values() {
        return choice;
    }
    // Following the whole function's code takes its time, and few sites need it.
    match site.function.as_ref().filter(|function| function.is_go).and_then(|f| Copies::of(image, f)) {
        Some(copies) => choose(&Question { copies: Some(&copies), ..question }),
        None => choice,
    }
}

/// CFA minus SP by the runtime's own table, for a binary without debug data.
pub(super) fn cfa_from_table(image: &Image, address: u64) -> Option<i32> {
    const RETURN_ADDRESS_BYTES: i32 = 8;
    let function = image.executable.pclntab().ok()?.function_at(address)?;
    i32::try_from(function.sp_delta_at(address)?).ok()?.checked_add(RETURN_ADDRESS_BYTES)
}

/// `server.ErrClosed`, where no variable in scope is called `server`: a variable of the location's package. It is written
/// with the package's name, so that it is never taken for a local variable that the compiler left out.
fn with_package_variables(
    captures: &[PathExpression],
    package: &str,
    globals: impl FnOnce() -> Result<Vec<VisibleVariable>, DwarfError>,
    variables: &mut Vec<VisibleVariable>,
) -> Result<Vec<PathExpression>, PlanFailure> {
    let short = package.rsplit('/').next().unwrap_or(package);
    let mut captures = captures.to_vec();
    let mut of_package: Vec<&mut PathExpression> = captures
        .iter_mut()
        .filter(|capture| *capture.variable == *short && variables.iter().all(|known| &*known.name != short))
        .collect();
    if of_package.is_empty() {
        return Ok(captures);
    }
    let globals = globals()?;
    for capture in &mut of_package {
        let Some(PathStep::Field(name)) = capture.steps.first() else { continue };
        let full = format!("{package}.{name}");
        let Some(global) = globals.iter().find(|global| *global.name == *full) else {
            let own = |global: &VisibleVariable| {
                Some(Arc::from(global.name.strip_prefix(package)?.strip_prefix('.')?))
            };
            let names: Vec<Arc<str>> = globals.iter().filter_map(own).collect();
            let missing = PathError::NoPackageVariable {
                text: Arc::clone(&capture.text),
                package: package.into(),
                name: Arc::clone(name),
                nearest: nearest(name, names.iter())
                    .iter()
                    .map(|name| format!("{short}.{name}").into())
                    .collect(),
            };
            return Err(PlanError::Expression(missing).into());
        };
        let name: Arc<str> = format!("{short}.{name}").into();
        variables.push(VisibleVariable { name: Arc::clone(&name), ..global.clone() });
        capture.variable = name;
        capture.steps.remove(0);
    }
    Ok(captures)
}

/// The import path in a function's full name: `net/http` of `net/http.(*Server).Serve`.
pub(super) fn package_of(function: &str) -> &str {
    // Type arguments have import paths of their own.
    let function = function.split('[').next().unwrap_or(function);
    let after_slash = function.rfind('/').map_or(0, |slash| slash + 1);
    let end = function[after_slash..].find('.').map_or(function.len(), |dot| after_slash + dot);
    &function[..end]
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::value::Unavailable;

    use super::*;
    use crate::{dwarf::VariableLocation, golang::types::TypeId};

    #[test]
    fn a_variable_of_the_package_is_named_with_it_unless_a_local_one_has_the_package_s_name() {
        let variable = |name: &str, role| VisibleVariable {
            name: name.into(),
            role,
            ty: TypeId(0),
            decl_line: 0,
            location: VariableLocation::Unavailable(Unavailable::OptimizedOut),
            dict_index: None,
        };
        let globals = || Ok(vec![variable("example.org/shop/orders.Open", Role::Global)]);
        let parsed = |texts: &[&str]| -> Vec<PathExpression> {
            texts.iter().map(|text| PathExpression::parse(text).unwrap()).collect()
        };
        let captures = parsed(&["orders.Open.Count", "Open", "o"]);
        let first = |local: &str| {
            let mut variables = vec![variable(local, Role::Local)];
            let captures =
                with_package_variables(&captures, "example.org/shop/orders", globals, &mut variables)
                    .unwrap();
            let names: Vec<String> = variables.iter().map(|variable| variable.name.to_string()).collect();
            let asked: Vec<String> = captures.iter().map(|capture| capture.variable.to_string()).collect();
            (names, asked)
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(first("o"), (words(&["o", "orders.Open"]), words(&["orders.Open", "Open", "o"])));
        assert_eq!(first("orders"), (words(&["orders"]), words(&["orders", "Open", "o"])));
        let missing = with_package_variables(
            &parsed(&["orders.Opem.Count"]),
            "example.org/shop/orders",
            globals,
            &mut Vec::new(),
        );
        assert_eq!(
            missing.unwrap_err().to_string(),
            "\"orders.Opem.Count\": package example.org/shop/orders has no variable Opem in this program (the linker \
             leaves out what nothing uses); there is orders.Open"
        );
    }

    #[test]
    fn a_function_s_package_is_its_import_path() {
        for (function, package) in [
            ("main.main", "main"),
            ("net/http.(*Server).Serve", "net/http"),
            ("example.org/shop/v2/orders.Place.func1", "example.org/shop/v2/orders"),
            ("main.Map[example.org/shop.Order,int]", "main"),
        ] {
            assert_eq!(package_of(function), package);
        }
    }
}
