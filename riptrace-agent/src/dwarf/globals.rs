//! Package variables and named constants.

use std::sync::Arc;

use super::{
    DebugInfo, DwarfError,
    index::Table,
    names,
    scopes::{self, LocationAttribute},
    unit::{entries_at, reference},
    variable::VisibleVariable,
};

/// A named constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedConstant {
    /// Name with its package (`main.Busy`).
    pub name: Arc<str>,
    /// Its value; unsigned types are to be read as the same bits.
    pub value: i64,
}

/// No package has more.
const MAX_GLOBALS: usize = 1 << 16;

impl DebugInfo {
    /// The package's variables (import path in full), by name; a variable's name is the full one (`net/http.DefaultClient`).
    pub fn globals(&self, package: &str) -> Result<Vec<VisibleVariable>, DwarfError> {
        let view = self.view();
        let mut out = Vec::new();
        for die in self.index.lookup(Table::Globals, names::hash(package)).take(MAX_GLOBALS) {
            let Some((_, record)) = self.index.unit_of(die) else { continue };
            let unit = view.unit(u64::from(record.start))?;
            let mut entries = entries_at(&unit, die, "package variable")?;
            let Ok(Some(abbreviation)) = entries.read_abbreviation() else { continue };
            let (mut name, mut ty, mut location) = (None, None, None);
            for &spec in abbreviation.attributes() {
                let Ok(attribute) = entries.read_attribute(spec) else { break };
                match attribute.name() {
                    gimli::DW_AT_name => name = view.text(&unit, attribute.value()),
                    gimli::DW_AT_type => ty = reference(&unit, &attribute.value()),
                    gimli::DW_AT_location => location = scopes::location(&view, &unit, attribute.value()),
                    _ => {}
                }
            }
            if let (Some(name), Some(ty)) = (name, ty)
                && names::package(&name) == package
            {
                let location = location.unwrap_or(LocationAttribute::None);
                out.push(self.global(&view, &unit, &names::unescape(&name), ty, &location));
            }
        }
        out.sort_by(|left, right| left.name.cmp(&right.name));
        out.dedup_by(|left, right| left.name == right.name);
        Ok(out)
    }

    /// The named constants of a named type (`main.Status`), in order of declaration.
    pub fn constants_of(&self, type_name: &str) -> Arc<[NamedConstant]> {
        self.constants.get_or_insert(type_name, || self.read_constants(type_name).into())
    }

    fn read_constants(&self, type_name: &str) -> Vec<NamedConstant> {
        let view = self.view();
        let mut dies: Vec<u64> = self
            .types_named(type_name)
            .into_iter()
            .filter_map(|die| u32::try_from(die).ok())
            .flat_map(|die| self.index.lookup(Table::Constants, die).take(MAX_GLOBALS))
            .collect();
        dies.sort_unstable();
        dies.dedup();
        let mut out = Vec::new();
        for die in dies.into_iter().take(MAX_GLOBALS) {
            let Some((_, record)) = self.index.unit_of(die) else { continue };
            let Ok(unit) = view.unit(u64::from(record.start)) else { continue };
            let Ok(mut entries) = entries_at(&unit, die, "constant") else { continue };
            let Ok(Some(abbreviation)) = entries.read_abbreviation() else { continue };
            let (mut name, mut value) = (None, None);
            for &spec in abbreviation.attributes() {
                let Ok(attribute) = entries.read_attribute(spec) else { break };
                match attribute.name() {
                    gimli::DW_AT_name => name = view.text(&unit, attribute.value()),
                    gimli::DW_AT_const_value => {
                        let raw = attribute.value();
                        value = raw.sdata_value().or_else(|| raw.udata_value().map(u64::cast_signed));
                    }
                    _ => {}
                }
            }
            if let (Some(name), Some(value)) = (name, value) {
                out.push(NamedConstant { name: Arc::from(names::unescape(&name)), value });
            }
        }
        out
    }
}
