//! One Go value after the other: bytes and a type in, a [`Value`] out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use riptrace_common::wire::{
    number::{Address, Float, Scalar},
    value::{Field, Limit, Truncated, Unavailable, Value},
};

use super::{
    DecodeContext,
    budget::Budget,
    display,
    memory::{Lack, Memory, Origin, View, Wanted},
};
use crate::golang::{
    abi_type::AbiTypes,
    types::{FieldLayout, GoType, Kind, Shape, TypeId},
};

/// Levels of JSON that a value adds: `{"elem":{`, `{"elems":[{`, `{"fields":[{"value":{`.
pub(super) const NESTING_ELEM: u32 = 1;
pub(super) const NESTING_ELEMS: u32 = 2;
pub(super) const NESTING_FIELDS: u32 = 3;

/// Decodes the values of one hit.
pub(super) struct Decoder<'a> {
    pub(super) context: &'a DecodeContext<'a>,
    pub(super) memory: &'a Memory<'a>,
    pub(super) budget: Budget,
    /// Objects that a pointer of this variable (or hit) already shows.
    shown: HashSet<(u64, TypeId)>,
    /// Time zones, which many times share.
    locations: HashMap<u64, Value>,
    pub(super) unknown_types: Vec<u64>,
    pub(super) unknown_code: Vec<u64>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(context: &'a DecodeContext<'a>, memory: &'a Memory<'a>) -> Self {
        Self {
            context,
            memory,
            budget: Budget::new(),
            shown: HashSet::new(),
            locations: HashMap::new(),
            unknown_types: Vec::new(),
            unknown_code: Vec::new(),
        }
    }

    /// From here on objects that were shown before are shown again: each variable is whole by itself.
    pub(super) fn forget_shown(&mut self) {
        self.shown.clear();
    }

    pub(super) fn get(&self, ty: TypeId) -> Arc<GoType> {
        self.context.types.get(ty)
    }

    pub(super) fn type_index(&self, ty: TypeId) -> Option<u32> {
        self.context.registry.index_of(self.context.image, ty)
    }

    pub(super) fn max_items(&self) -> u64 {
        u64::from(self.context.limits.max_items)
    }

    /// Decodes a value of a type from its bytes.
    pub(super) fn value(&mut self, ty: TypeId, view: View<'a>) -> Value {
        let go_type = self.get(ty);
        let mut value = Value::of(Arc::clone(&go_type.name), go_type.kind);
        if !self.budget.take_value(&go_type.name) {
            Lack::Limit(Limit::MaxBytes).label(&mut value);
            return value;
        }
        if go_type.shape == Shape::Redacted {
            Lack::REDACTED.label(&mut value);
            return value;
        }
        let view = view.part(0, go_type.bytes);
        if let Some(lack) = view.nothing(go_type.bytes) {
            if let Shape::Array { len, .. } = go_type.shape {
                value.len = Some(len);
            }
            lack.label(&mut value);
            return value;
        }
        let filled = match &go_type.shape {
            Shape::Scalar => scalar(&go_type, view, &mut value),
            Shape::String => self.string(view, &mut value),
            Shape::Slice { elem } => self.slice(*elem, view, &mut value),
            Shape::Array { elem, len } => self.array(*elem, *len, view, &mut value),
            Shape::Struct { fields } => self.fields(fields, view, &mut value),
            Shape::Pointer { elem } => self.pointer(*elem, view, &mut value),
            Shape::Map(layout) => self.map(layout, view, &mut value),
            Shape::EmptyInterface => self.interface(false, view, &mut value),
            Shape::Interface => self.interface(true, view, &mut value),
            Shape::Chan { elem, header } => self.chan(*elem, *header, view, &mut value),
            Shape::Func => self.func(view, &mut value),
            Shape::UnsafePointer => view.u64(0).map(|address| {
                value.nil = address == 0;
                value.addr = Some(Address(address));
            }),
            Shape::Redacted => Err(Lack::REDACTED),
            Shape::Unknown if AbiTypes::address(ty).is_some() => {
                Err(Lack::Unavailable(Unavailable::UnknownType))
            }
            Shape::Unknown => Err(Lack::BAD_DEBUG_INFO),
        };
        if let Err(lack) = filled {
            lack.label(&mut value);
        }
        let lookups = display::Lookups { symbols: self.context.symbols, locations: &self.locations };
        if let Some(text) = display::of(&value, &go_type, lookups)
            && self.budget.take(text.len().saturating_mul(2))
        {
            value.display = Some(text);
        }
        value
    }

    /// A value of which nothing was captured.
    pub(super) fn lacking(&mut self, ty: TypeId, lack: Lack) -> Value {
        let go_type = self.get(ty);
        let mut value = Value::of(Arc::clone(&go_type.name), go_type.kind);
        self.budget.take_value(&go_type.name);
        let lack = if go_type.shape == Shape::Redacted { Lack::REDACTED } else { lack };
        lack.label(&mut value);
        value
    }

    pub(super) fn is_redacted(&self, ty: TypeId) -> bool {
        self.get(ty).shape == Shape::Redacted
    }

    /// The object of a type at an address. `from`: where the pointer lies.
    pub(super) fn object(
        &self,
        ty: TypeId,
        address: u64,
        from: Origin,
        deeper: bool,
    ) -> Result<View<'a>, Lack> {
        let wanted = Wanted { address, type_index: self.type_index(ty), bytes: self.get(ty).bytes, deeper };
        self.memory.find(wanted, from)
    }

    fn string(&mut self, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let data = view.u64(0);
        let len = view.u64(8)?;
        check_length(len)?;
        value.len = Some(len);
        if len == 0 {
            value.value = Some(Scalar::Text(String::new()));
            return Ok(());
        }
        let max_string = u64::from(self.context.limits.max_string);
        let wanted =
            Wanted { address: data?, type_index: Some(0), bytes: len.min(max_string), deeper: false };
        let (bytes, beyond) = self.memory.find(wanted, view.origin)?.prefix();
        let mut by = limit_of(beyond);
        if bytes.len() as u64 >= max_string {
            by = Limit::MaxString;
        }
        let room = self.budget.text_bytes();
        let mut bytes = bytes.get(..room).map_or(bytes, |cut| {
            by = Limit::MaxBytes;
            cut
        });
        let cut = (bytes.len() as u64) < len;
        if cut {
            bytes = without_cut_character(bytes);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                self.budget.take(json_text_bytes(text));
                value.value = Some(Scalar::Text(text.to_owned()));
            }
            Err(_) => {
                self.budget.take(bytes.len() * 4 / 3 + 4);
                value.base64 = Some(BASE64.encode(bytes));
            }
        }
        if cut {
            value.truncated = Some(Truncated { by, captured: bytes.len() as u64 });
        }
        Ok(())
    }

    fn slice(&mut self, elem: TypeId, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let data = view.u64(0);
        let (len, cap) = (view.u64(8), view.u64(16));
        value.len = len.ok();
        value.cap = cap.ok();
        let len = len?;
        check_length(len)?;
        if cap.is_ok_and(|cap| cap < len) {
            // No slice looks like this: what debug data calls the variable's place holds something else.
            return Err(Lack::BAD_DEBUG_INFO);
        }
        // A missing address leaves open whether an empty slice is nil, nothing else.
        let data = data?;
        if data == 0 && len == 0 {
            value.nil = true;
            return Ok(());
        }
        let elem_type = self.get(elem);
        if len > 0 && elem_type.shape == Shape::Redacted {
            return Err(Lack::REDACTED);
        }
        if is_byte(&elem_type) {
            return self.byte_slice(data, len, view, value);
        }
        let shown = len.min(self.max_items());
        let wanted = Wanted {
            address: data,
            type_index: self.type_index(elem),
            bytes: shown.saturating_mul(elem_type.bytes),
            deeper: true,
        };
        let elements = self.memory.find(wanted, view.origin)?;
        self.elements(elem, &elem_type, len, elements, value);
        cap.map(|_| ())
    }

    fn byte_slice(&mut self, data: u64, len: u64, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let limits = self.context.limits;
        // Bytes are text more often than items: the plan may follow either limit, what it copied is shown.
        let most = u64::from(limits.max_items.max(limits.max_string));
        let wanted = Wanted { address: data, type_index: None, bytes: len.min(most), deeper: true };
        let (bytes, beyond) = self.memory.find(wanted, view.origin)?.prefix();
        let captured = bytes.len() as u64;
        let mut by = if captured == u64::from(limits.max_items) {
            Limit::MaxItems
        } else if captured == u64::from(limits.max_string) {
            Limit::MaxString
        } else {
            limit_of(beyond)
        };
        let bytes = bytes.get(..self.budget.text_bytes()).map_or(bytes, |cut| {
            by = Limit::MaxBytes;
            cut
        });
        self.budget.take(bytes.len() * 4 / 3 + 4);
        value.base64 = Some(BASE64.encode(bytes));
        let captured = bytes.len() as u64;
        if captured < len {
            value.truncated = Some(Truncated { by, captured });
        }
        Ok(())
    }

    fn array(&mut self, elem: TypeId, len: u64, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let elem_type = self.get(elem);
        value.len = Some(len);
        self.elements(elem, &elem_type, len, view, value);
        Ok(())
    }

    /// Elements side by side, as many as the limits allow and were captured.
    fn elements(&mut self, elem: TypeId, elem_type: &GoType, len: u64, view: View<'a>, value: &mut Value) {
        let mut elems = Vec::new();
        let mut by = Limit::MaxItems;
        if self.budget.enter(NESTING_ELEMS) {
            for index in 0..len.min(self.max_items()) {
                let part = view.part(index.saturating_mul(elem_type.bytes), elem_type.bytes);
                // The end of what was captured; a gap inside it is the element's own label.
                if part.is_behind_end(elem_type.bytes) {
                    by = limit_of(part.beyond());
                    break;
                }
                if self.budget.exhausted() {
                    by = Limit::MaxBytes;
                    break;
                }
                let element = self.value(elem, part);
                elems.push(element);
            }
            self.budget.leave(NESTING_ELEMS);
        } else {
            by = Limit::MaxDepth;
        }
        let captured = elems.len() as u64;
        if captured < len {
            value.truncated = Some(Truncated { by, captured });
        }
        value.elems = Some(elems);
    }

    fn fields(&mut self, fields: &[FieldLayout], view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        if !self.budget.enter(NESTING_FIELDS) {
            return Err(Lack::Limit(Limit::MaxDepth));
        }
        let mut decoded = Vec::with_capacity(fields.len().min(256));
        for field in fields {
            if self.budget.exhausted() {
                value.truncated = Some(Truncated { by: Limit::MaxBytes, captured: decoded.len() as u64 });
                break;
            }
            self.budget.take(field.name.len() + 32);
            let size = self.get(field.ty).bytes;
            let value = self.value(field.ty, view.part(field.offset, size));
            decoded.push(Field { name: Arc::clone(&field.name), embedded: field.embedded, value });
        }
        self.budget.leave(NESTING_FIELDS);
        value.fields = Some(decoded);
        Ok(())
    }

    fn pointer(&mut self, elem: Option<TypeId>, view: View<'a>, value: &mut Value) -> Result<(), Lack> {
        let address = view.u64(0)?;
        if address == 0 {
            value.nil = true;
            return Ok(());
        }
        value.addr = Some(Address(address));
        let Some(elem) = elem else { return Ok(()) };
        // All pointers share one shape: what this one points at, the dictionary would have said.
        if value.type_name.as_deref().is_some_and(|name| name.starts_with("go.shape.")) {
            return Err(Lack::Unavailable(Unavailable::UnknownType));
        }
        if self.shown.contains(&(address, elem)) {
            value.cycle = true;
            return Ok(());
        }
        if self.is_redacted(elem) {
            value.elem = Some(Box::new(self.lacking(elem, Lack::REDACTED)));
            return Ok(());
        }
        let object = self.object(elem, address, view.origin, true)?;
        if !self.budget.enter(NESTING_ELEM) {
            return Err(Lack::Limit(Limit::MaxDepth));
        }
        // Objects without bytes may all lie at the same address.
        if self.get(elem).bytes != 0 {
            self.shown.insert((address, elem));
        }
        value.torn = object.origin.torn;
        let pointee = self.value(elem, object);
        self.budget.leave(NESTING_ELEM);
        if pointee.type_name.as_deref() == Some(display::LOCATION_TYPE) {
            self.locations.insert(address, pointee.clone());
        }
        value.elem = Some(Box::new(pointee));
        Ok(())
    }
}

