//! Which instruction is armed for a line: the cheapest one that runs exactly when the line's entry runs and at which every
//! value that is wanted is still what it was.
//!
//! A uprobe on an instruction that the kernel emulates costs one trap, on any other one two (`docs/`, "Fast sites").
//! [`Stretch`] holds the instructions that run exactly when the entry runs; the values are followed through it byte by
//! byte, so that a variable is read wherever its value of the line's start lies at the armed address. Location lists say
//! where that is at the entry; what they say further on is not taken, since a line may assign to its variables.

mod choice;
mod nonnil;
mod own_frame;
mod stretch;
mod values;
mod ways;

use std::{
    cell::LazyCell,
    collections::{BTreeSet, HashMap},
};

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic};
use riptrace_common::wire::value::Unavailable;

pub(crate) use self::{nonnil::NonNil, ways::Ways};
use self::{
    stretch::writes,
    values::{Byte, Values, processor_number},
};
pub use self::{
    stretch::{Barrier, Branch, Stretch},
    ways::{MAX_WAYS, Way},
};
use super::{
    code::text_of,
    copies::{Copies, Known},
};
use crate::dwarf::{Piece, Place, VariableLocation, VisibleVariable};

/// General registers by DWARF number.
const GENERAL_REGISTERS: u16 = 16;
const RSP: u16 = 7;

/// What is chosen from.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The instructions that run exactly when the entry runs.
    pub stretch: &'a Stretch,
    /// CFA minus SP at an address.
    pub cfa_from_sp: &'a dyn Fn(u64) -> Option<i32>,
    /// The variables, with their places at the entry.
    pub variables: &'a [VisibleVariable],
    /// Where the function's dictionary is at the entry.
    pub dictionary: Option<&'a VariableLocation>,
    /// Whether a variable is read at all.
    pub is_wanted: &'a dyn Fn(&VisibleVariable) -> bool,
    /// Whether what is read of a variable goes on behind its own bytes.
    pub leads_on: &'a dyn Fn(&VisibleVariable) -> bool,
    /// The code was compiled under the rules of escape analysis, which the runtime's own evades.
    pub keeps_go_rules: bool,
    /// What the whole function's code says of places with the same values.
    pub copies: Option<&'a Copies>,
    /// Addresses that stand for something else.
    pub taken: &'a BTreeSet<u64>,
    /// Whether faults can be caught: else nothing behind a load that may fault is chosen.
    pub catches_faults: bool,
    /// Whether a branch is armed whose other way may be any code.
    pub at_branches: bool,
}

/// An instruction that could be armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Link-time address.
    pub link_address: u64,
    /// The instruction in words.
    pub instruction: String,
    /// The kernel emulates it.
    pub fast: bool,
    /// How it compares.
    pub verdict: Verdict,
}

/// What speaks for or against a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every wanted value that the entry shows is there. `readable`: how many of the wanted variables.
    Allowed {
        /// Wanted variables that can be read whole.
        readable: usize,
    },
    /// This variable's value is gone, or not there yet.
    Lacks(std::sync::Arc<str>),
    /// A pointer that is followed may lead to what is written between it and the entry.
    MayChange,
    /// A branch whose other way leads elsewhere, how often nobody knows.
    OtherWay,
    /// Nothing is known of the frame there.
    NoFrame,
    /// Another site has it.
    Taken,
    /// Every execution of the line passes it or another one like it, on its way in. `readable`: as above.
    OneOfWays {
        /// Wanted variables that can be read whole.
        readable: usize,
    },
}

