//! A binary's types, seen through the rules.

use std::sync::Arc;

use super::{Rules, Sort, Treatment, TypeName};
use crate::{
    bounded_cache::BoundedCache,
    dwarf::{ClosureLayout, VisibleVariable},
    golang::types::{FieldLayout, GoType, Kind, MapLayout, Shape, TypeId, TypeSource},
    plan::captures,
};

/// Marks of a [`TypeId`] that stands for a type whose values here are not copied, or for a guarded map. No entry of debug
/// data and no address of a type has these bits.
const REDACTED: u64 = 1 << 62;
const GUARDED: u64 = 1 << 61;
/// Pointers, slices and arrays around a text.
const MAX_NESTING: u32 = 4;
/// What the cache may hold before it starts again.
const MAX_CACHED: usize = 1 << 16;

/// Types of `T` of which the rules forbid some.
#[derive(Debug)]
pub struct RedactedTypes<T> {
    pub(super) types: T,
    rules: Arc<Rules>,
    known: BoundedCache<TypeId, Arc<GoType>, MAX_CACHED>,
}

impl<T: TypeSource> RedactedTypes<T> {
    /// Types as the rules let them be seen.
    pub fn new(types: T, rules: Arc<Rules>) -> Self {
        Self { types, rules, known: BoundedCache::default() }
    }

    /// The rules.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The types as they are.
    pub fn unredacted(&self) -> &T {
        &self.types
    }

    /// Gives the variables that must not be copied a type that says so.
    pub fn redact_variables(&self, variables: &mut [VisibleVariable]) {
        if self.rules.are_off() {
            return;
        }
        for variable in variables {
            variable.ty = self.type_of_variable(&variable.name, variable.ty);
        }
    }

    /// The same for a function's results. One without a name is what the function's name says (`Password`).
    pub fn redact_results(&self, function: &str, results: &mut [VisibleVariable]) {
        self.redact_variables(results);
        let function = function.rsplit('.').next().unwrap_or_default();
        for result in results.iter_mut().filter(|result| result.name.starts_with('~')) {
            result.ty = self.type_of_variable(function, result.ty);
        }
    }

    /// The same for what a closure captured.
    pub fn redact_closure(&self, layout: &mut ClosureLayout) {
        if self.rules.are_off() {
            return;
        }
        for captured in &mut layout.captured {
            captured.ty = self.type_of_variable(&captured.name, captured.ty);
        }
    }

    /// Some of a variable of this name and type is not copied.
    pub fn holds_redacted(&self, name: &str, ty: TypeId) -> bool {
        !self.rules.are_off() && captures::holds_redacted(self, self.type_of_variable(name, ty))
    }

    fn type_of_variable(&self, name: &str, ty: TypeId) -> TypeId {
        if is_marked(ty) || self.rules.are_off() {
            return ty;
        }
        self.treated(ty, self.rules.treat_variable(name, || self.sort(ty)))
    }

    fn treated(&self, ty: TypeId, treatment: Treatment) -> TypeId {
        match treatment {
            Treatment::Copied => ty,
            Treatment::Redacted => TypeId(ty.0 | REDACTED),
            Treatment::Guarded => self.guarded(ty),
        }
    }

    fn sort(&self, ty: TypeId) -> Sort {
        let go = self.types.get(ty);
        match go.shape {
            Shape::Func | Shape::Chan { .. } => Sort::Harmless,
            Shape::Scalar if go.kind == Kind::Bool => Sort::Harmless,
            Shape::Struct { .. } | Shape::Array { .. } if go.bytes == 0 => Sort::Harmless,
            _ if self.is_text(&go, MAX_NESTING) => Sort::Text,
            _ => Sort::Other,
        }
    }

