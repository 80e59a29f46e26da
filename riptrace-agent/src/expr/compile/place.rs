//! Where an operand's bytes are at the site, and the ops that bring them into words.

use riptrace_common::abi::condition::{
    BLOCK_BYTES, MAP_CONSTANT_KEY, MAP_INDIRECT_VALUE, MAP_SWISS, MapPlan, OP_ADD, OP_EQUAL, OP_FIND,
    OP_IMMEDIATE, OP_LESS, OP_LESS_EQUAL, OP_MULTIPLY, OP_READ, OP_SHIFT_RIGHT, OP_SIGNED, OP_ZERO_IF_NIL,
    Op, WORD_BIAS, WORD_SP,
};
use riptrace_common::{abi::program::register, wire::value::Unavailable};

use super::{
    super::{
        ast::Span,
        classes::Class,
        constant::Constant,
        error::ExprError,
        typed::{Dynamic, Typed, TypedKind},
    },
    CompileError, Compiled, Compiler, FAIL, Operand,
};
use crate::{
    dwarf::{Piece, Place, VariableLocation},
    golang::{
        layout::is_stored_indirectly,
        types::{GoType, MapLayout, Shape, TypeId},
    },
    plan::place_text,
};

/// Where a place's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder {
    /// In memory, so far behind the address in a word. `zero`: all bytes are zero when the address is.
    Memory { word: u8, offset: u64, zero: bool },
    /// In the pieces of a variable, so far behind its start.
    Pieces { variable: usize, offset: u64 },
    /// The word is the value.
    Word(u8),
}

impl Holder {
    fn further(self, by: u64) -> Self {
        match self {
            Self::Memory { word, offset, zero } => {
                Self::Memory { word, offset: offset.wrapping_add(by), zero }
            }
            Self::Pieces { variable, offset } => Self::Pieces { variable, offset: offset.saturating_add(by) },
            Self::Word(word) => Self::Word(word),
        }
    }
}

