//! Where a variable is, in words: `rax`, `sp+40`, `heap through sp+16`, `rax, rbx, -`.

use super::root::general_register;
use crate::dwarf::{Piece, Place, VariableLocation};

/// Pieces that are named; more are counted.
const MAX_NAMED_PIECES: usize = 16;

/// What people read about a variable's place.
pub(crate) fn place_text(location: &VariableLocation, cfa_from_sp: Option<i32>) -> String {
    match location {
        VariableLocation::Pieces(pieces) => pieces_text(pieces, cfa_from_sp),
        VariableLocation::Heap(pieces) => format!("heap through {}", pieces_text(pieces, cfa_from_sp)),
        VariableLocation::Closure { register, offset, by_reference } => {
            let object = format!("closure {}+{offset}", register_name(*register));
            if *by_reference { format!("heap through {object}") } else { object }
        }
        VariableLocation::Unavailable(_) => "-".to_owned(),
    }
}

fn pieces_text(pieces: &[Piece], cfa_from_sp: Option<i32>) -> String {
    let mut text = Vec::new();
    let mut at = 0usize;
    while let Some(piece) = pieces.get(at) {
        // A value that was taken apart and lies whole on the stack is named once.
        let mut bytes = i64::from(piece.bytes);
        let mut next = at + 1;
        if let Place::Frame(offset) = piece.place {
            while let Some(following) = pieces.get(next)
                && following.place == Place::Frame(offset.saturating_add(bytes))
            {
                bytes += i64::from(following.bytes);
                next += 1;
            }
        }
        text.push(place_name(piece.place, cfa_from_sp));
        at = next;
    }
    let more = text.len().saturating_sub(MAX_NAMED_PIECES);
    text.truncate(MAX_NAMED_PIECES);
    if more > 0 {
        text.push(format!("{more} more"));
    }
    if text.is_empty() { "no bytes".to_owned() } else { text.join(", ") }
}

fn place_name(place: Place, cfa_from_sp: Option<i32>) -> String {
    match place {
        Place::Register(number) => register_name(number),
        Place::FloatRegister(number) => match number {
            17..=32 => format!("xmm{}", number - 17),
            _ => format!("register {number}"),
        },
        Place::Frame(offset) => match cfa_from_sp {
            Some(cfa) => format!("sp{:+}", offset.saturating_add(i64::from(cfa))),
            None => format!("cfa{offset:+}"),
        },
        Place::Address(address) => format!("{address:#x}"),
        Place::Constant(value) => format!("constant {value:#x}"),
        Place::Missing => "-".to_owned(),
    }
}

fn register_name(number: u16) -> String {
    general_register(number).map_or_else(|| format!("register {number}"), |(_, name)| name.to_owned())
}