/// An instruction that may fault before control comes to the chosen one. Go's signal handler enters `runtime.sigpanic0` as
/// if that instruction had called it, and leaves the other registers alone (runtime/signal_amd64.go, `preparePanic`).
#[derive(Clone, Debug)]
pub struct Fault {
    /// Link-time address.
    pub link_address: u64,
    /// The variables with their places when it faults.
    pub variables: Vec<VisibleVariable>,
    /// The dictionary's place then.
    pub dictionary: Option<VariableLocation>,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Index into the candidates.
    pub index: usize,
    /// Index of the entry.
    pub entry: usize,
    /// It is a branch, of which one way leads to the entry.
    pub branch: Option<Branch>,
    /// What ends the stretch.
    pub end: Barrier,
    /// The variables with their places there.
    pub variables: Vec<VisibleVariable>,
    /// The dictionary's place there.
    pub dictionary: Option<VariableLocation>,
    /// Where the execution may end before: sites of their own, so that it gives a hit nevertheless.
    pub faults: Vec<Fault>,
    /// What is armed instead of that instruction: one on each way to the entry.
    pub ways: Vec<Way>,
    /// Everything that was looked at, in the order in which it runs; behind it what lies on the ways in.
    pub candidates: Vec<Candidate>,
}

/// Chooses. The entry itself is always allowed.
#[must_use]
pub fn choose(question: &Question<'_>) -> Choice {
    let stretch = question.stretch;
    let states = states(question);
    let changes = changes(question);
    let mut best: Option<(Rank, usize, Placed)> = None;
    let mut candidates = Vec::with_capacity(stretch.instructions.len());
    let at_entry = Placed::at_entry(question).readable;
    let first_fault = stretch.faults.first().filter(|_| !question.catches_faults);
    let length = first_fault.map_or(usize::MAX, |&fault| fault + 1);
    for (index, instruction) in stretch.instructions.iter().enumerate().take(length) {
        let address = instruction.ip();
        let is_entry = index == stretch.entry;
        let fast = stretch.emulated.get(index).copied().unwrap_or(false);
        let branch = stretch.branch.filter(|_| index == 0);
        let goes_elsewhere = branch.is_some_and(|branch| !branch.other_way_ends);
        let placed = match index {
            _ if goes_elsewhere && !question.at_branches => Err(Verdict::OtherWay),
            _ if is_entry => Ok(Placed::at_entry(question)),
            _ => placed_at(question, &states, &changes, index),
        };
        let verdict = match placed {
            Ok(placed) => {
                // What a branch shows more is not worth its traps.
                let readable = if branch.is_some() { placed.readable.min(at_entry) } else { placed.readable };
                let rank = Rank {
                    readable,
                    fast,
                    is_exact: branch.is_none(),
                    certainty: usize::MAX - placed.faults.len(),
                    nearness: usize::MAX - index.abs_diff(stretch.entry),
                    forward: index >= stretch.entry,
                };
                let verdict = Verdict::Allowed { readable: placed.readable };
                if best.as_ref().is_none_or(|(before, ..)| rank > *before) {
                    best = Some((rank, index, placed));
                }
                verdict
            }
            Err(verdict) => verdict,
        };
        candidates.push(Candidate {
            link_address: address,
            instruction: text_of(instruction),
            fast,
            verdict,
        });
    }
    let (index, placed) = match best {
        Some((_, index, placed)) => (index, placed),
        None => (stretch.entry, Placed::at_entry(question)),
    };
    let mut ways = Vec::new();
    if !stretch.emulated.get(index).copied().unwrap_or(false) {
        let found = ways::choose(question);
        candidates.extend(found.refused);
        // What shows more is worth its second trap here as well.
        let readable = found.ways.iter().map(Way::readable).min();
        if readable.is_some_and(|readable| readable >= placed.readable) {
            candidates.extend(found.ways.iter().map(|way| way.candidate.clone()));
            ways = found.ways;
        }
    }
    Choice {
        index,
        entry: stretch.entry,
        branch: stretch.branch.filter(|_| index == 0),
        end: if first_fault.is_some() { Barrier::Fault } else { stretch.barriers.1 },
        variables: placed.variables,
        dictionary: placed.dictionary,
        faults: placed.faults,
        ways,
        candidates,
    }
}

/// The variables at an instruction of the stretch that is not its entry.
fn placed_at(
    question: &Question<'_>,
    states: &HashMap<usize, Values>,
    changes: &BTreeSet<usize>,
    index: usize,
) -> Result<Placed, Verdict> {
    let stretch = question.stretch;
    let address = stretch.instructions.get(index).map(Instruction::ip).ok_or(Verdict::NoFrame)?;
    if question.taken.contains(&address) {
        return Err(Verdict::Taken);
    }
    if !changes.contains(&index) {
        return Err(Verdict::MayChange);
    }
    let (Some(entry), Some(here)) = (states.get(&stretch.entry), states.get(&index)) else {
        return Err(Verdict::NoFrame);
    };
    let placed = Placed::moved(question, entry, here)?;
    Ok(Placed { faults: faults_before(question, states, index)?, ..placed })
}

