//! The text that a Go developer expects for well-known types.

use riptrace_common::wire::value::Value;

use super::Symbols;
use crate::golang::types::GoType;

/// The text for a value of a well-known type.
pub(super) fn of(value: &Value, ty: &GoType, symbols: &dyn Symbols) -> Option<String> {
    let _ = (value, ty, symbols);
    None
}
