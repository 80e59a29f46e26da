//! The text that a Go developer expects for well-known types.
//!
//! It is made from the decoded value alone, never by calling the program's methods, and only when every byte that it
//! needs was captured. Types are known by their names, parts by field names; where Go's versions differ, each layout
//! is tried.

mod context;
mod errno;
mod error;
mod net;
mod number;
mod sync;
mod time;

use std::collections::HashMap;

use riptrace_common::wire::{
    number::Scalar,
    value::{Kind, Value},
};

use super::Symbols;
use crate::golang::types::GoType;

/// What texts need beside the value.
#[derive(Clone, Copy)]
pub(super) struct Lookups<'a> {
    pub(super) symbols: &'a dyn Symbols,
    /// Every `time.Location` of the hit that was decoded, by address.
    pub(super) locations: &'a HashMap<u64, Value>,
}

/// A duration as a decoded `time.Duration`.
pub(crate) fn duration(nanoseconds: u64) -> Value {
    let nanoseconds = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    Value {
        value: Some(Scalar::Int(nanoseconds)),
        display: Some(time::duration(nanoseconds)),
        ..Value::of("time.Duration".into(), Kind::Int64)
    }
}

/// Name of the type that [`Lookups::locations`] keeps.
pub(super) const LOCATION_TYPE: &str = "time.Location";

/// The text for a value of a well-known type.
pub(super) fn of(value: &Value, ty: &GoType, lookups: Lookups<'_>) -> Option<String> {
    let name = &*ty.name;
    // Of all types here the one whose `String` method is called with nil.
    if value.unavailable.is_some() || value.nil && name != "net.IP" {
        return None;
    }
    match ty.kind {
        Kind::Pointer | Kind::Interface => {
            let elem = value.elem.as_deref().filter(|elem| elem.kind != Some(Kind::Chan))?;
            elem.display.clone()
        }
        Kind::Int
        | Kind::Int8
        | Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::Uint
        | Kind::Uint8
        | Kind::Uint16
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Uintptr => match name {
            "time.Duration" => signed(value).map(time::duration),
            "syscall.Errno" => errno::text(unsigned(value)?),
            _ => constant(value, name, lookups.symbols),
        },
        Kind::Slice => match name {
            "net.IP" => net::ip_or_nil(value),
            "net.HardwareAddr" => net::hardware_address(value),
            _ => None,
        },
        Kind::Array if name.ends_with(".UUID") => uuid(value),
        Kind::Struct => structure(value, name, lookups),
        _ => None,
    }
}

fn structure(value: &Value, name: &str, lookups: Lookups<'_>) -> Option<String> {
    // Most structs are none of these: the package decides first.
    let (package, _) = name.split_once('.')?;
    match package {
        "time" if name == "time.Time" => time::time(value, lookups.locations),
        "time" if name == LOCATION_TYPE => text(field(value, "name")?).map(str::to_owned),
        "sync" | "internal/sync" | "sync/atomic" | "internal/runtime/atomic" => sync::of(value, name),
        "math/big" => number::big(value, name),
        "net" | "net/netip" => net::of(value, name).or_else(|| error::of(value, name)),
        "context" => context::of(value, name).or_else(|| error::of(value, name)),
        _ => error::of(value, name),
    }
}

/// `StatusPaid (2)`.
fn constant(value: &Value, type_name: &str, symbols: &dyn Symbols) -> Option<String> {
    // Predeclared types have no constants of their own.
    if !type_name.contains('.') {
        return None;
    }
    let bits = signed(value)?;
    let constants = symbols.constants(type_name);
    let found = constants.iter().find(|constant| constant.value == bits)?;
    let name = found.name.rsplit_once('.').map_or(&*found.name, |(_, name)| name);
    match value.value {
        Some(Scalar::Uint(number)) => Some(format!("{name} ({number})")),
        _ => Some(format!("{name} ({bits})")),
    }
}

fn uuid(value: &Value) -> Option<String> {
    use std::fmt::Write as _;
    let bytes = elements(value)?.iter().map(unsigned).collect::<Option<Vec<u64>>>()?;
    if bytes.len() != 16 {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

/// A field of a struct, by name.
fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.fields.as_ref()?.iter().find(|field| &*field.name == name).map(|field| &field.value)
}

/// A whole integer, as signed bits.
fn signed(value: &Value) -> Option<i64> {
    match value.value {
        Some(Scalar::Int(number)) => Some(number),
        Some(Scalar::Uint(number)) => Some(number.cast_signed()),
        _ => None,
    }
}

/// A whole integer, as unsigned bits.
fn unsigned(value: &Value) -> Option<u64> {
    match value.value {
        Some(Scalar::Int(number)) => Some(number.cast_unsigned()),
        Some(Scalar::Uint(number)) => Some(number),
        _ => None,
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value.value {
        Some(Scalar::Bool(flag)) => Some(flag),
        _ => None,
    }
}

/// A whole string.
fn text(value: &Value) -> Option<&str> {
    match &value.value {
        Some(Scalar::Text(text)) if value.truncated.is_none() => Some(text),
        _ => None,
    }
}

/// All elements.
fn elements(value: &Value) -> Option<&[Value]> {
    if value.nil {
        return Some(&[]);
    }
    value.elems.as_deref().filter(|_| value.truncated.is_none() && value.unavailable.is_none())
}

/// All bytes of a `[]byte`.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    if value.nil {
        return Some(Vec::new());
    }
    if value.truncated.is_some() {
        return None;
    }
    BASE64.decode(value.base64.as_ref()?).ok()
}

/// What an interface or pointer shows of its value.
fn shown(value: &Value) -> Option<&str> {
    value.display.as_deref()
}
