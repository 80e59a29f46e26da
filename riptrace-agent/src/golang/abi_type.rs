//! Types without debug data, from the `abi.Type` that the runtime itself has of every type in an interface. Pure.
//!
//! The compiler leaves types out of debug data that no variable has (Go before 1.25: types that only ever are in
//! interfaces). What the runtime knows of them lies in the binary's read-only data and has had the same layout since
//! Go 1.18 (internal/abi/type.go), maps apart, whose headers only debug data describes.

use std::sync::Arc;

use super::types::{FieldLayout, GoType, Kind, Shape, TypeId};

/// Bytes of `abi.Type`.
const TYPE_BYTES: u64 = 48;
/// Offsets of its fields.
const TFLAG: u64 = 20;
/// Alignment as a variable, and as a field.
const ALIGN: u64 = 21;
const KIND: u64 = 23;
const NAME: u64 = 40;
/// `TFlagUncommon`, `TFlagExtraStar`, `TFlagNamed`.
const FLAG_UNCOMMON: u8 = 1 << 0;
const FLAG_EXTRA_STAR: u8 = 1 << 1;
const FLAG_NAMED: u8 = 1 << 2;
/// The rest of `Kind_` were flags up to Go 1.25.
pub(crate) const KIND_MASK: u8 = (1 << 5) - 1;
/// `StructField`: name, type, offset.
const FIELD_BYTES: u64 = 24;
/// In front of a name: it is of an embedded field.
const NAME_EMBEDDED: u8 = 1 << 3;

/// A type's name is not longer.
const MAX_NAME_BYTES: u64 = 4096;
/// A struct has no more fields.
const MAX_FIELDS: u64 = 4096;
/// Names of pointers to pointers to … are put together so far.
const MAX_NAME_NESTING: u32 = 8;
/// No Go type is larger than the address space.
const MAX_BYTES: u64 = 1 << 47;

/// The data of a binary that never changes while it runs.
pub trait TypeMemory: std::fmt::Debug + Send + Sync {
    /// Bytes at a link-time address.
    fn bytes(&self, link_address: u64, bytes: usize) -> Option<&[u8]>;

    /// The pointer at a link-time address, as a link-time address (relocations applied); 0: nil.
    fn pointer(&self, link_address: u64) -> Option<u64>;
}

/// Reads `abi.Type`s.
#[derive(Clone, Copy)]
pub struct AbiTypes<'a> {
    memory: &'a dyn TypeMemory,
    /// `types` of the moduledata, from which offsets of names count.
    base: u64,
}

impl<'a> AbiTypes<'a> {
    /// Of a binary whose types begin at `base`.
    #[must_use]
    pub fn new(memory: &'a dyn TypeMemory, base: u64) -> Self {
        Self { memory, base }
    }

    /// Whether a type lies there that values can be read by.
    #[must_use]
    pub fn describes(&self, address: u64) -> bool {
        // What only debug data describes is as good as unknown.
        self.read(address, |_| None).is_some_and(|found| found.shape != Shape::Unknown)
    }

    /// The type at a link-time address. `known` names a type that is better described elsewhere, by its address.
    #[must_use]
    pub fn read(&self, address: u64, known: impl Fn(u64) -> Option<TypeId>) -> Option<GoType> {
        let header = self.header(address)?;
        let id_at = |at: u64| {
            let target = self.memory.pointer(at).filter(|target| *target != 0)?;
            known(target).or_else(|| Some(Self::id(target)))
        };
        let shape = match header.kind {
            Kind::Bool
            | Kind::Int
            | Kind::Int8
            | Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Uint
            | Kind::Uint8
            | Kind::Uint16
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Uintptr
            | Kind::Float32
            | Kind::Float64
            | Kind::Complex64
            | Kind::Complex128 => Shape::Scalar,
            Kind::String => Shape::String,
            Kind::UnsafePointer => Shape::UnsafePointer,
            Kind::Func => Shape::Func,
            Kind::Pointer => Shape::Pointer { elem: id_at(address + TYPE_BYTES) },
            Kind::Slice => Shape::Slice { elem: id_at(address + TYPE_BYTES)? },
            Kind::Array => {
                let elem = id_at(address + TYPE_BYTES)?;
                let bytes = self.header(self.memory.pointer(address + TYPE_BYTES)?)?.bytes;
                let len = self.word(address + TYPE_BYTES + 16)?;
                if bytes.checked_mul(len) != Some(header.bytes) {
                    return None;
                }
                Shape::Array { elem, len }
            }
            Kind::Interface => {
                let methods = self.word(address + TYPE_BYTES + 16)?;
                if methods == 0 { Shape::EmptyInterface } else { Shape::Interface }
            }
            Kind::Struct => Shape::Struct { fields: self.fields(address, header.bytes, &known)? },
            _ => Shape::Unknown,
        };
        let name = self.name_of(address, &header, MAX_NAME_NESTING)?;
        Some(GoType {
            name: Arc::from(name),
            bytes: header.bytes,
            kind: header.kind,
            shape,
            runtime_type: Some(address),
        })
    }

