//! What lies in a closure object.

use std::sync::Arc;

use crate::golang::types::TypeId;

/// The object that a func value points at: the code address, then what it captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosureLayout {
    /// Name of the closure function.
    pub function: Arc<str>,
    /// What it captured, by offset. Complete: every captured variable that the function uses is listed.
    pub captured: Vec<CapturedVariable>,
    /// Bytes of the object as far as it is known: the end of the last captured variable, at least 8 (the code address).
    pub bytes: u64,
}

/// A captured variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedVariable {
    /// Its name.
    pub name: Arc<str>,
    /// Bytes from the start of the closure object.
    pub offset: u64,
    /// The variable's type (not the pointer's when it is held by reference).
    pub ty: TypeId,
    /// The closure holds the variable's address.
    pub by_reference: bool,
}
