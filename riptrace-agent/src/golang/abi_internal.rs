//! Where Go's internal calling convention puts a function's parameters and results (cmd/compile/abi-internal.md, "Function
//! call argument and result passing", and its amd64 part). Pure.
//!
//! Debug data does not say where results are when a function returns (go.dev/issue/50990), but its signature does. Each
//! result goes, as a whole or not at all, to the next free registers; what does not fit goes to the stack, behind what the
//! caller put there. Registers are counted anew for the results.

use std::sync::Arc;

use super::types::{GoType, Kind, Shape, TypeId, TypeSource};
use crate::dwarf::{Piece, Place};

/// Integer registers in the order in which they are assigned: DWARF number and name.
pub const INTEGER_REGISTERS: [(u16, &str); 9] = [
    (0, "rax"),
    (3, "rbx"),
    (2, "rcx"),
    (5, "rdi"),
    (4, "rsi"),
    (8, "r8"),
    (9, "r9"),
    (10, "r10"),
    (11, "r11"),
];
/// X0 to X14; XMM0 has DWARF number 17.
const FLOAT_REGISTERS: u16 = 15;
const FIRST_FLOAT_REGISTER: u16 = 17;
const WORD_BYTES: u64 = 8;
/// Structs and arrays within each other; Go's own types nest far less deep.
const MAX_DEPTH: u32 = 64;

/// What a call passes to a function, in the order in which it is assigned.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// Receiver first.
    pub types: &'a [TypeId],
    /// A hidden pointer, the dictionary of a generic function, comes behind so many of them: behind the receiver
    /// (cmd/compile/internal/noder, `shapeSig`). `None`: there is none.
    pub dictionary_behind: Option<usize>,
}

/// How the results of a function are passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Results {
    /// Where each is when the function returns, in their order. `Place::Frame` counts from the CFA of its frame. `None`: a
    /// type is not known.
    pub places: Option<Vec<Vec<Piece>>>,
    /// Bytes of stack that the caller sets aside for the call, which the runtime's table knows as well: if the two differ,
    /// the signature is not complete (up to Go 1.21 debug data leaves blank parameters out).
    pub argument_bytes: u64,
}

/// Assigns the results. The parameters take part because what of them lies on the stack comes before the results there.
#[must_use]
pub fn results(types: &dyn TypeSource, parameters: Parameters<'_>, results: &[TypeId]) -> Results {
    let mut frame = Frame::new(types);
    let spilled = frame.parameters(parameters);
    frame.align(WORD_BYTES);
    (frame.integers, frame.floats) = (0, 0);
    let places = results.iter().map(|&result| frame.assign(&types.get(result))).collect();
    frame.align(WORD_BYTES);
    for ty in spilled {
        frame.align(frame.alignment(&ty, 0));
        frame.stack_bytes = frame.stack_bytes.saturating_add(ty.bytes);
    }
    frame.align(WORD_BYTES);
    Results { places: (!frame.unknown).then_some(places), argument_bytes: frame.stack_bytes }
}

/// The register (DWARF number) in which a call passes the dictionary of a generic function. `None`: on the stack, or the
/// type of a parameter before it is not known.
#[must_use]
pub fn dictionary_register(types: &dyn TypeSource, before: &[TypeId]) -> Option<u16> {
    let mut frame = Frame::new(types);
    for &parameter in before {
        frame.assign(&types.get(parameter));
    }
    match frame.assign(&dictionary()).as_slice() {
        [Piece { place: Place::Register(register), .. }] if !frame.unknown => Some(*register),
        _ => None,
    }
}

/// A dictionary is passed as a pointer.
fn dictionary() -> GoType {
    GoType {
        name: ".dict".into(),
        bytes: WORD_BYTES,
        kind: Kind::UnsafePointer,
        shape: Shape::UnsafePointer,
        runtime_type: None,
    }
}

struct Frame<'a> {
    types: &'a dyn TypeSource,
    /// Registers that are taken.
    integers: usize,
    floats: u16,
    /// Bytes of the stack that are taken.
    stack_bytes: u64,
    /// A type was met that is not known.
    unknown: bool,
}