    /// Names a type by its address: no entry of debug data has such an offset.
    #[must_use]
    pub fn id(address: u64) -> TypeId {
        TypeId(address | ID_MARK)
    }

    /// The address in a name that [`Self::id`] made.
    #[must_use]
    pub fn address(id: TypeId) -> Option<u64> {
        (id.0 & ID_MARK != 0 && id.0 != u64::MAX).then_some(id.0 & !ID_MARK)
    }

    fn header(&self, address: u64) -> Option<Header> {
        // So that additions to it never wrap.
        if address < self.base || address >= ID_MARK || !address.is_multiple_of(8) {
            return None;
        }
        let bytes: &[u8; TYPE_BYTES as usize] =
            self.memory.bytes(address, usize::try_from(TYPE_BYTES).ok()?)?.first_chunk()?;
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let at = |offset: u64| rest.get(usize::try_from(offset.checked_sub(8)?).ok()?).copied();
        let size = u64::from_le_bytes(*size);
        let kind = kind_of_number(at(KIND)? & KIND_MASK)?;
        let name_at = usize::try_from(NAME - 8).ok()?;
        let name = i32::from_le_bytes(*rest.get(name_at..)?.first_chunk()?);
        let fits = match fixed_bytes(kind) {
            Some(fixed) => size == fixed,
            None => size <= MAX_BYTES,
        };
        let aligned = [at(ALIGN)?, at(ALIGN + 1)?].iter().all(|align| matches!(align, 1 | 2 | 4 | 8));
        (fits && aligned).then_some(Header { bytes: size, kind, flags: at(TFLAG)?, name })
    }

