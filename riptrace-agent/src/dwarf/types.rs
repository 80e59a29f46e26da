//! Types from debug data: how Go's compiler describes each kind (cmd/link/internal/ld/dwarf.go, `newtype`).

use std::sync::Arc;

use gimli::AttributeValue;

use super::{
    DebugInfo,
    unit::{Unit, View, entries_at, go, reference},
};
use crate::golang::{
    abi_type::{KIND_MASK, kind_of_number},
    types::{FieldLayout, GoType, Kind, MapLayout, Shape, TypeId, TypeSource},
};

/// How many typedefs may stand in front of a type.
const MAX_CHAIN: usize = 16;
/// No struct has more fields.
const MAX_FIELDS: usize = 1 << 16;
/// The compiler keeps nothing with more parts in registers.
const MAX_LEAVES: usize = 64;
/// How deep arrays of arrays are measured.
const MAX_NESTING: usize = 16;

/// A type's entry as it stands there.
#[derive(Debug, Default)]
struct Entry {
    tag: Option<gimli::DwTag>,
    name: Option<Arc<str>>,
    bytes: Option<u64>,
    encoding: Option<gimli::DwAte>,
    ty: Option<u64>,
    go_kind: Option<u8>,
    key: Option<u64>,
    elem: Option<u64>,
    runtime_type: Option<u64>,
    dict_index: Option<u32>,
    has_children: bool,
    is_go: bool,
}

/// What a variable's type reference leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VariableType {
    pub(crate) id: TypeId,
    pub(crate) dict_index: Option<u32>,
}

impl DebugInfo {
    /// Follows typedefs that only repeat their target's name (`dotypedef` makes one for each named type), and the
    /// typedefs by which a generic function's variables name their place in the dictionary.
    pub(crate) fn variable_type(&self, view: &View<'_>, die: u64) -> VariableType {
        self.variable_types.get_or_insert(&die, || self.read_variable_type(view, die))
    }

    fn read_variable_type(&self, view: &View<'_>, die: u64) -> VariableType {
        let mut id = die;
        let mut dict_index = None;
        for _ in 0..MAX_CHAIN {
            let Some((entry, _)) = self.type_entry(view, id) else { break };
            let (Some(gimli::DW_TAG_typedef), Some(target), None) = (entry.tag, entry.ty, entry.go_kind)
            else {
                break;
            };
            let dictionary = entry.dict_index.is_some();
            if !dictionary {
                let same = self.type_entry(view, target).is_some_and(|(target, _)| {
                    target.is_go && target.name.is_some() && target.name == entry.name
                });
                if !same {
                    break;
                }
            }
            dict_index = dict_index.or(entry.dict_index);
            id = target;
        }
        VariableType { id: TypeId(id), dict_index }
    }

    fn canonical(&self, view: &View<'_>, die: u64) -> TypeId {
        self.variable_type(view, die).id
    }