impl<'a> Frame<'a> {
    fn new(types: &'a dyn TypeSource) -> Self {
        Self { types, integers: 0, floats: 0, stack_bytes: 0, unknown: false }
    }

    /// Assigns the parameters; gives those that are passed in registers, for which the caller leaves room on the stack.
    fn parameters(&mut self, parameters: Parameters<'_>) -> Vec<Arc<GoType>> {
        let mut all: Vec<Arc<GoType>> = parameters.types.iter().map(|&ty| self.types.get(ty)).collect();
        if let Some(behind) = parameters.dictionary_behind {
            all.insert(behind.min(all.len()), Arc::new(dictionary()));
        }
        all.retain(|parameter| {
            let pieces = self.assign(parameter);
            pieces.iter().any(|piece| !matches!(piece.place, Place::Frame(_)))
        });
        all
    }

    fn assign(&mut self, ty: &GoType) -> Vec<Piece> {
        let before = (self.integers, self.floats);
        if ty.bytes == 0 {
            self.align(self.alignment(ty, 0));
            return Vec::new();
        }
        let mut pieces = Vec::new();
        if self.in_registers(ty, 0, &mut pieces, 0).is_some_and(|end| end <= ty.bytes) {
            fill(&mut pieces, ty.bytes);
            return pieces.into_iter().map(|(_, piece)| piece).collect();
        }
        (self.integers, self.floats) = before;
        self.align(self.alignment(ty, 0));
        let at = i64::try_from(self.stack_bytes).unwrap_or(i64::MAX);
        self.stack_bytes = self.stack_bytes.saturating_add(ty.bytes);
        vec![Piece { bytes: u32::try_from(ty.bytes).unwrap_or(u32::MAX), place: Place::Frame(at) }]
    }

    /// Takes registers for a value that lies `offset` bytes into the result; gives where it ends. `None`: no room.
    fn in_registers(
        &mut self,
        ty: &GoType,
        offset: u64,
        pieces: &mut Vec<(u64, Piece)>,
        depth: u32,
    ) -> Option<u64> {
        if depth > MAX_DEPTH {
            return None;
        }
        let end = offset.checked_add(ty.bytes)?;
        match &ty.shape {
            Shape::Scalar => match ty.kind {
                Kind::Float32 | Kind::Float64 => self.float(offset, ty.bytes, pieces)?,
                Kind::Complex64 | Kind::Complex128 => {
                    self.float(offset, ty.bytes / 2, pieces)?;
                    self.float(offset + ty.bytes / 2, ty.bytes / 2, pieces)?;
                }
                _ if ty.bytes <= WORD_BYTES => self.integer(offset, ty.bytes, pieces)?,
                _ => return None,
            },
            Shape::Pointer { .. }
            | Shape::Map(_)
            | Shape::Chan { .. }
            | Shape::Func
            | Shape::UnsafePointer => self.integer(offset, WORD_BYTES, pieces)?,
            Shape::String | Shape::EmptyInterface | Shape::Interface => self.words(2, offset, pieces)?,
            Shape::Slice { .. } => self.words(3, offset, pieces)?,
            Shape::Array { len: 0, .. } => {}
            Shape::Array { elem, len: 1 } => {
                let elem = self.types.get(*elem);
                self.in_registers(&elem, offset, pieces, depth + 1)?;
            }
            Shape::Array { .. } => return None,
            Shape::Redacted | Shape::Unknown => {
                self.unknown = true;
                return None;
            }
            Shape::Struct { fields } => {
                for field in fields {
                    let ty = self.types.get(field.ty);
                    self.in_registers(&ty, offset.checked_add(field.offset)?, pieces, depth + 1)?;
                }
            }
        }
        Some(end)
    }

    fn words(&mut self, count: u64, offset: u64, pieces: &mut Vec<(u64, Piece)>) -> Option<()> {
        (0..count).try_for_each(|word| self.integer(offset + word * WORD_BYTES, WORD_BYTES, pieces))
    }