/// In the order in which it decides; more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    readable: usize,
    fast: bool,
    is_exact: bool,
    certainty: usize,
    nearness: usize,
    forward: bool,
}

/// What may fault between the entry and an instruction behind it, with all that is wanted as it was at the entry.
fn faults_before(
    question: &Question<'_>,
    states: &HashMap<usize, Values>,
    index: usize,
) -> Result<Vec<Fault>, Verdict> {
    let stretch = question.stretch;
    let before = stretch.faults.iter().filter(|&&fault| fault < index);
    before
        .map(|fault| {
            let (entry, here) = (states.get(&stretch.entry), states.get(fault));
            let (Some(entry), Some(here), Some(instruction)) =
                (entry, here, stretch.instructions.get(*fault))
            else {
                return Err(Verdict::NoFrame);
            };
            let Placed { variables, dictionary, .. } = Placed::moved(question, entry, here)?;
            Ok(Fault { link_address: instruction.ip(), variables, dictionary })
        })
        .collect()
}

/// The values in front of each instruction, where the frame is known from the stretch's beginning on.
fn states(question: &Question<'_>) -> HashMap<usize, Values> {
    let mut states = HashMap::new();
    let stretch = question.stretch;
    let cfa = |index: usize| (question.cfa_from_sp)(stretch.instructions.get(index)?.ip());
    // What lies before an address without a frame is of no use to the entry.
    let first = (0..=stretch.entry).rev().take_while(|&index| cfa(index).is_some()).last();
    let Some(first) = first else { return states };
    let mut factory = InstructionInfoFactory::new();
    let mut values = Values::initial();
    let known = stretch.instructions.get(first).and_then(|begin| question.copies?.before(begin.ip()));
    for (one, other, bytes) in known.iter().flat_map(Known::copies) {
        values.equate(one, other, bytes);
    }
    for (index, instruction) in stretch.instructions.iter().enumerate().skip(first) {
        let Some(cfa) = cfa(index) else { break };
        values.enter(cfa);
        states.insert(index, values.clone());
        let place = stretch.places.get(index).copied().flatten();
        values.step(&mut factory, instruction, place, cfa);
    }
    states
}

/// The instructions that no store to a place that pointers may lead to separates from the entry.
fn changes(question: &Question<'_>) -> BTreeSet<usize> {
    let stretch = question.stretch;
    let mut factory = InstructionInfoFactory::new();
    // Reads types, and most lines have no such store.
    let is_seen = LazyCell::new(|| !question.keeps_go_rules || leads_to_frame(question));
    let mut may_be_seen = |index: usize| -> bool {
        let Some(instruction) = stretch.instructions.get(index) else { return true };
        let place = stretch.places.get(index).copied().flatten();
        factory.info(instruction).used_memory().iter().any(|memory| {
            if !writes(memory.access()) {
                return false;
            }
            // A push writes where no object is.
            let named = instruction.mnemonic() != Mnemonic::Push;
            match place {
                Some(place) if named => {
                    let bytes = i64::try_from(memory.memory_size().size()).unwrap_or(i64::MAX);
                    (bytes == 0 || stretch.pointed_at.may_reach(place.saturating_add(bytes))) && *is_seen
                }
                Some(_) | None => named,
            }
        })
    };
    let mut allowed = BTreeSet::from([stretch.entry]);
    for index in stretch.entry + 1..stretch.instructions.len() {
        if may_be_seen(index - 1) {
            break;
        }
        allowed.insert(index);
    }
    for index in (0..stretch.entry).rev() {
        if may_be_seen(index) {
            break;
        }
        allowed.insert(index);
    }
    allowed
}