    /// The unit of the entry and the entry; `None` if nothing that could be a type lies there.
    fn type_entry<'a>(&self, view: &View<'a>, die: u64) -> Option<(Entry, Arc<Unit<'a>>)> {
        let (_, record) = self.index.unit_of(die)?;
        let unit = view.unit(u64::from(record.start)).ok()?;
        let mut entries = entries_at(&unit, die, "type").ok()?;
        let abbreviation = entries.read_abbreviation().ok()??;
        let mut entry = Entry {
            tag: Some(abbreviation.tag()),
            has_children: abbreviation.has_children(),
            is_go: record.is_go,
            ..Entry::default()
        };
        for &spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(spec).ok()?;
            let value = attribute.value();
            match attribute.name() {
                gimli::DW_AT_name => entry.name = view.text(&unit, value).map(Arc::from),
                gimli::DW_AT_byte_size => entry.bytes = value.udata_value(),
                gimli::DW_AT_encoding => {
                    if let AttributeValue::Encoding(encoding) = value {
                        entry.encoding = Some(encoding);
                    }
                }
                gimli::DW_AT_type => entry.ty = reference(&unit, &value),
                go::KIND => entry.go_kind = value.udata_value().and_then(|kind| u8::try_from(kind).ok()),
                go::KEY => entry.key = reference(&unit, &value),
                go::ELEM => entry.elem = reference(&unit, &value),
                go::RUNTIME_TYPE => {
                    entry.runtime_type = match value {
                        AttributeValue::Addr(raw) => Some(raw),
                        value => value.udata_value(),
                    }
                    .filter(|raw| *raw != 0);
                }
                go::DICT_INDEX => {
                    entry.dict_index = value.udata_value().and_then(|index| u32::try_from(index).ok());
                }
                _ => {}
            }
        }
        Some((entry, unit))
    }

    /// Reads a type. `nesting`: how many arrays lie around it.
    pub(crate) fn read_type(&self, view: &View<'_>, die: u64, nesting: usize) -> GoType {
        let mut name: Option<Arc<str>> = None;
        let mut at = die;
        for _ in 0..MAX_CHAIN {
            let Some((entry, unit)) = self.type_entry(view, at) else { break };
            // The outermost name is the type's.
            if name.is_none() {
                name.clone_from(&entry.name);
            }
            let is_alias = matches!(
                entry.tag,
                Some(
                    gimli::DW_TAG_typedef
                        | gimli::DW_TAG_const_type
                        | gimli::DW_TAG_volatile_type
                        | gimli::DW_TAG_restrict_type
                )
            );
            match entry.ty {
                Some(target) if is_alias && entry.go_kind.is_none() => at = target,
                _ => return self.build(view, &unit, at, &entry, name, nesting),
            }
        }
        unknown(name, 0)
    }

    fn build<'a>(
        &self,
        view: &View<'a>,
        unit: &Unit<'a>,
        die: u64,
        entry: &Entry,
        name: Option<Arc<str>>,
        nesting: usize,
    ) -> GoType {
        let kind = kind_of(entry);
        if !entry.is_go && kind == Kind::Invalid {
            let bytes = match entry.tag {
                Some(gimli::DW_TAG_pointer_type | gimli::DW_TAG_reference_type) => 8,
                _ => entry.bytes.unwrap_or(0),
            };
            return unknown(name, bytes);
        }
        let id = |die: Option<u64>| die.map(|die| self.canonical(view, die));
        // Sizes that the kind alone decides.
        let mut bytes = match kind {
            Kind::String | Kind::Interface => 16,
            Kind::Slice => 24,
            Kind::Pointer | Kind::Map | Kind::Chan | Kind::Func | Kind::UnsafePointer => 8,
            _ => entry.bytes.unwrap_or(0),
        };
        let shape = match kind {
            Kind::String => Some(Shape::String),
            Kind::Slice => id(entry.elem).map(|elem| Shape::Slice { elem }),
            Kind::Array => entry.ty.map(|elem| {
                let (len, size) = self.array(view, unit, die, elem, entry.bytes, nesting);
                bytes = size;
                Shape::Array { elem: self.canonical(view, elem), len }
            }),
            Kind::Struct => {
                Some(Shape::Struct { fields: self.fields(view, unit, die, entry.has_children, bytes) })
            }
            // A shape stands for pointers of every kind; the `uint8` that it names is none of them
            // (cmd/compile/internal/noder/reader.go, `shapify`).
            Kind::Pointer if entry.name.as_deref().is_some_and(|name| name.starts_with("go.shape.")) => {
                Some(Shape::Pointer { elem: None })
            }
            Kind::Pointer => Some(Shape::Pointer { elem: id(entry.ty) }),
            Kind::Map => self.map(view, entry),
            Kind::Chan => id(entry.elem).and_then(|elem| {
                let header = entry.ty.and_then(|pointer| self.pointee(view, pointer))?;
                Some(Shape::Chan { elem, header })
            }),
            Kind::Interface => Some(if self.is_empty_interface(view, entry.ty) {
                Shape::EmptyInterface
            } else {
                Shape::Interface
            }),
            Kind::Func => Some(Shape::Func),
            Kind::UnsafePointer => Some(Shape::UnsafePointer),
            Kind::Invalid => None,
            _ => scalar_size(kind, bytes).then_some(Shape::Scalar),
        };
        match shape {
            Some(shape) => GoType {
                name: name.unwrap_or_else(|| Arc::from("?")),
                bytes,
                kind,
                shape,
                runtime_type: entry
                    .runtime_type
                    .and_then(|raw| self.sections.runtime_types_base?.checked_add(raw)),
            },
            None => unknown(name, bytes),
        }
    }

    /// Offset and size of every part of a value that the compiler handles by itself, in order; `None`: too many, or of
    /// a type that debug data does not describe.
    pub(crate) fn leaves(&self, ty: TypeId) -> Option<Vec<(u64, u64)>> {
        let mut out = Vec::new();
        self.add_leaves(ty, 0, &mut (MAX_LEAVES * 16), &mut out)?;
        Some(out)
    }

    /// `budget`: how many types may still be looked at.
    fn add_leaves(
        &self,
        ty: TypeId,
        offset: u64,
        budget: &mut usize,
        out: &mut Vec<(u64, u64)>,
    ) -> Option<()> {
        *budget = budget.checked_sub(1)?;
        let ty = self.get(ty);
        if ty.bytes == 0 {
            return Some(());
        }
        let mut words = |sizes: &[u64]| {
            let mut at = offset;
            for &size in sizes {
                out.push((at, size));
                at = at.checked_add(size)?;
            }
            (out.len() <= MAX_LEAVES).then_some(())
        };
        match &ty.shape {
            Shape::String | Shape::EmptyInterface | Shape::Interface => words(&[8, 8]),
            Shape::Slice { .. } => words(&[8, 8, 8]),
            Shape::Scalar if matches!(ty.kind, Kind::Complex64 | Kind::Complex128) => {
                words(&[ty.bytes / 2, ty.bytes / 2])
            }
            Shape::Array { elem, len } => {
                let bytes = self.get(*elem).bytes;
                if *len > MAX_LEAVES as u64 {
                    return None;
                }
                for index in 0_u64..*len {
                    let at = offset.checked_add(index.checked_mul(bytes)?)?;
                    self.add_leaves(*elem, at, budget, out)?;
                }
                Some(())
            }
            Shape::Struct { fields } => {
                for field in fields {
                    self.add_leaves(field.ty, offset.checked_add(field.offset)?, budget, out)?;
                }
                Some(())
            }
            Shape::Redacted | Shape::Unknown => None,
            _ => words(&[ty.bytes]),
        }
    }

    /// The number of elements and the size.
    fn array<'a>(
        &self,
        view: &View<'a>,
        unit: &Unit<'a>,
        die: u64,
        elem: u64,
        bytes: Option<u64>,
        nesting: usize,
    ) -> (u64, u64) {
        let count = array_count(unit, die);
        let elem_bytes = || {
            if nesting >= MAX_NESTING { 0 } else { self.read_type(view, elem, nesting + 1).bytes }
        };
        match (count, bytes) {
            (Some(count), Some(bytes)) => {
                // A length that its own size denies would make every reader of the array run wild.
                let fits = count == 0 || bytes == 0 || bytes.checked_rem(count) == Some(0);
                (if fits { count } else { 0 }, bytes)
            }
            (Some(count), None) => count.checked_mul(elem_bytes()).map_or((0, 0), |bytes| (count, bytes)),
            (None, Some(bytes)) => (bytes.checked_div(elem_bytes()).unwrap_or(0), bytes),
            (None, None) => (0, 0),
        }
    }

    fn fields<'a>(
        &self,
        view: &View<'a>,
        unit: &Unit<'a>,
        die: u64,
        has_children: bool,
        bytes: u64,
    ) -> Vec<FieldLayout> {
        let mut out: Vec<FieldLayout> = Vec::new();
        if !has_children {
            return out;
        }
        let _ = children(unit, die, |tag, entries, attributes| {
            let mut field = FieldLayout { name: Arc::from("_"), embedded: false, offset: 0, ty: TypeId(0) };
            let mut ty = None;
            for &spec in attributes {
                let attribute = entries.read_attribute(spec)?;
                let value = attribute.value();
                match attribute.name() {
                    gimli::DW_AT_name => {
                        if let Some(name) = view.text(unit, value) {
                            field.name = Arc::from(name);
                        }
                    }
                    gimli::DW_AT_data_member_location => {
                        field.offset = value.udata_value().unwrap_or(u64::MAX);
                    }
                    gimli::DW_AT_type => ty = reference(unit, &value),
                    go::EMBEDDED_FIELD => field.embedded = matches!(value, AttributeValue::Flag(true)),
                    _ => {}
                }
            }
            // A field outside of its struct would be read from somewhere else.
            if tag == gimli::DW_TAG_member
                && let Some(ty) = ty
                && field.offset <= bytes
            {
                field.ty = self.canonical(view, ty);
                out.push(field);
            }
            Ok(out.len() < MAX_FIELDS)
        });
        out
    }

    fn map(&self, view: &View<'_>, entry: &Entry) -> Option<Shape> {
        let header = self.pointee(view, entry.ty?)?;
        Some(Shape::Map(MapLayout {
            key: self.canonical(view, entry.key?),
            value: self.canonical(view, entry.elem?),
            header,
            is_guarded: false,
        }))
    }

    /// What the pointer type points at.
    fn pointee(&self, view: &View<'_>, die: u64) -> Option<TypeId> {
        let (entry, _) = self.type_entry(view, die)?;
        (entry.tag == Some(gimli::DW_TAG_pointer_type))
            .then_some(entry.ty)
            .flatten()
            .map(|target| self.canonical(view, target))
    }

    /// An interface is a typedef of `runtime.eface` or `runtime.iface`.
    fn is_empty_interface(&self, view: &View<'_>, die: Option<u64>) -> bool {
        let mut at = die;
        for _ in 0..MAX_CHAIN {
            let Some((entry, _)) = at.and_then(|die| self.type_entry(view, die)) else { return false };
            match entry.name.as_deref() {
                Some("runtime.eface") => return true,
                Some("runtime.iface") => return false,
                _ => at = entry.ty,
            }
        }
        false
    }
}