    fn integer(&mut self, offset: u64, bytes: u64, pieces: &mut Vec<(u64, Piece)>) -> Option<()> {
        let (register, _) = *INTEGER_REGISTERS.get(self.integers)?;
        self.integers += 1;
        let bytes = u32::try_from(bytes).ok()?;
        pieces.push((offset, Piece { bytes, place: Place::Register(register) }));
        Some(())
    }

    fn float(&mut self, offset: u64, bytes: u64, pieces: &mut Vec<(u64, Piece)>) -> Option<()> {
        if self.floats >= FLOAT_REGISTERS {
            return None;
        }
        let place = Place::FloatRegister(FIRST_FLOAT_REGISTER + self.floats);
        self.floats += 1;
        pieces.push((offset, Piece { bytes: u32::try_from(bytes).ok()?, place }));
        Some(())
    }

    fn align(&mut self, bytes: u64) {
        self.stack_bytes = self.stack_bytes.checked_next_multiple_of(bytes).unwrap_or(u64::MAX);
    }

    fn alignment(&self, ty: &GoType, depth: u32) -> u64 {
        if depth > MAX_DEPTH {
            return WORD_BYTES;
        }
        match &ty.shape {
            Shape::Scalar if matches!(ty.kind, Kind::Complex64) => 4,
            Shape::Scalar => ty.bytes.clamp(1, WORD_BYTES),
            Shape::Array { elem, .. } => self.alignment(&self.types.get(*elem), depth + 1),
            Shape::Struct { fields } => fields
                .iter()
                .map(|field| self.alignment(&self.types.get(field.ty), depth + 1))
                .max()
                .unwrap_or(1),
            _ => WORD_BYTES,
        }
    }
}