/// Whether a variable that is wanted may lead to the function's own frame.
fn leads_to_frame(question: &Question<'_>) -> bool {
    let stretch = question.stretch;
    let entry = stretch.instructions.get(stretch.entry).map_or(0, Instruction::ip);
    let cfa = (question.cfa_from_sp)(entry);
    let in_register = |number: u16| {
        processor_number(number).is_none_or(|number| stretch.pointed_at.is_held_in_register(number))
    };
    let holds = |piece: &Piece| match piece.place {
        Place::Register(number) => in_register(number),
        Place::Frame(offset) => {
            let at = cfa.and_then(|cfa| offset.checked_add(cfa.into()));
            at.is_none_or(|at| stretch.pointed_at.is_held_in_frame(at, piece.bytes.into()))
        }
        // Package variables and constants lead nowhere near, and what can't be read is not followed.
        Place::Address(_) | Place::Constant(_) | Place::FloatRegister(_) | Place::Missing => false,
    };
    question.variables.iter().filter(|variable| (question.is_wanted)(variable)).any(
        |variable| match &variable.location {
            VariableLocation::Pieces(pieces) => (question.leads_on)(variable) && pieces.iter().any(holds),
            VariableLocation::Heap(pieces) => pieces.iter().any(holds),
            VariableLocation::Closure { register, .. } => in_register(*register),
            VariableLocation::Unavailable(_) => false,
        },
    )
}

/// The variables at a candidate.
struct Placed {
    variables: Vec<VisibleVariable>,
    dictionary: Option<VariableLocation>,
    readable: usize,
    faults: Vec<Fault>,
}

impl Placed {
    fn at_entry(question: &Question<'_>) -> Self {
        let wanted = question.variables.iter().filter(|variable| (question.is_wanted)(variable));
        Self {
            variables: question.variables.to_vec(),
            dictionary: question.dictionary.cloned(),
            readable: wanted.filter(|variable| is_whole(&variable.location)).count(),
            faults: Vec::new(),
        }
    }

    /// `Err`: the first wanted variable of which something is lost.
    fn moved(question: &Question<'_>, entry: &Values, here: &Values) -> Result<Self, Verdict> {
        let mut readable = 0;
        let mut variables = Vec::with_capacity(question.variables.len());
        for variable in question.variables {
            let (location, lost) = move_location(&variable.location, entry, here);
            if (question.is_wanted)(variable) {
                if lost {
                    return Err(Verdict::Lacks(std::sync::Arc::clone(&variable.name)));
                }
                readable += usize::from(is_whole(&location));
            }
            variables.push(VisibleVariable { location, ..variable.clone() });
        }
        let dictionary = match question.dictionary {
            Some(location) => {
                let (location, lost) = move_location(location, entry, here);
                if lost {
                    return Err(Verdict::Lacks(".dict".into()));
                }
                Some(location)
            }
            None => None,
        };
        Ok(Self { variables, dictionary, readable, faults: Vec::new() })
    }
}

fn is_whole(location: &VariableLocation) -> bool {
    match location {
        VariableLocation::Pieces(pieces) | VariableLocation::Heap(pieces) => {
            pieces.iter().all(|piece| is_readable(piece.place))
        }
        VariableLocation::Closure { .. } => true,
        VariableLocation::Unavailable(_) => false,
    }
}

fn is_readable(place: Place) -> bool {
    match place {
        Place::Register(_) | Place::Frame(_) | Place::Address(_) | Place::Constant(_) => true,
        Place::FloatRegister(_) | Place::Missing => false,
    }
}