fn unknown(name: Option<Arc<str>>, bytes: u64) -> GoType {
    GoType {
        name: name.unwrap_or_else(|| Arc::from("?")),
        bytes,
        kind: Kind::Invalid,
        shape: Shape::Unknown,
        runtime_type: None,
    }
}

/// Calls `each` for every direct child until it says `false`. It has to read all attributes.
pub(crate) fn children<'u, 'a>(
    unit: &'u Unit<'a>,
    die: u64,
    mut each: impl FnMut(
        gimli::DwTag,
        &mut gimli::EntriesRaw<'u, super::unit::Slice<'a>>,
        &[gimli::AttributeSpecification],
    ) -> Result<bool, gimli::Error>,
) -> Result<(), gimli::Error> {
    let Ok(mut entries) = entries_at(unit, die, "type") else { return Ok(()) };
    let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(()) };
    entries.skip_attributes(abbreviation.attributes())?;
    if !abbreviation.has_children() {
        return Ok(());
    }
    while !entries.is_empty() && entries.next_depth() >= 1 {
        let depth = entries.next_depth();
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        if depth == 1 {
            if !each(abbreviation.tag(), &mut entries, abbreviation.attributes())? {
                break;
            }
        } else {
            entries.skip_attributes(abbreviation.attributes())?;
        }
    }
    Ok(())
}

