//! What lies in a closure object.

use std::sync::Arc;

use super::{DebugInfo, Function};
use crate::golang::types::{TypeId, TypeSource};

/// The compiler copies nothing larger than 128 bytes into a closure, so that a layout past this is damage.
const MAX_CLOSURE_BYTES: u64 = 1 << 20;

/// The object that a func value points at: the code address, then what it captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosureLayout {
    /// Name of the closure function.
    pub function: Arc<str>,
    /// What it captured, by offset. Where debug data says it, every captured variable that the function uses is listed.
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

impl DebugInfo {
    /// What the closure function that is entered at this address captured. `None`: not a closure's entry, or debug data
    /// does not say: Go before 1.23 never does, newer versions don't for a closure that was also inlined somewhere.
    pub fn closure_type(&self, code_address: u64) -> Option<ClosureLayout> {
        let function = self.function_at(code_address).ok()??;
        if function.entry != code_address || !function.is_go {
            return None;
        }
        let scopes = self.scopes(function.die).ok()??;
        let view = self.view();
        let mut captured: Vec<CapturedVariable> = Vec::new();
        let mut bytes = 8;
        for variable in &scopes.variables {
            let Some(offset) = variable.closure_offset.filter(|offset| *offset >= 8) else { continue };
            let ty = self.variable_type(&view, variable.ty).id;
            let name = variable.name.strip_prefix('&');
            let by_reference = name.is_some();
            let size = if by_reference { 8 } else { self.get(ty).bytes };
            let end = offset.checked_add(size).filter(|end| *end <= MAX_CLOSURE_BYTES)?;
            bytes = bytes.max(end);
            captured.push(CapturedVariable {
                name: Arc::from(name.unwrap_or(&variable.name)),
                offset,
                ty: if by_reference { self.pointee_of(ty) } else { ty },
                by_reference,
            });
        }
        if captured.is_empty() {
            return None;
        }
        captured.sort_by_key(|variable| variable.offset);
        captured.dedup_by_key(|variable| variable.offset);
        Some(ClosureLayout { function: Arc::clone(&function.name), captured, bytes })
    }

    /// A layout of what is known of a closure function otherwise. `None`: nothing is, or it can't be.
    #[must_use]
    pub fn closure_of(
        &self,
        function: &Function,
        mut captured: Vec<CapturedVariable>,
    ) -> Option<ClosureLayout> {
        captured.sort_by_key(|variable| variable.offset);
        let mut bytes = 8;
        for variable in &captured {
            let size = if variable.by_reference { 8 } else { self.get(variable.ty).bytes };
            // Two variables at the same place: one of them is not there.
            if variable.offset < bytes {
                return None;
            }
            bytes = variable.offset.checked_add(size).filter(|end| *end <= MAX_CLOSURE_BYTES)?;
        }
        (!captured.is_empty()).then(|| ClosureLayout {
            function: Arc::clone(&function.name),
            captured,
            bytes,
        })
    }
}
