//! A Go value as a tree, exact or with the reason why it is not.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number::{Address, Scalar};

/// The name of a `reflect.Kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum Kind {
    Bool,
    Int,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Uintptr,
    Float32,
    Float64,
    Complex64,
    Complex128,
    Array,
    Chan,
    Func,
    Interface,
    Map,
    #[serde(rename = "ptr")]
    Pointer,
    Slice,
    String,
    Struct,
    #[serde(rename = "unsafe.Pointer")]
    UnsafePointer,
    /// Debug data does not say (a type that RipTrace does not know).
    Invalid,
}

/// Why a value, or a part of one, is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unavailable {
    /// The compiler keeps it nowhere at this address.
    OptimizedOut,
    /// The memory could not be read (a bad pointer, or a page that is not resident).
    Fault,
    /// It lives in a floating-point register, which the kernel does not show to BPF.
    RegisterFloat,
    /// The variable is declared, but its first value is not assigned yet.
    NotInitialized,
    /// A bound of the capture (bytes or steps of one hit) was reached before it.
    Budget,
    /// A rule forbids to copy it.
    Redacted,
    /// The compiler's debug data contradicts itself.
    BadDebugInfo,
    /// The dynamic type is not known (yet).
    UnknownType,
    /// At a call's end: what is known of its entry only, which was not seen. The call began before the tracepoint was
    /// armed, or the entry's record was lost.
    EntryNotSeen,
}

/// Which limit cut a value short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// `--max-string`.
    MaxString,
    /// `--max-items`.
    MaxItems,
    /// `--depth`.
    MaxDepth,
    /// `--max-bytes`.
    MaxBytes,
}

/// A value that a limit cut short. The value's `len` stays the true length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Truncated {
    /// The limit.
    pub by: Limit,
    /// How much was captured: bytes of a string, elements of anything else; 0 for a pointer that was not followed.
    pub captured: u64,
}

/// A field of a struct, or a captured variable of a closure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Field {
    /// The field's name; `_` for a blank one.
    pub name: Arc<str>,
    /// Whether the field is embedded.
    #[serde(default, skip_serializing_if = "is_false")]
    pub embedded: bool,
    /// The field's value.
    pub value: Value,
}

/// A Go value. Which fields are present follows from `kind`: see events in the documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Value {
    /// Go's own spelling with full import path, as the linker writes it: `*main.Order`, `map[string]int`.
    /// May be left out of elements whose container says it once.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_name: Option<Arc<str>>,
    /// The name of the type's `reflect.Kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The payload of a bool, integer, float, complex, or valid UTF-8 string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Scalar>,
    /// Length of a string (bytes), array, slice, map, chan. The true one, whatever was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// Capacity of a slice or chan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
    /// Bytes of a string that is not valid UTF-8, or of a `[]byte`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Elements of an array, slice, or chan buffer (oldest first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elems: Option<Vec<Value>>,
    /// Fields of a struct, in declaration order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<Field>>,
    /// Entries of a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<(Value, Value)>>,
    /// What a pointer points at, or an interface holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elem: Option<Box<Value>>,
    /// Captured variables of a func value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captures: Option<Vec<Field>>,
    /// A nil pointer, slice, map, interface, chan, func.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nil: bool,
    /// A pointer at an object that is already shown (the one with the same `addr`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub cycle: bool,
    /// The object changed while it was read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub torn: bool,
    /// Address in a pointer, chan, `unsafe.Pointer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<Address>,
    /// Function of a func value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Arc<str>>,
    /// File of that function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// First line of that function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Why there is no value, or why a part of it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Unavailable>,
    /// Which limit cut it short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
    /// What a Go developer expects to read for a well-known type (`1.5s`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
}

impl Value {
    /// A value of which nothing but its type is known, and why.
    #[must_use]
    pub fn unavailable(type_name: Arc<str>, kind: Kind, reason: Unavailable) -> Self {
        Self { type_name: Some(type_name), kind: Some(kind), unavailable: Some(reason), ..Self::default() }
    }

    /// A value of this type, to be filled.
    #[must_use]
    pub fn of(type_name: Arc<str>, kind: Kind) -> Self {
        Self { type_name: Some(type_name), kind: Some(kind), ..Self::default() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
