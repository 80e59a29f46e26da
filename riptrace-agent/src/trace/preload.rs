//! Which dynamic types interfaces and variables are likely to hold: the registry is told of them in advance, so that their
//! values are whole from the first hit. And what was met in hits and was not known.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Image,
    planning::{ImageTypes, package_of},
    proofs::Proofs,
};
use crate::{
    golang::types::{Shape, TypeId, TypeSource},
    plan::{
        SitePlan,
        types::{COMMON_DYNAMIC_TYPES, RegistryError, TypeRegistry},
    },
};

/// Types that are compiled in advance for interfaces, for one location. What is not among them is learnt from hits.
const MAX_PRELOADED_TYPES: usize = 4096;

/// Of all types of a binary, those that are tried for `any`.
const MAX_ANY_TYPES: usize = 2048;

/// Closures of a package that are compiled in advance.
const MAX_CLOSURES: usize = 512;
/// Dictionaries of a package that are read in advance.
const MAX_DICTIONARIES: usize = 512;

/// Compiles the types that the interfaces of a plan are likely to hold: those that the linker made itabs for, and Go's
/// basic types for `any`.
pub(super) fn preload(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    types: &ImageTypes,
    plans: &[SitePlan],
) -> Result<(), RegistryError> {
    let met = registry.take_interfaces().into_iter().map(|(_, ty)| ty);
    let variables = plans.iter().flat_map(|plan| &plan.variables).map(|variable| variable.ty);
    let mut interfaces: Vec<TypeId> = met.chain(variables).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    preload_dictionaries(registry, image, index, types, plans)?;
    preload_closures(registry, image, index, types, plans)?;
    let mut names = HashSet::new();
    let mut any = false;
    for interface in interfaces.into_iter().map(|ty| types.get(ty)) {
        match interface.shape {
            Shape::Interface => drop(names.insert(Arc::clone(&interface.name))),
            Shape::EmptyInterface => any = true,
            _ => {}
        }
    }
    let mut candidates = Vec::new();
    let mut named = Vec::new();
    if !names.is_empty() {
        for itab in image.executable.itabs(|interface| names.contains(interface)) {
            let Some(ty) = types.unredacted().type_named(&itab.concrete) else { continue };
            candidates.push(ty);
            if let Some(runtime_type) = types.get(ty).runtime_type {
                named.push((itab.link_address, runtime_type));
            }
        }
    }
    if any {
        candidates.extend(COMMON_DYNAMIC_TYPES.iter().filter_map(|name| types.unredacted().type_named(name)));
        candidates.extend(types.unredacted().runtime_types().map(|(_, ty)| ty).take(MAX_ANY_TYPES));
    }
    registry.preload(index, types, candidates, MAX_PRELOADED_TYPES)?;
    for (itab, runtime_type) in named {
        registry.add_itab(index, itab, runtime_type);
    }
    Ok(())
}

/// Compiles the real types that the dictionaries of the plans' generic functions name: every instantiation has one, and
/// the symbol table names them (`main..dict.Map[int,string]`).
fn preload_dictionaries(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    types: &ImageTypes,
    plans: &[SitePlan],
) -> Result<(), RegistryError> {
    let mut words: HashMap<&str, BTreeSet<u32>> = HashMap::new();
    for plan in plans {
        let Some(dictionary) = &plan.dictionary else { continue };
        let wanted = words.entry(package_of(&plan.location.function)).or_default();
        wanted.extend(dictionary.variables.iter().map(|(_, index)| index.word));
    }
    // One walk through the symbol table a package, however many sites and instantiations there are.
    let mut proofs = Proofs::new(image, types.unredacted());
    for (package, words) in words {
        for address in proofs.dictionary_addresses(package).into_iter().take(MAX_DICTIONARIES) {
            for word in &words {
                // A word behind a shorter dictionary's end is the next one's: a type all the same, or none.
                let entry = address.checked_add(8 * u64::from(*word));
                if let Some(runtime_type) = entry.and_then(|entry| image.constant_pointer(entry)) {
                    registry.add_dynamic(index, types, runtime_type)?;
                }
            }
        }
    }
    Ok(())
}

/// Compiles what the closures of the plans' packages captured, where a variable is a func value: those are what it is
/// likely to hold.
fn preload_closures(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    types: &ImageTypes,
    plans: &[SitePlan],
) -> Result<(), RegistryError> {
    let Ok(table) = image.executable.pclntab() else { return Ok(()) };
    let with_funcs = plans
        .iter()
        .filter(|plan| plan.variables.iter().any(|variable| types.get(variable.ty).shape == Shape::Func));
    let own = with_funcs.map(|plan| package_of(&plan.location.function));
    let mut packages: HashSet<&str> = own.collect();
    // A `context.CancelFunc` is the one func of another package that almost every program keeps.
    if !packages.is_empty() {
        packages.insert("context");
    }
    for package in packages {
        let package = format!("{package}.");
        let closures =
            table.functions().filter(|function| function.name_begins_with(&package)).filter(|function| {
                function.name().get(package.len()..).is_some_and(|rest| rest.contains(".func"))
            });
        for closure in closures.take(MAX_CLOSURES) {
            if let Some(layout) = image.closure_layout(closure.entry) {
                registry.add_closure(index, types, closure.entry, &layout)?;
            }
        }
    }
    Ok(())
}

/// Adds types and closures that hits met. What can't be added stays `unknown_type` in later hits.
pub(super) fn learn(
    registry: &mut TypeRegistry,
    image: &Image,
    index: u32,
    types: &ImageTypes,
    runtime_types: &[u64],
    code: &[u64],
) -> Result<(), RegistryError> {
    for &runtime_type in runtime_types {
        registry.add_dynamic(index, types, runtime_type)?;
    }
    for &address in code {
        if let Some(layout) = image.closure_layout(address) {
            registry.add_closure(index, types, address, &layout)?;
        }
    }
    Ok(())
}