    fn word(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(*self.memory.bytes(address, 8)?.first_chunk()?))
    }

    fn fields(
        &self,
        address: u64,
        bytes: u64,
        known: impl Fn(u64) -> Option<TypeId>,
    ) -> Option<Vec<FieldLayout>> {
        let count = self.word(address + TYPE_BYTES + 16)?;
        if count > MAX_FIELDS {
            return None;
        }
        let start = if count == 0 { 0 } else { self.memory.pointer(address + TYPE_BYTES + 8)? };
        let mut fields = Vec::new();
        for index in 0..count {
            let at = start.checked_add(index * FIELD_BYTES).filter(|at| *at < ID_MARK)?;
            let (name, flags) = self.name_at(self.memory.pointer(at)?)?;
            let ty = self.memory.pointer(at + 8)?;
            let offset = self.word(at + 16)?;
            if offset.checked_add(self.header(ty)?.bytes)? > bytes {
                return None;
            }
            fields.push(FieldLayout {
                name: Arc::from(name),
                embedded: flags & NAME_EMBEDDED != 0,
                offset,
                ty: known(ty).unwrap_or_else(|| Self::id(ty)),
            });
        }
        Some(fields)
    }

    /// A name with its flags: a byte of flags, the length, the text.
    fn name_at(&self, address: u64) -> Option<(String, u8)> {
        let flags = *self.memory.bytes(address, 1)?.first()?;
        let mut length = 0_u64;
        let mut at = address.checked_add(1)?;
        for shift in [0, 7] {
            let byte = *self.memory.bytes(at, 1)?.first()?;
            at = at.checked_add(1)?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if length > MAX_NAME_BYTES {
                    return None;
                }
                let text = self.memory.bytes(at, usize::try_from(length).ok()?)?;
                return Some((std::str::from_utf8(text).ok()?.to_owned(), flags));
            }
        }
        None
    }

    /// The type's name with its full import path, as the linker writes it.
    fn name_of(&self, address: u64, header: &Header, nesting: u32) -> Option<String> {
        let at = self.base.checked_add_signed(header.name.into())?;
        let (mut text, _) = self.name_at(at)?;
        if header.flags & FLAG_EXTRA_STAR != 0 {
            text = text.strip_prefix('*')?.to_owned();
        }
        if text.is_empty() {
            return None;
        }
        if header.flags & FLAG_NAMED == 0 {
            let prefix = match header.kind {
                Kind::Pointer => "*".to_owned(),
                Kind::Slice => "[]".to_owned(),
                Kind::Array => format!("[{}]", self.word(address + TYPE_BYTES + 16)?),
                _ => return Some(text),
            };
            let elem = self.memory.pointer(address + TYPE_BYTES)?;
            let inner = nesting.checked_sub(1).and_then(|left| self.name_of(elem, &self.header(elem)?, left));
            return Some(inner.map_or(text, |inner| prefix + &inner));
        }
        // What stands there has the package's name, not its path.
        let dot = text.get(..text.find('[').unwrap_or(text.len()))?.find('.');
        match (dot, self.package(address, header)) {
            // `go.shape` is the one name with a dot.
            (_, Some(package)) if text.starts_with(&format!("{package}.")) => Some(text),
            (Some(dot), Some(package)) => Some(format!("{package}{}", text.get(dot..)?)),
            _ => Some(text),
        }
    }

    fn package(&self, address: u64, header: &Header) -> Option<String> {
        if header.flags & FLAG_UNCOMMON == 0 {
            return None;
        }
        let behind = match header.kind {
            Kind::Struct | Kind::Interface => 80,
            Kind::Pointer | Kind::Func | Kind::Slice => 56,
            Kind::Array => 72,
            Kind::Chan => 64,
            Kind::Map => return None,
            _ => TYPE_BYTES,
        };
        let offset = self.memory.bytes(address + behind, 4)?.first_chunk()?;
        let offset = i32::from_le_bytes(*offset);
        let (package, _) = self.name_at(self.base.checked_add_signed(offset.into())?)?;
        Some(package).filter(|package| !package.is_empty())
    }
}

/// Sets the names of such types apart from offsets in debug data.
const ID_MARK: u64 = 1 << 63;

struct Header {
    bytes: u64,
    kind: Kind,
    flags: u8,
    /// Bytes from the start of the types.
    name: i32,
}

/// `reflect.Kind` by its number (internal/abi/type.go); `None` for none that a value can have.
pub(crate) fn kind_of_number(number: u8) -> Option<Kind> {
    Some(match number {
        1 => Kind::Bool,
        2 => Kind::Int,
        3 => Kind::Int8,
        4 => Kind::Int16,
        5 => Kind::Int32,
        6 => Kind::Int64,
        7 => Kind::Uint,
        8 => Kind::Uint8,
        9 => Kind::Uint16,
        10 => Kind::Uint32,
        11 => Kind::Uint64,
        12 => Kind::Uintptr,
        13 => Kind::Float32,
        14 => Kind::Float64,
        15 => Kind::Complex64,
        16 => Kind::Complex128,
        17 => Kind::Array,
        18 => Kind::Chan,
        19 => Kind::Func,
        20 => Kind::Interface,
        21 => Kind::Map,
        22 => Kind::Pointer,
        23 => Kind::Slice,
        24 => Kind::String,
        25 => Kind::Struct,
        26 => Kind::UnsafePointer,
        _ => return None,
    })
}

/// What a value of a kind takes, where all of the kind take the same.
fn fixed_bytes(kind: Kind) -> Option<u64> {
    Some(match kind {
        Kind::Bool | Kind::Int8 | Kind::Uint8 => 1,
        Kind::Int16 | Kind::Uint16 => 2,
        Kind::Int32 | Kind::Uint32 | Kind::Float32 => 4,
        Kind::Complex128 | Kind::String | Kind::Interface => 16,
        Kind::Slice => 24,
        Kind::Array | Kind::Struct => return None,
        _ => 8,
    })
}

#[cfg(test)]
mod tests;
