//! Where a variable's bytes are at one address: evaluates location lists and the expressions that Go writes.

use gimli::{EndianSlice, Expression, LittleEndian, LocationListsOffset, Operation};
use riptrace_common::wire::value::Unavailable;

use super::{
    scopes::LocationAttribute,
    unit::{Slice, Unit, View},
    variable::{Piece, Place, VariableLocation},
};

/// DWARF's number of RSP, of the first XMM register, and of the context register RDX.
const RSP: u16 = 7;
const FIRST_FLOAT: u16 = 17;
/// RDX, which holds the closure object when a closure is entered (cmd/compile/abi-internal.md).
pub(crate) const CONTEXT_REGISTER: u16 = 1;

/// No expression is longer, no variable has more pieces.
const MAX_OPERATIONS: usize = 4096;

/// What is known about an address when a location is evaluated.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) address: u64,
    pub(crate) cfa_from_sp: Option<i32>,
}

/// Whether any of a location's entries says something about the address.
pub(crate) fn is_described(
    view: &View<'_>,
    unit: &Unit<'_>,
    location: &LocationAttribute,
    address: u64,
) -> bool {
    expression(view, unit, location, address).is_some()
}

/// The pieces of a value of `bytes` bytes.
pub(crate) fn evaluate(
    view: &View<'_>,
    unit: &Unit<'_>,
    location: &LocationAttribute,
    at: At,
    bytes: u64,
) -> VariableLocation {
    if bytes == 0 {
        return VariableLocation::Pieces(Vec::new());
    }
    let Some(expression) = expression(view, unit, location, at.address) else {
        return VariableLocation::Unavailable(Unavailable::OptimizedOut);
    };
    match pieces(view, unit, expression, at, bytes) {
        Some(pieces) if pieces.iter().all(|piece| piece.place == Place::Missing) => {
            VariableLocation::Unavailable(Unavailable::OptimizedOut)
        }
        Some(pieces) => VariableLocation::Pieces(pieces),
        None => VariableLocation::Unavailable(Unavailable::BadDebugInfo),
    }
}

/// The expression that holds at the address. In a list an entry covers its start and not its end; empty entries say
/// nothing.
fn expression<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    location: &LocationAttribute,
    address: u64,
) -> Option<Expression<Slice<'a>>> {
    use gimli::Section;
    match location {
        LocationAttribute::None => None,
        LocationAttribute::Expression(range) => {
            let bytes = view.dwarf.debug_info.reader().slice().get(range.clone())?;
            Some(Expression(EndianSlice::new(bytes, LittleEndian)))
        }
        LocationAttribute::List(offset) => {
            let mut entries = view.dwarf.locations(unit, LocationListsOffset(*offset)).ok()?;
            while let Ok(Some(entry)) = entries.next() {
                if entry.range.begin <= address && address < entry.range.end {
                    return Some(entry.data).filter(|data| !data.0.is_empty());
                }
            }
            None
        }
    }
}

/// What stands on the expression's stack.
#[derive(Clone, Copy)]
enum Term {
    Cfa(i64),
    Number(u64),
    Address(u64),
}