/// Makes pieces cover a value of `bytes` bytes: padding is nowhere.
fn fill(pieces: &mut Vec<(u64, Piece)>, bytes: u64) {
    pieces.sort_by_key(|(offset, _)| *offset);
    let mut filled = Vec::with_capacity(pieces.len());
    let mut at = 0;
    let padding = |from: u64, to: u64, filled: &mut Vec<(u64, Piece)>| {
        if let Some(bytes) = to.checked_sub(from).filter(|&bytes| bytes > 0) {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            filled.push((from, Piece { bytes, place: Place::Constant(0) }));
        }
    };
    for &(offset, piece) in pieces.iter() {
        padding(at, offset, &mut filled);
        at = offset + u64::from(piece.bytes);
        filled.push((offset, piece));
    }
    padding(at, bytes, &mut filled);
    *pieces = filled;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golang::{table::TypeTable, types::FieldLayout};

    fn int(number: u16, bytes: u32) -> Piece {
        Piece { bytes, place: Place::Register(number) }
    }

    fn float(number: u16, bytes: u32) -> Piece {
        Piece { bytes, place: Place::FloatRegister(FIRST_FLOAT_REGISTER + number) }
    }

    fn stack(offset: i64, bytes: u32) -> Piece {
        Piece { bytes, place: Place::Frame(offset) }
    }

    fn float64(types: &TypeTable) -> TypeId {
        types.add("float64", 8, Kind::Float64, Shape::Scalar)
    }

    fn structure(types: &TypeTable, fields: &[(TypeId, u64)], bytes: u64) -> TypeId {
        let field =
            |&(ty, offset): &(TypeId, u64)| FieldLayout { name: "F".into(), embedded: false, offset, ty };
        let fields = fields.iter().map(field).collect();
        types.add("T", bytes, Kind::Struct, Shape::Struct { fields })
    }

    fn assigned(types: &TypeTable, parameters: &[TypeId], wanted: &[TypeId]) -> Vec<Vec<Piece>> {
        let parameters = Parameters { types: parameters, dictionary_behind: None };
        results(types, parameters, wanted).places.unwrap()
    }

    #[test]
    fn results_take_registers_from_the_first_on() {
        let types = TypeTable::default();
        let (i, s, e, f) = (types.int(), types.string(), types.error(), float64(&types));
        assert_eq!(
            assigned(&types, &[i, i, i], &[i, s, f, e]),
            [vec![int(0, 8)], vec![int(3, 8), int(2, 8)], vec![float(0, 8)], vec![int(5, 8), int(4, 8)],]
        );
    }

    #[test]
    fn a_result_that_does_not_fit_whole_lies_behind_the_parameters_on_the_stack() {
        let types = TypeTable::default();
        let (i, s) = (types.int(), types.string());
        let slice = types.slice(i);
        let two = types.array(i, 2);
        // Three slices take all nine; the string goes to the stack, behind the array that was passed there.
        assert_eq!(
            assigned(&types, &[two], &[slice, slice, i, i, s, i]),
            [
                vec![int(0, 8), int(3, 8), int(2, 8)],
                vec![int(5, 8), int(4, 8), int(8, 8)],
                vec![int(9, 8)],
                vec![int(10, 8)],
                vec![stack(16, 16)],
                vec![int(11, 8)],
            ]
        );
    }

    #[test]
    fn structs_are_taken_apart_and_long_arrays_are_not() {
        let types = TypeTable::default();
        let (i, b, s, f) = (types.int(), types.byte(), types.string(), float64(&types));
        let one = types.array(s, 1);
        let none = types.array(s, 0);
        let two = types.array(b, 2);
        let mixed = structure(&types, &[(b, 0), (i, 8), (f, 16), (one, 24)], 40);
        let with_two = structure(&types, &[(i, 0), (two, 8)], 16);
        assert_eq!(
            assigned(&types, &[], &[mixed, none, with_two, b]),
            [
                vec![
                    int(0, 1),
                    Piece { bytes: 7, place: Place::Constant(0) },
                    int(3, 8),
                    float(0, 8),
                    int(2, 8),
                    int(5, 8),
                ],
                vec![],
                vec![stack(0, 16)],
                vec![int(4, 1)],
            ]
        );
    }

    #[test]
    fn a_dictionary_takes_a_register_of_the_parameters() {
        let types = TypeTable::default();
        let i = types.int();
        let of = |count: usize, dictionary_behind| {
            let parameters = Parameters { types: &[i; 12][..count], dictionary_behind };
            let results = results(&types, parameters, &[types.array(i, 2)]);
            (results.places.unwrap(), results.argument_bytes)
        };
        // Nine registers are spilled in either case: the ninth parameter gives its place to the dictionary.
        assert_eq!(of(9, Some(1)), (vec![vec![stack(8, 16)]], 8 + 16 + 9 * 8));
        assert_eq!(of(9, None), (vec![vec![stack(0, 16)]], 16 + 9 * 8));
        assert_eq!(of(4, Some(1)), (vec![vec![stack(0, 16)]], 16 + 5 * 8));
    }

    #[test]
    fn a_dictionary_comes_behind_the_receiver() {
        let types = TypeTable::default();
        let (i, s) = (types.int(), types.string());
        let slice = types.slice(i);
        let pair = structure(&types, &[(float64(&types), 0), (s, 8)], 24);
        let nine = structure(&types, &[(slice, 0), (slice, 24), (slice, 48)], 72);
        let ten = structure(&types, &[(nine, 0), (i, 72)], 80);
        let register = |before: &[TypeId]| dictionary_register(&types, before);
        assert_eq!(register(&[]), Some(0));
        assert_eq!(register(&[i]), Some(3));
        assert_eq!(register(&[pair]), Some(2));
        // What does not fit takes no register; what takes all leaves none.
        assert_eq!(register(&[ten]), Some(0));
        assert_eq!(register(&[nine]), None);
        let parameters = Parameters { types: &[nine], dictionary_behind: Some(1) };
        let found = results(&types, parameters, &[types.array(i, 2)]);
        assert_eq!((found.places.unwrap(), found.argument_bytes), (vec![vec![stack(8, 16)]], 8 + 16 + 72));
        let unknown = types.add("T", 8, Kind::Invalid, Shape::Unknown);
        assert_eq!(register(&[unknown]), None);
        let parameters = Parameters { types: &[], dictionary_behind: None };
        assert_eq!(results(&types, parameters, &[unknown]).places, None);
    }
}