/// `DW_AT_count` of the subrange, or its upper bound plus one.
fn array_count(unit: &Unit<'_>, die: u64) -> Option<u64> {
    let mut count = None;
    let _ = children(unit, die, |tag, entries, attributes| {
        for &spec in attributes {
            let attribute = entries.read_attribute(spec)?;
            if tag == gimli::DW_TAG_subrange_type {
                match attribute.name() {
                    gimli::DW_AT_count => count = attribute.value().udata_value(),
                    gimli::DW_AT_upper_bound => {
                        count = attribute.value().udata_value().and_then(|bound| bound.checked_add(1));
                    }
                    _ => {}
                }
            }
        }
        Ok(count.is_none())
    });
    count
}

/// `reflect.Kind` by its number (internal/abi/type.go).
fn kind_of(entry: &Entry) -> Kind {
    // Older versions keep flags in the upper bits.
    if let Some(kind) = entry.go_kind.and_then(|kind| kind_of_number(kind & KIND_MASK)) {
        return kind;
    }
    match (entry.tag, entry.is_go) {
        // Made by the linker: data pointers of slices, pointers at map and channel headers.
        (Some(gimli::DW_TAG_pointer_type), true) if entry.ty.is_some() => Kind::Pointer,
        // `unsafe.Pointer` has neither kind nor target.
        (Some(gimli::DW_TAG_pointer_type), true) => Kind::UnsafePointer,
        // Map and channel headers of older versions have no kind.
        (Some(gimli::DW_TAG_structure_type), true) => Kind::Struct,
        (Some(gimli::DW_TAG_array_type), true) => Kind::Array,
        (Some(gimli::DW_TAG_subroutine_type), true) => Kind::Func,
        (Some(gimli::DW_TAG_base_type), _) => base_kind(entry),
        _ => Kind::Invalid,
    }
}

