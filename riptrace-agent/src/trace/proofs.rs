//! What machine code, symbols and read-only data prove about variables beyond debug data: where a value also is that
//! debug data places in a register which can't be read (`plan::copies`), and the real types of generic code
//! (`plan::dictionary`). Nothing here is a guess: what is not proved stays labelled.

use std::{collections::HashMap, rc::Rc};

use super::Image;
use crate::{
    dwarf::{DebugInfo, DictIndex, DwarfError, Function, Piece, VariableLocation, VisibleVariable},
    golang::{
        abi_internal,
        types::{TypeId, TypeSource},
    },
    plan::{
        copies::{Copies, is_in_vector},
        dictionary::GenericName,
        sites::Site,
    },
};

/// Dictionaries of a package that are looked at. Of a package with more none is known to be the only one.
const MAX_DICTIONARIES: usize = 8192;

/// Symbol names and addresses of a package's dictionaries.
type Dictionaries = Rc<[(String, u64)]>;

/// Keeps what was worked out for the sites of one location.
pub(super) struct Proofs<'a> {
    image: &'a Image,
    debug: &'a DebugInfo,
    /// By the function's entry.
    copies: HashMap<u64, Option<Rc<Copies>>>,
    /// By package. `None`: too many.
    dictionaries: HashMap<String, Option<Dictionaries>>,
}

impl<'a> Proofs<'a> {
    pub(super) fn new(image: &'a Image, debug: &'a DebugInfo) -> Self {
        Self { image, debug, copies: HashMap::new(), dictionaries: HashMap::new() }
    }

    /// Replaces places that can't be read by places that hold the same value at the site.
    pub(super) fn settle(&mut self, function: &Function, site: &Site, variables: &mut [VisibleVariable]) {
        if variables.iter().any(is_in_vector)
            && let Some(known) = self.copies(function).and_then(|copies| copies.before(site.link_address))
        {
            known.settle(variables);
        }
    }

    /// Gives variables of generic code their real types, where all dictionaries that the code can run with agree. For
    /// those whose type differs from call to call: where the call's dictionary is.
    pub(super) fn real_types(
        &mut self,
        function: &Function,
        site: &Site,
        variables: &mut [VisibleVariable],
    ) -> Result<Option<VariableLocation>, DwarfError> {
        if variables.iter().all(|variable| variable.dict_index.is_none()) {
            return Ok(None);
        }
        let instance = site.instance.and_then(|instance| function.inlined.get(instance));
        // The body of a call that was inlined has its own dictionary, of which nothing is left; except a closure's, who
        // has that of the function around it.
        let body = instance.map_or(&function.name, |instance| &instance.name);
        let shares = instance.is_none_or(|instance| {
            instance.name.strip_prefix(&*function.name).is_some_and(|rest| rest.starts_with('.'))
        });
        if let Some(name) = GenericName::of(body) {
            self.by_symbols(&name, variables);
        }
        if !shares || variables.iter().all(|variable| variable.dict_index.is_none()) {
            return Ok(None);
        }
        match self.debug.dictionary_at(function, site.link_address)? {
            Some(VariableLocation::Unavailable(_)) | None => Ok(self.by_convention(function, site)),
            found => Ok(found),
        }
    }

    fn by_symbols(&mut self, name: &GenericName<'_>, variables: &mut [VisibleVariable]) {
        let Some(dictionaries) = self.dictionaries_of(name.package) else { return };
        let debug = self.debug;
        let kind_of = |name: &str| debug.type_named(name).map(|ty| debug.get(ty).kind);
        let possible: Vec<u64> = dictionaries
            .iter()
            .filter(|(symbol, _)| name.may_have(symbol, kind_of))
            .map(|(_, address)| *address)
            .collect();
        for variable in variables {
            if let Some(index) = variable.dict_index
                && let Some(real) = self.agreed(&possible, index)
                && same_layout(debug, variable.ty, real)
            {
                variable.ty = real;
                variable.dict_index = None;
            }
        }
    }

    /// The type that all these dictionaries name.
    fn agreed(&self, dictionaries: &[u64], index: DictIndex) -> Option<TypeId> {
        let mut types = dictionaries.iter().map(|dictionary| {
            let entry = dictionary.checked_add(8 * u64::from(index.word))?;
            self.image.constant_pointer(entry)
        });
        let first = types.next()??;
        if !types.all(|ty| ty == Some(first)) {
            return None;
        }
        index.real_type(self.debug, self.debug.by_runtime_type(first)?)
    }

    fn by_convention(&mut self, function: &Function, site: &Site) -> Option<VariableLocation> {
        let behind = GenericName::of(&function.name)?.dictionary_behind()?;
        let signature = self.debug.signature(function).ok()?;
        let parameters: Vec<TypeId> = signature.parameters.iter().map(|parameter| parameter.ty).collect();
        if signature.parameters.iter().filter(|parameter| parameter.is_receiver).count() != behind {
            return None;
        }
        let register = abi_internal::dictionary_register(self.debug, parameters.get(..behind)?)?;
        let known = self.copies(function)?.before(site.link_address)?;
        let place = known.at_call(register)?;
        Some(VariableLocation::Pieces(vec![Piece { bytes: 8, place }]))
    }

    fn copies(&mut self, function: &Function) -> Option<Rc<Copies>> {
        let image = self.image;
        let found = self.copies.entry(function.entry);
        found.or_insert_with(|| Copies::of(image, function).map(Rc::new)).clone()
    }

    /// Every dictionary whose symbol begins with the package.
    fn dictionaries_of(&mut self, package: &str) -> Option<Dictionaries> {
        if let Some(known) = self.dictionaries.get(package) {
            return known.clone();
        }
        let prefix = format!("{package}..dict.");
        let mut found = Vec::new();
        self.image.executable.elf().for_each_data_symbol_with(&[prefix.as_bytes()], |name, symbol| {
            found.push((String::from_utf8_lossy(name).into_owned(), symbol.value));
            found.len() <= MAX_DICTIONARIES
        });
        let found = (found.len() <= MAX_DICTIONARIES).then(|| Rc::from(found));
        self.dictionaries.insert(package.to_owned(), found.clone());
        found
    }

    /// The addresses of a package's dictionaries, as far as they are known.
    pub(super) fn dictionary_addresses(&mut self, package: &str) -> Vec<u64> {
        let found = self.dictionaries_of(package);
        found.iter().flat_map(|found| found.iter()).map(|(_, address)| *address).collect()
    }
}

/// A shape type and the real one have the same layout; anything else is not the real one.
fn same_layout(types: &dyn TypeSource, shape: TypeId, real: TypeId) -> bool {
    let (shape, real) = (types.get(shape), types.get(real));
    shape.bytes == real.bytes && shape.kind == real.kind
}