/// `None`: it contradicts itself or the type, or says something that Go does not write.
fn pieces<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    expression: Expression<Slice<'a>>,
    at: At,
    bytes: u64,
) -> Option<Vec<Piece>> {
    let mut out: Vec<Piece> = Vec::new();
    let mut stack: Vec<Term> = Vec::new();
    let mut place: Option<Place> = None;
    let mut operations = expression.operations(unit.encoding());
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = operations.next().ok()? else { break };
        match operation {
            Operation::FrameOffset { offset } => stack.push(Term::Cfa(offset)),
            Operation::CallFrameCFA => stack.push(Term::Cfa(0)),
            Operation::Address { address } => stack.push(Term::Address(address)),
            Operation::AddressIndex { index } => {
                stack.push(Term::Address(view.dwarf.address(unit, index).ok()?));
            }
            Operation::ConstantIndex { index } => {
                stack.push(Term::Number(view.dwarf.address(unit, index).ok()?));
            }
            Operation::UnsignedConstant { value } => stack.push(Term::Number(value)),
            Operation::SignedConstant { value } => stack.push(Term::Number(value.cast_unsigned())),
            Operation::PlusConstant { value } => {
                let term = stack.pop()?;
                stack.push(add(term, Term::Number(value))?);
            }
            Operation::Plus => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                stack.push(add(left, right)?);
            }
            Operation::RegisterOffset { register, offset, .. } if register.0 == RSP => {
                stack.push(Term::Cfa(offset.checked_sub(i64::from(at.cfa_from_sp?))?));
            }
            Operation::Register { register } => {
                place = Some(if register.0 >= FIRST_FLOAT {
                    Place::FloatRegister(register.0)
                } else {
                    Place::Register(register.0)
                });
            }
            Operation::StackValue => match stack.pop()? {
                Term::Number(value) => place = Some(Place::Constant(value)),
                Term::Cfa(_) | Term::Address(_) => return None,
            },
            Operation::ImplicitValue { data } => {
                let mut word = [0; 8];
                word.get_mut(..data.len())?.copy_from_slice(data.slice());
                place = Some(Place::Constant(u64::from_le_bytes(word)));
            }
            Operation::Piece { size_in_bits, bit_offset: None } if size_in_bits % 8 == 0 => {
                let size = u32::try_from(size_in_bits / 8).ok()?;
                let found = place.take().or(stack.pop().and_then(memory)).unwrap_or(Place::Missing);
                push(&mut out, Piece { bytes: size, place: found })?;
            }
            Operation::Nop => {}
            _ => return None,
        }
    }
    if out.is_empty() {
        let found = place.or(stack.pop().and_then(memory))?;
        push(&mut out, Piece { bytes: u32::try_from(bytes).ok()?, place: found })?;
    }
    // The compiler sometimes forgets pieces or writes them twice (go#72053, go#61700).
    let sum = out.iter().map(|piece| u64::from(piece.bytes)).sum::<u64>();
    (sum == bytes).then_some(out)
}

fn add(left: Term, right: Term) -> Option<Term> {
    Some(match (left, right) {
        (Term::Cfa(offset), Term::Number(number)) | (Term::Number(number), Term::Cfa(offset)) => {
            Term::Cfa(offset.checked_add(number.cast_signed())?)
        }
        (Term::Address(address), Term::Number(number)) | (Term::Number(number), Term::Address(address)) => {
            Term::Address(address.wrapping_add(number))
        }
        (Term::Number(left), Term::Number(right)) => Term::Number(left.wrapping_add(right)),
        _ => return None,
    })
}

fn memory(term: Term) -> Option<Place> {
    match term {
        Term::Cfa(offset) => Some(Place::Frame(offset)),
        Term::Address(address) | Term::Number(address) => Some(Place::Address(address)),
    }
}