    fn is_text(&self, ty: &GoType, nesting: u32) -> bool {
        match &ty.shape {
            Shape::String | Shape::EmptyInterface => true,
            Shape::Slice { elem } | Shape::Array { elem, .. } | Shape::Pointer { elem: Some(elem) } => {
                let elem = self.types.get(*elem);
                elem.kind == Kind::Uint8
                    || nesting.checked_sub(1).is_some_and(|nesting| self.is_text(&elem, nesting))
            }
            Shape::Map(map) => {
                let value = self.types.get(map.value);
                nesting.checked_sub(1).is_some_and(|nesting| self.is_text(&value, nesting))
            }
            _ => false,
        }
    }

    /// The type, if it is a map with strings as keys: as one whose values are guarded.
    fn guarded(&self, ty: TypeId) -> TypeId {
        match self.types.get(ty).shape {
            Shape::Map(map) if self.types.get(map.key).shape == Shape::String => TypeId(ty.0 | GUARDED),
            _ => ty,
        }
    }

    fn see(&self, id: TypeId) -> Arc<GoType> {
        let bare = TypeId(id.0 & !(REDACTED | GUARDED));
        let ty = self.types.get(bare);
        let name = TypeName::new(&ty.name);
        if id.0 & REDACTED != 0 || self.rules.forbids_type(&name, || self.sort(bare)) {
            return Arc::new(GoType { shape: Shape::Redacted, ..GoType::clone(&ty) });
        }
        match &ty.shape {
            Shape::Struct { fields } if !is_runtime_s_own(&ty.name, fields) => {
                let seen: Vec<FieldLayout> = fields.iter().map(|field| self.field(&name, field)).collect();
                if seen == *fields {
                    return ty;
                }
                Arc::new(GoType { shape: Shape::Struct { fields: seen }, ..GoType::clone(&ty) })
            }
            Shape::Map(map) if id.0 & GUARDED != 0 || self.rules.guards_type(&name) => {
                Arc::new(GoType { shape: Shape::Map(self.guard(*map)), ..GoType::clone(&ty) })
            }
            _ => ty,
        }
    }

    fn field(&self, holder: &TypeName, field: &FieldLayout) -> FieldLayout {
        let treatment = self.rules.treat_field(holder, &field.name, || self.sort(field.ty));
        FieldLayout { ty: self.treated(field.ty, treatment), ..field.clone() }
    }

    /// Values that lie in the map itself, beside their keys, can't be copied one by one: none is.
    fn guard(&self, map: MapLayout) -> MapLayout {
        let holds_nothing_itself = matches!(
            self.types.get(map.value).shape,
            Shape::String
                | Shape::Slice { .. }
                | Shape::Pointer { .. }
                | Shape::Map(_)
                | Shape::EmptyInterface
                | Shape::Interface
        );
        let has_text_keys = self.types.get(map.key).shape == Shape::String;
        let value =
            if holds_nothing_itself && has_text_keys { map.value } else { TypeId(map.value.0 | REDACTED) };
        MapLayout { value, is_guarded: true, ..map }
    }
}

impl<T: TypeSource> TypeSource for RedactedTypes<T> {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        // The name of no type has all bits.
        if self.rules.are_off() || id.0 == u64::MAX {
            return self.types.get(id);
        }
        self.known.get_or_insert(&id, || self.see(id))
    }

    fn redacts(&self) -> bool {
        !self.rules.are_off()
    }

    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId> {
        self.types.by_runtime_type(link_address)
    }
}

fn is_marked(id: TypeId) -> bool {
    id.0 != u64::MAX && id.0 & (REDACTED | GUARDED) != 0
}

/// Structs that no programmer wrote, whose fields have names that mean something else (the `key` of a map's slot), and the
/// runtime's, which must be readable for anything to be.
fn is_runtime_s_own(name: &str, fields: &[FieldLayout]) -> bool {
    let is_slot = || matches!(fields, [key, elem] if &*key.name == "key" && &*elem.name == "elem");
    let is_literal = name.starts_with("struct {");
    ["runtime.", "internal/", "noalg.", "map.", "reflect.", "sync."]
        .iter()
        .any(|start| name.starts_with(start))
        || !is_literal && name.contains('<')
        || is_literal && is_slot()
}
