//! Interfaces and func values: what they hold is known at run time only.

use std::sync::Arc;

use riptrace_common::{
    abi::program::TYPE_CLOSURE_WORD,
    wire::{
        number::Address,
        value::{Field, Limit, Unavailable, Value},
    },
};

use super::{
    memory::{Lack, View, Wanted},
    value::{Decoder, NESTING_ELEM, NESTING_FIELDS},
};
use crate::{
    dwarf::CapturedVariable,
    golang::types::{Shape, TypeId},
};

const UNKNOWN_TYPE: Lack = Lack::Unavailable(Unavailable::UnknownType);
/// Types that are nested deeper than this have no direct interface form.
const MAX_DIRECT_NESTING: u32 = 32;

impl<'a> Decoder<'a> {
    /// `with_methods`: the first word is an itab, else a runtime type.
    pub(super) fn interface(
        &mut self,
        with_methods: bool,
        view: View<'a>,
        value: &mut Value,
    ) -> Result<(), Lack> {
        let first_word = view.u64(0)?;
        if first_word == 0 {
            value.nil = true;
            return Ok(());
        }
        let type_address =
            if with_methods { self.memory.itab_type(first_word, view.origin)? } else { first_word };
        let link_address = self.memory.link_address(type_address);
        let Some(ty) = self.context.types.by_runtime_type(link_address) else {
            self.report_unknown_type(link_address);
            return Err(UNKNOWN_TYPE);
        };
        if !self.budget.enter(NESTING_ELEM) {
            return Err(Lack::Limit(Limit::MaxDepth));
        }
        let held = self.held(ty, link_address, view.part(8, 8));
        self.budget.leave(NESTING_ELEM);
        value.elem = Some(Box::new(held));
        Ok(())
    }

    /// The value that an interface's data word holds or leads to.
    fn held(&mut self, ty: TypeId, link_address: u64, data: View<'a>) -> Value {
        if self.is_redacted(ty) {
            return self.lacking(ty, Lack::REDACTED);
        }
        let Some(direct) = self.is_direct(ty, link_address, data) else {
            self.report_unknown_type(link_address);
            return self.lacking(ty, UNKNOWN_TYPE);
        };
        if direct {
            // The word is the value. What it points at was followed only if the kernel side knew the type.
            let mut data = data;
            if !self.was_followed(ty, data) {
                data.origin.unknown_type = true;
                self.report_unknown_type(link_address);
            }
            return self.value(ty, data);
        }
        let object = data.u64(0).and_then(|address| {
            let found = self.object(ty, address, data.origin, true);
            match found {
                // The kernel side took what it did not know as raw bytes; if it took nothing at all without a limit
                // being the reason, it did not know the type either.
                Ok(object) => Ok(object),
                Err(lack) if lack == Lack::BUDGET && !self.memory.exhausted() => Err(UNKNOWN_TYPE),
                Err(lack) => Err(lack),
            }
        });
        match object {
            Ok(object) => {
                if object.origin.unknown_type {
                    self.report_unknown_type(link_address);
                }
                self.value(ty, object)
            }
            Err(lack) => {
                if lack == UNKNOWN_TYPE {
                    self.report_unknown_type(link_address);
                }
                self.lacking(ty, lack)
            }
        }
    }

    /// Whether an interface holds values of the type in its data word. `None`: it can't be told.
    fn is_direct(&self, ty: TypeId, link_address: u64, data: View<'a>) -> Option<bool> {
        let go_type = self.get(ty);
        match &go_type.shape {
            Shape::Pointer { .. }
            | Shape::Map(_)
            | Shape::Chan { .. }
            | Shape::Func
            | Shape::UnsafePointer => {
                return Some(true);
            }
            Shape::Array { .. } | Shape::Struct { .. } if go_type.bytes == 8 => {}
            _ => return Some(false),
        }
        let words = self.pointer_words(ty, MAX_DIRECT_NESTING)?;
        if words == 0 {
            return Some(false);
        }
        // Struct and array around one pointer: Go before 1.26 wants exactly one field (cmd/compile,
        // `types.IsDirectIface`), later versions allow more fields without bytes. The runtime type says which.
        if let Some(direct) = self.direct_flag(link_address) {
            return Some(direct);
        }
        let index = self.type_index(ty)?;
        let address = data.u64(0).ok()?;
        (self.memory.has_chunk(address, index) || self.only_fields(ty, MAX_DIRECT_NESTING))
            .then(|| !self.memory.has_chunk(address, index))
    }

    /// `abi.Type`: byte 20 is `TFlag`, byte 23 is `Kind_`. `KindDirectIface` was bit 5 of the one up to Go 1.25,
    /// `TFlagDirectIface` is bit 5 of the other from Go 1.26 on; the same bit of the other byte is unused each time.
    fn direct_flag(&self, link_address: u64) -> Option<bool> {
        const DIRECT: u8 = 1 << 5;
        let flags = self.context.symbols.read_only(link_address.checked_add(20)?, 4)?;
        Some((flags.first()? | flags.get(3)?) & DIRECT != 0)
    }