/// Where the bytes that a variable has at the entry are at another instruction, and whether some that could be read there
/// can't be read here.
fn move_location(location: &VariableLocation, entry: &Values, here: &Values) -> (VariableLocation, bool) {
    let move_pieces = |pieces: &[Piece]| {
        let mut moved = Vec::with_capacity(pieces.len());
        let mut lost = false;
        for piece in pieces {
            let to = move_piece(*piece, entry, here);
            lost |= is_readable(piece.place) && !to.iter().all(|piece| is_readable(piece.place));
            moved.extend(to);
        }
        (moved, lost)
    };
    match location {
        VariableLocation::Pieces(pieces) => {
            let (moved, lost) = move_pieces(pieces);
            if !moved.is_empty() && moved.iter().all(|piece| piece.place == Place::Missing) {
                return (VariableLocation::Unavailable(Unavailable::OptimizedOut), lost);
            }
            (VariableLocation::Pieces(moved), lost)
        }
        VariableLocation::Heap(pieces) => {
            let (moved, lost) = move_pieces(pieces);
            (VariableLocation::Heap(moved), lost)
        }
        VariableLocation::Closure { register, offset, by_reference } => {
            let word = Piece { bytes: 8, place: Place::Register(*register) };
            match move_piece(word, entry, here).as_slice() {
                [Piece { place: Place::Register(register), .. }] => (
                    VariableLocation::Closure {
                        register: *register,
                        offset: *offset,
                        by_reference: *by_reference,
                    },
                    false,
                ),
                _ => (VariableLocation::Unavailable(Unavailable::OptimizedOut), true),
            }
        }
        VariableLocation::Unavailable(_) => (location.clone(), false),
    }
}

/// Where a piece's bytes are at another instruction; words that lie apart there are pieces of their own.
fn move_piece(piece: Piece, entry: &Values, here: &Values) -> Vec<Piece> {
    const WORD_BYTES: u32 = 8;
    let bytes_at = |values: &Values, place: Place| match place {
        Place::Register(number) => values.general(number).map(<[Byte]>::to_vec),
        Place::FloatRegister(number) => values.vector(number).map(<[Byte]>::to_vec),
        Place::Frame(offset) => values.frame_bytes(offset, piece.bytes as usize),
        _ => None,
    };
    if matches!(piece.place, Place::Address(_) | Place::Constant(_) | Place::Missing) {
        return vec![piece];
    }
    let length = piece.bytes as usize;
    let missing = || vec![Piece { bytes: piece.bytes, place: Place::Missing }];
    if length > MAX_PIECE_BYTES {
        return large_piece(piece, entry, here);
    }
    let Some(wanted) =
        bytes_at(entry, piece.place).and_then(|bytes| bytes.get(..length).map(<[Byte]>::to_vec))
    else {
        return missing();
    };
    let same = bytes_at(here, piece.place).is_some_and(|held| held.get(..length) == Some(&wanted));
    if same && is_readable(piece.place) {
        return vec![piece];
    }
    let mut out = Vec::new();
    for word in wanted.chunks(WORD_BYTES as usize) {
        let bytes = u32::try_from(word.len()).unwrap_or(WORD_BYTES);
        let place = find(word, here).unwrap_or(match piece.place {
            // Still nowhere that BPF can read, but not gone.
            Place::FloatRegister(_) if same => piece.place,
            _ => Place::Missing,
        });
        out.push(Piece { bytes, place });
    }
    out
}

/// A piece of the frame too large to be looked at byte by byte is there or is not.
const MAX_PIECE_BYTES: usize = 4096;

fn large_piece(piece: Piece, entry: &Values, here: &Values) -> Vec<Piece> {
    let unchanged = match piece.place {
        Place::Frame(offset) => {
            let end = offset.saturating_add(i64::from(piece.bytes));
            entry.is_same_frame(here, offset..end)
        }
        _ => false,
    };
    vec![if unchanged { piece } else { Piece { place: Place::Missing, ..piece } }]
}

/// A place that holds these bytes, at most eight.
fn find(wanted: &[Byte], here: &Values) -> Option<Place> {
    for number in (0..GENERAL_REGISTERS).filter(|&number| number != RSP) {
        if here.general(number).and_then(|held| held.get(..wanted.len())) == Some(wanted) {
            return Some(Place::Register(number));
        }
    }
    let first = *wanted.first()?;
    for offset in here.frame_places(first) {
        if here.frame_bytes(offset, wanted.len()).as_deref() == Some(wanted) {
            return Some(Place::Frame(offset));
        }
    }
    let mut constant = [0; 8];
    for (to, byte) in constant.iter_mut().zip(wanted) {
        let Byte::Constant(byte) = *byte else { return None };
        *to = byte;
    }
    Some(Place::Constant(u64::from_le_bytes(constant)))
}

#[cfg(test)]
mod tests;