fn base_kind(entry: &Entry) -> Kind {
    let signed = matches!(entry.encoding, Some(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char));
    let unsigned = matches!(entry.encoding, Some(gimli::DW_ATE_unsigned | gimli::DW_ATE_unsigned_char));
    match (entry.encoding, entry.bytes) {
        (Some(gimli::DW_ATE_boolean), Some(1)) => Kind::Bool,
        (_, Some(1)) if signed => Kind::Int8,
        (_, Some(2)) if signed => Kind::Int16,
        (_, Some(4)) if signed => Kind::Int32,
        (_, Some(8)) if signed => Kind::Int64,
        (_, Some(1)) if unsigned => Kind::Uint8,
        (_, Some(2)) if unsigned => Kind::Uint16,
        (_, Some(4)) if unsigned => Kind::Uint32,
        (_, Some(8)) if unsigned => Kind::Uint64,
        (Some(gimli::DW_ATE_float), Some(4)) => Kind::Float32,
        (Some(gimli::DW_ATE_float), Some(8)) => Kind::Float64,
        (Some(gimli::DW_ATE_complex_float), Some(8)) => Kind::Complex64,
        (Some(gimli::DW_ATE_complex_float), Some(16)) => Kind::Complex128,
        _ => Kind::Invalid,
    }
}

/// Whether a scalar of the kind has that many bytes.
fn scalar_size(kind: Kind, bytes: u64) -> bool {
    match kind {
        Kind::Bool | Kind::Int8 | Kind::Uint8 => bytes == 1,
        Kind::Int16 | Kind::Uint16 => bytes == 2,
        Kind::Int32 | Kind::Uint32 | Kind::Float32 => bytes == 4,
        Kind::Int
        | Kind::Uint
        | Kind::Int64
        | Kind::Uint64
        | Kind::Uintptr
        | Kind::Float64
        | Kind::Complex64 => bytes == 8,
        Kind::Complex128 => bytes == 16,
        _ => false,
    }
}
