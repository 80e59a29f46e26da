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
    /// For a parameter: where its function is entered.
    pub(crate) entry: Option<u64>,
}

/// Whether any of a location's entries says something about the address.
pub(crate) fn is_described<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    location: &LocationAttribute,
    address: u64,
) -> bool {
    expression(view, unit, location, address).is_some()
}

/// What a type's value is made of, as the compiler takes it apart: offset and size of every word, number, pointer.
pub(crate) type Leaves = [(u64, u64)];

/// The pieces of a value of `bytes` bytes. `leaves`: its parts, if they are known.
///
/// In optimised code a location list names the parts that the compiler still knows, in order, without padding, and
/// says nothing of the others (cmd/compile/internal/ssa/debug.go, `writePendingEntry`; go#61700, go#72053): two pieces
/// of a slice may be pointer and length or pointer and capacity. What can't be told for certain is bad debug data.
pub(crate) fn evaluate<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    location: &LocationAttribute,
    at: At,
    bytes: u64,
    leaves: Option<&Leaves>,
) -> VariableLocation {
    if bytes == 0 {
        return VariableLocation::Pieces(Vec::new());
    }
    let Some(expression) = expression(view, unit, location, at.address) else {
        return VariableLocation::Unavailable(Unavailable::OptimizedOut);
    };
    let whole = Whole { bytes, leaves };
    let pieces = match parse(view, unit, expression, at) {
        Some(Parsed::Pieces(pieces)) => whole.pieces(&pieces),
        Some(Parsed::One(place)) => {
            let is_list = matches!(location, LocationAttribute::List(_));
            let certain = !is_list
                || leaves.is_none_or(|leaves| leaves.len() <= 1)
                || is_of_whole(view, unit, location, at, &whole, place);
            if certain { whole.one(place) } else { None }
        }
        None => None,
    };
    match pieces {
        Some(pieces) if pieces.iter().all(|piece| piece.place == Place::Missing) => {
            VariableLocation::Unavailable(Unavailable::OptimizedOut)
        }
        Some(pieces) => VariableLocation::Pieces(pieces),
        None => VariableLocation::Unavailable(Unavailable::BadDebugInfo),
    }
}

/// Whether a list that gives one place for a value of several parts means all of them. It does in unoptimised code, where
/// a parameter's registers stand in front of its place on the stack, and for a variable that lives on the stack only.
/// A list that also has a single register, or other places, follows one part that is all that is left of the value; so
/// does, maybe, the list of a parameter that lies on the stack at entry already: as a whole it would need no list.
fn is_of_whole<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    location: &LocationAttribute,
    at: At,
    whole: &Whole<'_>,
    place: Place,
) -> bool {
    let LocationAttribute::List(offset) = location else { return true };
    if !matches!(place, Place::Frame(_) | Place::Address(_)) {
        return false;
    }
    let Ok(mut entries) = view.dwarf.locations(unit, LocationListsOffset(*offset)) else { return false };
    let mut always_here = true;
    for _ in 0..MAX_OPERATIONS {
        let Ok(Some(entry)) = entries.next() else { break };
        match parse(view, unit, entry.data, at) {
            Some(Parsed::Pieces(pieces)) => return whole.pieces(&pieces).is_some(),
            Some(Parsed::One(other)) => {
                let at_entry =
                    at.entry.is_some_and(|address| (entry.range.begin..entry.range.end).contains(&address));
                always_here &= other == place && !at_entry;
            }
            None => {}
        }
    }
    always_here
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

/// What an expression says.
enum Parsed {
    /// One place for the whole.
    One(Place),
    /// A place, or none, for each piece.
    Pieces(Vec<Piece>),
}

/// `None`: it contradicts itself, or says something that Go does not write.
fn parse<'a>(view: &View<'a>, unit: &Unit<'a>, expression: Expression<Slice<'a>>, at: At) -> Option<Parsed> {
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
                let bytes = u32::try_from(size_in_bits / 8).ok()?;
                let place = place.take().or(stack.pop().and_then(memory)).unwrap_or(Place::Missing);
                out.push(Piece { bytes, place });
            }
            Operation::Nop => {}
            _ => return None,
        }
    }
    if out.is_empty() {
        Some(Parsed::One(place.or(stack.pop().and_then(memory))?))
    } else {
        Some(Parsed::Pieces(out))
    }
}

/// What pieces have to cover.
struct Whole<'l> {
    bytes: u64,
    leaves: Option<&'l Leaves>,
}