/// Which limit a cut is shown as.
pub(super) fn limit_of(lack: Lack) -> Limit {
    match lack {
        Lack::Limit(limit) => limit,
        Lack::Unavailable(_) => Limit::MaxBytes,
    }
}

/// A length that no Go value has: what debug data calls the variable's place holds something else.
pub(super) fn check_length(len: u64) -> Result<(), Lack> {
    if i64::try_from(len).is_ok() { Ok(()) } else { Err(Lack::BAD_DEBUG_INFO) }
}

fn is_byte(ty: &GoType) -> bool {
    ty.kind == Kind::Uint8 && ty.bytes == 1
}

fn scalar(ty: &GoType, view: View<'_>, value: &mut Value) -> Result<(), Lack> {
    value.value = Some(match ty.kind {
        Kind::Bool => Scalar::Bool(view.uint(1)? != 0),
        Kind::Int | Kind::Int8 | Kind::Int16 | Kind::Int32 | Kind::Int64 => {
            Scalar::Int(sign_extended(view.uint(ty.bytes)?, ty.bytes))
        }
        Kind::Uint | Kind::Uint8 | Kind::Uint16 | Kind::Uint32 | Kind::Uint64 | Kind::Uintptr => {
            Scalar::Uint(view.uint(ty.bytes)?)
        }
        Kind::Float32 | Kind::Float64 => Scalar::Float(float(view, 0, ty.bytes)?),
        Kind::Complex64 | Kind::Complex128 => {
            let half = ty.bytes / 2;
            Scalar::Complex(float(view, 0, half)?, float(view, half, half)?)
        }
        _ => return Err(Lack::BAD_DEBUG_INFO),
    });
    Ok(())
}

fn sign_extended(number: u64, bytes: u64) -> i64 {
    let unused = 64 - 8 * u32::try_from(bytes.clamp(1, 8)).unwrap_or(8);
    (number << unused).cast_signed() >> unused
}

fn float(view: View<'_>, offset: u64, bytes: u64) -> Result<Float, Lack> {
    let bits = view.part(offset, bytes).uint(bytes)?;
    match bytes {
        4 => Ok(Float::F32(f32::from_bits(u32::try_from(bits).unwrap_or_default()))),
        8 => Ok(Float::F64(f64::from_bits(bits))),
        _ => Err(Lack::BAD_DEBUG_INFO),
    }
}

/// Bytes of a text as a JSON string, its quotes included.
fn json_text_bytes(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' => 2,
            0..0x20 | 0x7f => 6,
            _ => 1,
        })
        .sum::<usize>()
        + 2
}

/// A text that was cut within a character ends before it.
fn without_cut_character(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.get(..error.valid_up_to()).unwrap_or(bytes),
        _ => bytes,
    }
}