/// Adds a piece, joined with the one before it if they lie side by side.
fn push(out: &mut Vec<Piece>, piece: Piece) -> Option<()> {
    let fits = match piece.place {
        Place::Register(_) | Place::Constant(_) => piece.bytes <= 8,
        Place::FloatRegister(_) => piece.bytes <= 64,
        Place::Frame(_) | Place::Address(_) | Place::Missing => true,
    };
    if !fits || out.len() >= MAX_OPERATIONS {
        return None;
    }
    if piece.bytes == 0 {
        return Some(());
    }
    if let Some(last) = out.last_mut() {
        let joined = match (last.place, piece.place) {
            (Place::Frame(before), Place::Frame(after)) => {
                before.checked_add(i64::from(last.bytes)) == Some(after)
            }
            (Place::Address(before), Place::Address(after)) => {
                before.checked_add(u64::from(last.bytes)) == Some(after)
            }
            (Place::Missing, Place::Missing) => true,
            _ => false,
        };
        if joined && let Some(sum) = last.bytes.checked_add(piece.bytes) {
            last.bytes = sum;
            return Some(());
        }
    }
    out.push(piece);
    Some(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dwarf::{Sections, unit::AbbreviationCache};

    /// A version 4 unit of nothing.
    fn evaluate_bytes(expression: &[u8], bytes: u64) -> VariableLocation {
        let mut info = vec![8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8, 1];
        let start = info.len();
        info.extend_from_slice(expression);
        let sections = Sections {
            debug_info: Bytes::from(info),
            debug_abbrev: Bytes::from_static(&[1, 0x11, 0, 0, 0, 0]),
            ..Sections::default()
        };
        let cache = AbbreviationCache::default();
        let view = View::new(&sections, &cache);
        let unit = view.unit(0).unwrap();
        let location = LocationAttribute::Expression(start..start + expression.len());
        evaluate(&view, &unit, &location, At { address: 0, cfa_from_sp: Some(32) }, bytes)
    }

    #[test]
    fn expressions_that_compilers_write_are_evaluated() {
        use Place::{Address, Constant, FloatRegister, Frame, Missing, Register};
        let cases: &[(&[u8], u64, &[(u32, Place)])] = &[
            // DW_OP_fbreg -24
            (&[0x91, 0x68], 16, &[(16, Frame(-24))]),
            // DW_OP_call_frame_cfa
            (&[0x9c], 8, &[(8, Frame(0))]),
            // DW_OP_call_frame_cfa; consts -8; plus
            (&[0x9c, 0x11, 0x78, 0x22], 8, &[(8, Frame(-8))]),
            // DW_OP_call_frame_cfa; plus_uconst 16
            (&[0x9c, 0x23, 16], 8, &[(8, Frame(16))]),
            // DW_OP_breg7 8, CFA is SP + 32
            (&[0x77, 8], 8, &[(8, Frame(-24))]),
            // DW_OP_reg3
            (&[0x53], 4, &[(4, Register(3))]),
            // DW_OP_reg17
            (&[0x61], 8, &[(8, FloatRegister(17))]),
            // DW_OP_addr
            (&[0x03, 0, 0x10, 0, 0, 0, 0, 0, 0], 24, &[(24, Address(0x1000))]),
            // DW_OP_reg3, piece 8, reg2, piece 8
            (&[0x53, 0x93, 8, 0x52, 0x93, 8], 16, &[(8, Register(3)), (8, Register(2))]),
            // DW_OP_reg3, piece 8, piece 8: the second half is nowhere
            (&[0x53, 0x93, 8, 0x93, 8], 16, &[(8, Register(3)), (8, Missing)]),
            // Two halves of one stack slot are one piece
            (&[0x91, 32, 0x93, 8, 0x91, 40, 0x93, 8], 16, &[(16, Frame(32))]),
            // DW_OP_constu 5, stack_value
            (&[0x10, 5, 0x9f], 8, &[(8, Constant(5))]),
        ];
        for (expression, bytes, expected) in cases {
            let expected = expected.iter().map(|&(bytes, place)| Piece { bytes, place }).collect();
            assert_eq!(
                evaluate_bytes(expression, *bytes),
                VariableLocation::Pieces(expected),
                "{expression:x?}"
            );
        }
    }

    #[test]
    fn contradictions_are_bad_debug_info() {
        for (expression, bytes) in [
            // Pieces that don't add up
            (&[0x53, 0x93, 8][..], 16),
            (&[0x53, 0x93, 8, 0x53, 0x93, 8], 8),
            // Sixteen bytes in a general register
            (&[0x53], 16),
            // An addition of nothing, an unknown operation, a cut one
            (&[0x22], 8),
            (&[0xff], 8),
            (&[0x91], 8),
        ] {
            assert_eq!(
                evaluate_bytes(expression, bytes),
                VariableLocation::Unavailable(Unavailable::BadDebugInfo),
                "{expression:x?}"
            );
        }
    }

    #[test]
    fn nowhere_is_optimized_out_and_nothing_needs_no_place() {
        let nowhere = VariableLocation::Unavailable(Unavailable::OptimizedOut);
        assert_eq!(evaluate_bytes(&[0x93, 8, 0x93, 8], 16), nowhere);
        assert_eq!(evaluate_bytes(&[], 0), VariableLocation::Pieces(Vec::new()));
    }
}