impl Whole<'_> {
    fn one(&self, place: Place) -> Option<Vec<Piece>> {
        let mut out = Vec::new();
        push(&mut out, Piece { bytes: u32::try_from(self.bytes).ok()?, place })?;
        Some(out)
    }

    fn pieces(&self, pieces: &[Piece]) -> Option<Vec<Piece>> {
        let mut out = Vec::new();
        if pieces.iter().map(|piece| u64::from(piece.bytes)).sum::<u64>() == self.bytes {
            pieces.iter().try_for_each(|piece| push(&mut out, *piece))?;
            return Some(out);
        }
        let leaves = self.leaves?;
        let pieces: Vec<Piece> = pieces.iter().copied().filter(|piece| piece.bytes > 0).collect();
        let first = embed(&pieces, leaves.iter().enumerate())?;
        // The earliest and the latest way of laying the pieces over the parts: if they agree there is only one.
        let reversed: Vec<Piece> = pieces.iter().rev().copied().collect();
        let mut last = embed(&reversed, leaves.iter().enumerate().rev())?;
        last.reverse();
        if first != last {
            return None;
        }
        let mut end = 0;
        for (piece, leaf) in pieces.iter().zip(first) {
            let (offset, bytes) = *leaves.get(leaf)?;
            let gap = u32::try_from(offset.checked_sub(end)?).ok()?;
            push(&mut out, Piece { bytes: gap, place: Place::Missing })?;
            push(&mut out, *piece)?;
            end = offset.checked_add(bytes)?;
        }
        let rest = u32::try_from(self.bytes.checked_sub(end)?).ok()?;
        push(&mut out, Piece { bytes: rest, place: Place::Missing })?;
        Some(out)
    }
}

/// The first parts, in the given order, that have the pieces' sizes.
fn embed<'l>(
    pieces: &[Piece],
    mut leaves: impl Iterator<Item = (usize, &'l (u64, u64))>,
) -> Option<Vec<usize>> {
    pieces
        .iter()
        .map(|piece| leaves.find(|(_, (_, bytes))| *bytes == u64::from(piece.bytes)).map(|(index, _)| index))
        .collect()
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
        evaluate_parts(expression, bytes, None)
    }

    fn evaluate_parts(expression: &[u8], bytes: u64, leaves: Option<&Leaves>) -> VariableLocation {
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
        evaluate(
            &view,
            &unit,
            &location,
            At { address: 0, cfa_from_sp: Some(32), entry: None },
            bytes,
            leaves,
        )
    }

    #[test]
    fn expressions_that_compilers_write_are_evaluated() {
        use Place::{Address, Constant, FloatRegister, Frame, Missing, Register};
        type Case = (&'static [u8], u64, &'static [(u32, Place)]);
        let cases: &[Case] = &[
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
    fn pieces_that_leave_parts_out_count_only_where_there_is_no_doubt() {
        use Place::{Missing, Register};
        let slice: &Leaves = &[(0, 8), (8, 8), (16, 8)];
        let padded: &Leaves = &[(0, 1), (8, 8)];
        let mixed: &Leaves = &[(0, 8), (8, 4), (16, 8)];
        // (reg3, piece 8, reg2, piece 8) of a slice: length or capacity?
        let bad = VariableLocation::Unavailable(Unavailable::BadDebugInfo);
        assert_eq!(evaluate_parts(&[0x53, 0x93, 8, 0x52, 0x93, 8], 24, Some(slice)), bad);
        // (reg3, piece 1, reg2, piece 8): padding is not written.
        let expected = |pieces: &[(u32, Place)]| {
            VariableLocation::Pieces(pieces.iter().map(|&(bytes, place)| Piece { bytes, place }).collect())
        };
        assert_eq!(
            evaluate_parts(&[0x53, 0x93, 1, 0x52, 0x93, 8], 16, Some(padded)),
            expected(&[(1, Register(3)), (7, Missing), (8, Register(2))])
        );
        // (reg3, piece 8, reg2, piece 4): the third part is left out; (reg3, piece 8) alone could be either.
        assert_eq!(
            evaluate_parts(&[0x53, 0x93, 8, 0x52, 0x93, 4], 24, Some(mixed)),
            expected(&[(8, Register(3)), (4, Register(2)), (12, Missing)])
        );
        assert_eq!(evaluate_parts(&[0x53, 0x93, 8], 24, Some(mixed)), bad);
    }

    #[test]
    fn nowhere_is_optimized_out_and_nothing_needs_no_place() {
        let nowhere = VariableLocation::Unavailable(Unavailable::OptimizedOut);
        assert_eq!(evaluate_bytes(&[0x93, 8, 0x93, 8], 16), nowhere);
        assert_eq!(evaluate_bytes(&[], 0), VariableLocation::Pieces(Vec::new()));
    }
}