    /// Pointer-shaped parts of an 8-byte type.
    fn pointer_words(&self, ty: TypeId, nesting: u32) -> Option<usize> {
        let nesting = nesting.checked_sub(1)?;
        match &self.get(ty).shape {
            Shape::Pointer { .. }
            | Shape::Map(_)
            | Shape::Chan { .. }
            | Shape::Func
            | Shape::UnsafePointer => Some(1),
            Shape::Array { elem, len: 1 } => self.pointer_words(*elem, nesting),
            Shape::Struct { fields } => {
                // An 8-byte struct has at most eight fields with bytes; those without hold nothing.
                let sized = fields.iter().filter(|field| self.get(field.ty).bytes != 0).take(9);
                sized.map(|field| self.pointer_words(field.ty, nesting)).sum()
            }
            _ => Some(0),
        }
    }

    /// Every struct around the pointer has no other field: direct in every version of Go.
    fn only_fields(&self, ty: TypeId, nesting: u32) -> bool {
        let Some(nesting) = nesting.checked_sub(1) else { return false };
        match &self.get(ty).shape {
            Shape::Array { elem, len: 1 } => self.only_fields(*elem, nesting),
            Shape::Struct { fields } => match fields.as_slice() {
                [field] => self.only_fields(field.ty, nesting),
                _ => false,
            },
            _ => true,
        }
    }

    /// Whether the kernel side knew what a pointer-shaped type leads to, as far as the record tells.
    fn was_followed(&self, ty: TypeId, data: View<'a>) -> bool {
        let Some(pointee) = self.pointee(ty, MAX_DIRECT_NESTING) else { return true };
        if self.is_redacted(pointee) {
            return true;
        }
        let Ok(address @ 1..) = data.u64(0) else { return true };
        match self.object(pointee, address, data.origin, true) {
            Ok(object) => !object.origin.unknown_type,
            Err(lack) => lack != Lack::BUDGET || self.memory.exhausted(),
        }
    }

    fn pointee(&self, ty: TypeId, nesting: u32) -> Option<TypeId> {
        let nesting = nesting.checked_sub(1)?;
        match &self.get(ty).shape {
            Shape::Pointer { elem } => *elem,
            Shape::Map(layout) => Some(layout.header),
            Shape::Chan { header, .. } => Some(*header),
            Shape::Array { elem, .. } => self.pointee(*elem, nesting),
            Shape::Struct { fields } => {
                let field = fields.iter().find(|field| self.get(field.ty).bytes != 0)?;
                self.pointee(field.ty, nesting)
            }
            _ => None,
        }
    }

    fn report_unknown_type(&mut self, link_address: u64) {
        if !self.unknown_types.contains(&link_address) {
            self.unknown_types.push(link_address);
        }
    }

    pub(super) fn func(&mut self, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let closure = view.u64(0)?;
        if closure == 0 {
            value.nil = true;
            return Ok(());
        }
        let wanted = Wanted { address: closure, type_index: Some(TYPE_CLOSURE_WORD), bytes: 8, deeper: true };
        let code = self.memory.find(wanted, view.origin)?.u64(0)?;
        let link_code = self.memory.link_address(code);
        match self.context.symbols.function(link_code) {
            Some(function) => {
                self.budget.take(function.name.len() + function.file.len() + 64);
                value.function = Some(function.name);
                value.file = Some(function.file);
                value.line = Some(function.line);
            }
            // Code of another object (a plugin, C): its address is all there is to say.
            None => value.addr = Some(Address(code)),
        }
        let Some(layout) =
            self.context.symbols.closure(link_code).filter(|layout| !layout.captured.is_empty())
        else {
            return Ok(());
        };
        if !self.budget.enter(NESTING_FIELDS) {
            return Err(Lack::Limit(Limit::MaxDepth));
        }
        let wanted = Wanted { address: closure, type_index: None, bytes: layout.bytes, deeper: true };
        let object = self.memory.find(wanted, view.origin);
        let mut beyond = UNKNOWN_TYPE;
        if view.origin.depth >= self.context.limits.max_depth {
            // The kernel side takes the code address at any depth, what was captured not.
            beyond = Lack::Limit(Limit::MaxDepth);
        } else if object.is_ok_and(|object| object.is_behind_end(layout.bytes))
            && !self.unknown_code.contains(&link_code)
        {
            self.unknown_code.push(link_code);
        }
        let captures =
            layout.captured.iter().map(|captured| self.captured(captured, object, beyond)).collect();
        self.budget.leave(NESTING_FIELDS);
        value.captures = Some(captures);
        Ok(())
    }

    fn captured(
        &mut self,
        captured: &CapturedVariable,
        object: Result<View<'a>, Lack>,
        beyond: Lack,
    ) -> Field {
        self.budget.take(captured.name.len() + 32);
        let size = self.get(captured.ty).bytes;
        let place = object.and_then(|object| {
            let length = if captured.by_reference { 8 } else { size };
            let part = object.part(captured.offset, length);
            if part.is_behind_end(length) {
                return Err(beyond);
            }
            if captured.by_reference {
                return self.object(captured.ty, part.u64(0)?, part.origin, true);
            }
            Ok(part)
        });
        let value = match place {
            Ok(view) => self.value(captured.ty, view),
            Err(lack) => self.lacking(captured.ty, lack),
        };
        Field { name: Arc::clone(&captured.name), embedded: false, value }
    }
}