impl Compiler<'_> {
    /// Where a place is; emits what leads there.
    pub(super) fn place(&mut self, e: &Typed) -> Compiled<Holder> {
        match &e.kind {
            TypedKind::Variable(index) => self.variable(*index, &e.span),
            TypedKind::Part(inner, offset) => Ok(self.place(inner)?.further(*offset)),
            TypedKind::Dereference(pointer) => {
                let value = self.value(pointer)?;
                let Operand::Word { word, .. } = self.extended(value, &e.span)? else {
                    return Err(self.fail(&e.span, "this pointer is nil"));
                };
                Ok(Holder::Memory { word, offset: 0, zero: false })
            }
            TypedKind::Element { base, index, bytes, len } => {
                self.element(base, index, *bytes, *len, &e.span)
            }
            TypedKind::Assert(value, dynamic) => self.held(value, *dynamic),
            TypedKind::MapValue { map, key, layout } => self.map_value(map, key, *layout, &e.span),
            _ => Err(self.fail(&e.span, "this has no place in memory")),
        }
    }

    fn variable(&mut self, index: usize, span: &Span) -> Compiled<Holder> {
        let Some(variable) = self.places.variables.get(index) else {
            return Err(self.fail(span, "this variable is not known"));
        };
        let shown = place_text(&variable.location, self.places.cfa_from_sp);
        let named = format!("{} in {shown}", variable.name);
        if !self.operands.contains(&named) {
            self.operands.push(named);
        }
        match &variable.location {
            VariableLocation::Unavailable(reason) => Err(self.unreadable(index, *reason, span)),
            VariableLocation::Pieces(pieces) => {
                if let [Piece { place: Place::Address(address), .. }] = pieces.as_slice() {
                    return Ok(Holder::Memory { word: WORD_BIAS, offset: *address, zero: false });
                }
                Ok(match self.on_stack(pieces) {
                    Some(offset) => {
                        Holder::Memory { word: WORD_SP, offset: offset.cast_unsigned(), zero: false }
                    }
                    None => Holder::Pieces { variable: index, offset: 0 },
                })
            }
            VariableLocation::Heap(_) => {
                let holder = Holder::Pieces { variable: index, offset: 0 };
                self.pointed_at(&holder, span)
            }
            VariableLocation::Closure { register, offset, by_reference } => {
                let Some(word) = word_of(*register) else {
                    return Err(self.unreadable(index, Unavailable::BadDebugInfo, span));
                };
                let holder = Holder::Memory { word, offset: *offset, zero: false };
                if *by_reference { self.pointed_at(&holder, span) } else { Ok(holder) }
            }
        }
    }

    fn pointed_at(&mut self, holder: &Holder, span: &Span) -> Compiled<Holder> {
        let free = self.next;
        let loaded = self.load(holder, 0, 8, false, free, span)?;
        let Operand::Word { word, .. } = self.extended(loaded, span)? else {
            return Err(self.fail(span, "this pointer is nil"));
        };
        Ok(Holder::Memory { word, offset: 0, zero: false })
    }

    /// Bytes from SP of pieces that lie side by side on the stack.
    fn on_stack(&self, pieces: &[Piece]) -> Option<i64> {
        let offset_of = |piece: &Piece| match piece.place {
            Place::Frame(offset) => offset.checked_add(self.places.cfa_from_sp?.into()),
            _ => None,
        };
        let first = offset_of(pieces.first()?)?;
        let mut next = first;
        for piece in pieces {
            if offset_of(piece)? != next {
                return None;
            }
            next = next.checked_add(piece.bytes.into())?;
        }
        Some(first)
    }

    fn unreadable(&self, variable: usize, reason: Unavailable, span: &Span) -> CompileError {
        let name =
            self.places.variables.get(variable).map(|variable| variable.name.clone()).unwrap_or_default();
        let why = match reason {
            Unavailable::OptimizedOut => "the compiler keeps it nowhere here (optimized out)",
            Unavailable::RegisterFloat => {
                "it is in a floating-point register here, which the kernel does not show"
            }
            Unavailable::NotInitialized => "it has no value yet",
            _ => "debug data does not say where it is here",
        };
        let error = ExprError::new(&self.text, span.clone(), format!("{name} can't be read: {why}"));
        CompileError { error, unreadable: Some(name) }
    }

    /// Brings `bytes` bytes into a word; from `free` on words may be overwritten once they were read.
    pub(super) fn load(
        &mut self,
        holder: &Holder,
        at: u64,
        bytes: u32,
        signed: bool,
        free: u8,
        span: &Span,
    ) -> Compiled<Operand> {
        let shift = u8::try_from(64 - 8 * bytes.min(8)).unwrap_or(0);
        match holder.further(at) {
            Holder::Word(word) => Ok(Operand::Word { word, shift, signed }),
            Holder::Memory { word, offset, zero } => {
                self.next = free;
                let destination = self.take(1, span)?;
                let mut op =
                    Op { code: OP_READ, destination, left: word, shift, immediate: offset, ..Op::default() };
                op.flags |= if signed { OP_SIGNED } else { 0 } | if zero { OP_ZERO_IF_NIL } else { 0 };
                self.emit(op);
                Ok(Operand::Word { word: destination, shift: 0, signed })
            }
            Holder::Pieces { variable, offset } => {
                self.load_pieces(variable, offset, bytes, shift, signed, free, span)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what the place is, and what is wanted of it")]
    fn load_pieces(
        &mut self,
        variable: usize,
        offset: u64,
        bytes: u32,
        shift: u8,
        signed: bool,
        free: u8,
        span: &Span,
    ) -> Compiled<Operand> {
        let pieces: &[Piece] = match self.places.variables.get(variable).map(|variable| &variable.location) {
            Some(VariableLocation::Pieces(pieces) | VariableLocation::Heap(pieces)) => pieces,
            _ => &[],
        };
        let mut start = 0u64;
        for piece in pieces {
            let end = start.saturating_add(piece.bytes.into());
            let within = offset.checked_sub(start).filter(|_| offset.saturating_add(bytes.into()) <= end);
            start = end;
            let Some(within) = within else { continue };
            return match piece.place {
                Place::Missing => Err(self.unreadable(variable, Unavailable::OptimizedOut, span)),
                Place::FloatRegister(_) => Err(self.unreadable(variable, Unavailable::RegisterFloat, span)),
                Place::Constant(value) => {
                    let value =
                        value.checked_shr(u32::try_from(within).unwrap_or(64).saturating_mul(8)).unwrap_or(0);
                    Ok(Operand::Immediate(riptrace_common::condition::extend(value, shift, signed)))
                }
                Place::Register(number) => {
                    let Some(word) = word_of(number) else {
                        return Err(self.unreadable(variable, Unavailable::BadDebugInfo, span));
                    };
                    if within == 0 {
                        return Ok(Operand::Word { word, shift, signed });
                    }
                    self.next = free;
                    let destination = self.take(1, span)?;
                    self.emit(Op {
                        code: OP_SHIFT_RIGHT,
                        destination,
                        left: word,
                        flags: OP_IMMEDIATE,
                        immediate: within.saturating_mul(8),
                        ..Op::default()
                    });
                    Ok(Operand::Word { word: destination, shift, signed })
                }
                Place::Frame(from_cfa) => {
                    let from_sp = self
                        .places
                        .cfa_from_sp
                        .and_then(|cfa| from_cfa.checked_add(cfa.into()))
                        .ok_or_else(|| self.unreadable(variable, Unavailable::BadDebugInfo, span))?;
                    let holder =
                        Holder::Memory { word: WORD_SP, offset: from_sp.cast_unsigned(), zero: false };
                    self.load(&holder, within, bytes, signed, free, span)
                }
                Place::Address(address) => {
                    let holder = Holder::Memory { word: WORD_BIAS, offset: address, zero: false };
                    self.load(&holder, within, bytes, signed, free, span)
                }
            };
        }
        Err(self.unreadable(variable, Unavailable::BadDebugInfo, span))
    }

    /// A word that holds 8 bytes of a place.
    fn word_at(&mut self, holder: &Holder, at: u64, span: &Span) -> Compiled<u8> {
        let free = self.next;
        let loaded = self.load(holder, at, 8, false, free, span)?;
        match self.extended(loaded, span)? {
            Operand::Word { word, .. } => Ok(word),
            Operand::Immediate(_) => Err(self.fail(span, "this is no word")),
        }
    }

    fn element(
        &mut self,
        base: &Typed,
        index: &Typed,
        bytes: u64,
        len: Option<u64>,
        span: &Span,
    ) -> Compiled<Holder> {
        let holder = self.place(base)?;
        let constant = match index.constant() {
            Some(Constant::Integer(value)) => u64::try_from(*value).ok(),
            _ => None,
        };
        if let (Some(index), Some(_)) = (constant, len) {
            // Its range was checked with its type.
            return Ok(holder.further(index.saturating_mul(bytes)));
        }
        let pointer = match (len, &holder) {
            (None, _) => self.word_at(&holder, 0, span)?,
            (Some(_), Holder::Memory { word, .. }) => *word,
            (Some(_), _) => {
                return Err(self.fail(span, "an array that is in registers has no element by a variable"));
            }
        };
        let (mut offset, zero) = match (len, holder) {
            (Some(_), Holder::Memory { offset, zero, .. }) => (offset, zero),
            _ => (0, false),
        };
        let length = match len {
            Some(len) => Operand::Immediate(len),
            None => Operand::Word { word: self.word_at(&holder, 8, span)?, shift: 0, signed: true },
        };
        if let Some(index) = constant {
            // len <= index fails.
            self.compare_words(OP_LESS_EQUAL, 0, length, Operand::Immediate(index), true, FAIL);
            offset = index.saturating_mul(bytes);
            return Ok(Holder::Memory { word: pointer, offset, zero });
        }
        let value = self.value(index)?;
        let value = self.extended(value, &index.span)?;
        let Operand::Word { word, .. } = value else {
            return Err(self.fail(&index.span, "this is no index"));
        };
        // As unsigned numbers: a negative index is larger than every length.
        let unsigned = Operand::Word { word, shift: 0, signed: false };
        self.compare_words(OP_LESS, 0, unsigned, length, false, FAIL);
        let destination = self.take(1, span)?;
        let op = Op { destination, left: word, flags: OP_IMMEDIATE, immediate: bytes, ..Op::default() };
        self.emit(Op { code: OP_MULTIPLY, ..op });
        self.emit(Op { code: OP_ADD, destination, left: destination, right: pointer, ..Op::default() });
        Ok(Holder::Memory { word: destination, offset, zero })
    }

    /// `len` or `cap`.
    pub(super) fn length(&mut self, e: &Typed, capacity: bool) -> Compiled<Operand> {
        let free = self.next;
        let (header, names): (TypeId, &[&str]) = match &e.ty.class {
            Class::Map(layout) => (layout.header, &["used", "count"]),
            Class::Chan { header } => (*header, if capacity { &["dataqsiz"] } else { &["qcount"] }),
            _ => {
                let holder = self.place(e)?;
                let at = if capacity { 16 } else { 8 };
                let loaded = self.load(&holder, at, 8, true, free, &e.span)?;
                return Ok(loaded);
            }
        };
        let Some((offset, _)) = names.iter().find_map(|name| field(&self.places.types.get(header), name))
        else {
            return Err(self.fail(&e.span, "debug data does not say where this has its length"));
        };
        let holder = self.place(e)?;
        let word = self.word_at(&holder, 0, &e.span)?;
        let of_header = Holder::Memory { word, offset, zero: true };
        self.load(&of_header, 0, 8, true, free, &e.span)
    }

    /// Goes to `label` when an interface holds a value of the type (`wanted`), or when it does not.
    pub(super) fn type_test(
        &mut self,
        value: &Typed,
        dynamic: Dynamic,
        wanted: bool,
        label: usize,
    ) -> Compiled<()> {
        let holder = self.place(value)?;
        let free = self.next;
        let first = self.word_at(&holder, 0, &value.span)?;
        let end = self.label();
        let mut found = Operand::Word { word: first, shift: 0, signed: false };
        if value.ty.class != (Class::Interface { empty: true }) {
            // A nil interface has no itab; it holds no type.
            let no = if wanted { end } else { label };
            self.compare_words(OP_EQUAL, 0, found, Operand::Immediate(0), true, no);
            let itab = Holder::Memory { word: first, offset: 8, zero: false };
            found = self.load(&itab, 0, 8, false, free, &value.span)?;
        }
        let expected = self.expected_type(dynamic, &value.span)?;
        let expected = Operand::Word { word: expected, shift: 0, signed: false };
        self.compare_words(OP_EQUAL, 0, found, expected, wanted, label);
        self.bind(end);
        Ok(())
    }

    fn expected_type(&mut self, dynamic: Dynamic, span: &Span) -> Compiled<u8> {
        let destination = self.take(1, span)?;
        self.emit(Op {
            code: OP_ADD,
            destination,
            left: WORD_BIAS,
            flags: OP_IMMEDIATE,
            immediate: dynamic.runtime_type,
            ..Op::default()
        });
        Ok(destination)
    }

    /// What an interface holds, if it is of the type; else the hit fails.
    fn held(&mut self, value: &Typed, dynamic: Dynamic) -> Compiled<Holder> {
        let holder = self.place(value)?;
        let data = self.word_at(&holder, 8, &value.span)?;
        let free = self.next;
        let first = self.word_at(&holder, 0, &value.span)?;
        let found = if value.ty.class == (Class::Interface { empty: true }) {
            Operand::Word { word: first, shift: 0, signed: false }
        } else {
            let itab = Holder::Memory { word: first, offset: 8, zero: false };
            self.load(&itab, 0, 8, false, free, &value.span)?
        };
        let expected = self.expected_type(dynamic, &value.span)?;
        let expected = Operand::Word { word: expected, shift: 0, signed: false };
        self.compare_words(OP_EQUAL, 0, found, expected, false, FAIL);
        self.next = free;
        Ok(if dynamic.direct {
            Holder::Word(data)
        } else {
            Holder::Memory { word: data, offset: 0, zero: false }
        })
    }

    fn map_value(&mut self, map: &Typed, key: &Typed, layout: MapLayout, span: &Span) -> Compiled<Holder> {
        let Some(mut plan) = self.map_plan(layout) else {
            return Err(
                self.fail(span, "debug data does not describe this map in a way that it can be searched")
            );
        };
        let free = self.next;
        let destination = self.take(1, span)?;
        let header = self.value(map)?;
        let header = self.extended(header, &map.span)?;
        let Operand::Word { word: header, .. } = header else {
            return Err(self.fail(&map.span, "this is no map"));
        };
        let mut constant = None;
        let mut right = 0;
        match (&key.ty.class, key.constant()) {
            (Class::String, Some(Constant::Text(bytes))) => {
                if bytes.len() > BLOCK_BYTES {
                    return Err(self.fail(&key.span, format!("a key has at most {BLOCK_BYTES} bytes here")));
                }
                plan.flags |= MAP_CONSTANT_KEY;
                plan.constant_bytes = u32::try_from(bytes.len()).unwrap_or(0);
                constant = Some(super::block(bytes));
            }
            (Class::String, _) => right = self.string(key)?,
            _ => {
                let value = self.value(key)?;
                if let Operand::Word { word, .. } = self.extended(value, &key.span)? {
                    right = word;
                }
            }
        }
        let at = self.blocks.len() as u64;
        self.blocks.push(plan.block());
        self.blocks.extend(constant);
        self.emit(Op {
            code: OP_FIND,
            destination,
            left: header,
            right,
            immediate: at << 32,
            ..Op::default()
        });
        self.next = free + 1;
        let found = Holder::Memory { word: destination, offset: 0, zero: true };
        if plan.flags & MAP_INDIRECT_VALUE == 0 {
            return Ok(found);
        }
        // What the group holds is the value's address; of no value at all it is zero.
        let word = self.word_at(&found, 0, span)?;
        Ok(Holder::Memory { word, offset: 0, zero: true })
    }

    fn map_plan(&self, layout: MapLayout) -> Option<MapPlan> {
        let types = self.places.types;
        let header = types.get(layout.header);
        let key = types.get(layout.key);
        let narrow = |value: u64| u32::try_from(value).ok();
        let at = |ty: &GoType, name: &str| narrow(field(ty, name)?.0);
        let pointee = |id: TypeId| match types.get(id).shape {
            Shape::Pointer { elem } => elem,
            _ => None,
        };
        let element = |id: TypeId| match types.get(id).shape {
            Shape::Array { elem, .. } => Some(elem),
            _ => None,
        };
        let mut plan = MapPlan { key_bytes: narrow(key.bytes)?, ..MapPlan::default() };
        if !matches!(plan.key_bytes, 1 | 2 | 4 | 8 | 16) {
            return None;
        }
        let (holder, arrays) = if let Some((directory, pointer)) = field(&header, "dirPtr") {
            plan.flags = MAP_SWISS;
            plan.groups = narrow(directory)?;
            plan.count = at(&header, "dirLen")?;
            let table = types.get(pointee(pointee(pointer)?)?);
            let (groups, reference) = field(&table, "groups")?;
            let reference = types.get(reference);
            let (data, pointer) = field(&reference, "data")?;
            plan.table_data = narrow(groups.checked_add(data)?)?;
            plan.table_mask = narrow(groups.checked_add(field(&reference, "lengthMask")?.0)?)?;
            let group = types.get(pointee(pointer)?);
            plan.control = at(&group, "ctrl")?;
            (group, ["keys", "elems"])
        } else {
            let (buckets, pointer) = field(&header, "buckets")?;
            plan.groups = narrow(buckets)?;
            plan.count = at(&header, "B")?;
            plan.table_data = at(&header, "oldbuckets")?;
            let bucket = types.get(pointee(pointer)?);
            plan.table_mask = at(&bucket, "overflow")?;
            plan.control = at(&bucket, "tophash")?;
            (bucket, ["keys", "values"])
        };
        plan.group_bytes = narrow(holder.bytes)?;
        let (stored_key, stored_value) = if let Some((slots, array)) = field(&holder, "slots") {
            // Pairs side by side.
            let slot = types.get(element(array)?);
            let ((key_at, key), (value_at, value)) = (field(&slot, "key")?, field(&slot, "elem")?);
            plan.keys = narrow(slots.checked_add(key_at)?)?;
            plan.values = narrow(slots.checked_add(value_at)?)?;
            plan.key_stride = narrow(slot.bytes)?;
            plan.value_stride = plan.key_stride;
            (key, value)
        } else {
            let ((keys_at, keys), (values_at, values)) =
                (field(&holder, arrays[0])?, field(&holder, arrays[1])?);
            let (key, value) = (element(keys)?, element(values)?);
            plan.keys = narrow(keys_at)?;
            plan.values = narrow(values_at)?;
            plan.key_stride = narrow(types.get(key).bytes)?;
            plan.value_stride = narrow(types.get(value).bytes)?;
            (key, value)
        };
        if is_stored_indirectly(types, stored_key, layout.key) {
            return None;
        }
        if is_stored_indirectly(types, stored_value, layout.value) {
            plan.flags |= MAP_INDIRECT_VALUE;
        }
        Some(plan)
    }
}

/// The condition's word of a register, by its DWARF number.
fn word_of(number: u16) -> Option<u8> {
    let (root_offset, _) = crate::plan::general_register(number)?;
    if root_offset == register::RSP {
        return Some(WORD_SP);
    }
    u8::try_from(root_offset / 8).ok().filter(|word| *word < WORD_SP)
}

/// Offset and type of a field.
fn field(ty: &GoType, name: &str) -> Option<(u64, TypeId)> {
    let Shape::Struct { fields } = &ty.shape else { return None };
    let found = fields.iter().find(|field| &*field.name == name)?;
    Some((found.offset, found.ty))
}
