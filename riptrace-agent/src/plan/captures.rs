//! What a site copies: from its visible variables (or the parts of them that were asked for) to windows, root slots and
//! the places in a record where decoding finds each value.
//!
//! Variables and their places come from `dwarf`, the site from `plan::sites`, the numbers of types from `plan::types`.

use std::{collections::BTreeMap, sync::Arc};

use riptrace_common::{
    abi::{
        context::CONTEXT_ROOTS,
        limits::{MAX_CHUNK_BYTES, MAX_ROOT_BYTES},
        record::{Chunk, Header},
    },
    wire::{event::Role, value::Unavailable},
};

use super::{
    CaptureLimits, SitePlan,
    path::{PathError, PathExpression, Walk, nearest, walk},
    place::place_text,
    root::{RootRequest, WordSource, general_register},
    sites::Site,
    trace_context::{self, Chain},
    types::{HeldVariable, RegistryError, TypeRegistry},
};
use crate::{
    dwarf::{DictIndex, Place, VariableLocation, VisibleVariable},
    golang::{
        layout::{Target, layout_of, without},
        types::{GoType, Shape, TypeId, TypeSource},
    },
};

/// A variable on the stack that is larger is copied as a chunk of its own.
const MAX_ROOT_VARIABLE_BYTES: u32 = 2048;
/// Variables of one site that are looked at; the rest says that it did not fit.
const MAX_VARIABLES: usize = 1024;

/// Why a site can't be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An expression names nothing.
    #[error(transparent)]
    Expression(#[from] PathError),
    /// No room for its types.
    #[error(transparent)]
    Types(#[from] RegistryError),
}

/// What a plan is made from, besides the variables.
#[derive(Clone, Copy)]
pub struct SiteContext<'a> {
    /// Index of the image in the kernel's map of images.
    pub image: u32,
    /// The image's types.
    pub types: &'a dyn TypeSource,
    /// The armed address.
    pub site: &'a Site,
    /// Its offset in the executable file.
    pub file_offset: u64,
    /// CFA minus SP there.
    pub cfa_from_sp: Option<i32>,
    /// A variable that is visible here is not copied, so nothing that nobody asked for is.
    pub exact: bool,
    /// Where the function's dictionary is, if it is a generic one.
    pub dictionary: Option<&'a VariableLocation>,
    /// How much is followed.
    pub limits: CaptureLimits,
    /// Variables that may lead to the hit's span; none if the program has no spans.
    pub contexts: &'a [VisibleVariable],
}

/// Plans the capture of these variables; with expressions, of what they name only.
pub fn plan_site(
    registry: &mut TypeRegistry,
    context: &SiteContext<'_>,
    variables: &[VisibleVariable],
    expressions: &[PathExpression],
) -> Result<SitePlan, PlanError> {
    let mut planner = Planner::new(registry, context);
    if expressions.is_empty() {
        for variable in variables {
            let whole = Walk { hops: Vec::new(), offset: 0, ty: variable.ty };
            planner.want(variable, &whole, Arc::clone(&variable.name), variable.role);
        }
    }
    for expression in expressions {
        let variable =
            variables.iter().find(|variable| variable.name == expression.variable).ok_or_else(|| {
                PathError::NoVariable {
                    text: Arc::clone(&expression.text),
                    name: Arc::clone(&expression.variable),
                    nearest: nearest(&expression.variable, variables.iter().map(|variable| &variable.name)),
                }
            })?;
        let part = walk(context.types, expression, variable.ty)?;
        let role = if expression.steps.is_empty() { variable.role } else { Role::Expression };
        planner.want(variable, &part, Arc::clone(&expression.text), role);
    }
    planner.want_dictionary();
    planner.want_contexts();
    Ok(planner.finish()?)
}

/// Some of the bytes of a type's own values are not copied.
pub fn holds_redacted(types: &dyn TypeSource, ty: TypeId) -> bool {
    types.redacts() && {
        let layout = layout_of(types, Target::value(ty));
        !layout.holes.is_empty() || layout.redacts && layout.bytes == 0
    }
}

/// A value that the plan is to make readable.
pub(super) struct Wanted {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) ty: TypeId,
    pub(super) dict_index: Option<DictIndex>,
    /// For people.
    pub(super) place: String,
    pub(super) access: Access,
    /// A word that leads to the value, for a value whose real type the dictionary tells.
    pub(super) address: Option<Spot>,
}

/// How its bytes are reached.
pub(super) enum Access {
    /// Piece by piece in the root chunk.
    Pieces(Vec<Placed>),
    /// Through a word in the root chunk, and maybe further ones. `length`: the slice length that bounds the first.
    Through { word: Spot, length: Option<Spot>, hops: Vec<AccessHop> },
    /// In the closure object that this register (root offset) points at.
    Closure { register: u32, held: HeldVariable },
    /// Not at all.
    Unavailable(Unavailable),
}

/// A pointer on the way to a value.
#[derive(Clone, Copy)]
pub(super) struct AccessHop {
    /// Where the next pointer, or the value, lies in what this one leads to.
    pub(super) offset: u64,
    /// The element of a slice that `offset` is in.
    pub(super) index: Option<u64>,
    /// What the pointer points at: the whole of it, or a slice's element. `None`: a closure.
    pub(super) pointee: Option<TypeId>,
}

/// A run of a value's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) value_offset: u32,
    pub(super) bytes: u32,
    pub(super) spot: Spot,
}

/// Where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// Root offset in the register file.
    Register(u32),
    /// Bytes from SP.
    Stack(i64),
    /// An address that is written into the root chunk.
    Word(WordSource),
    Constant(u64),
    Unavailable(Unavailable),
}

pub(super) struct Planner<'a, 'r> {
    pub(super) registry: &'r mut TypeRegistry,
    pub(super) context: &'a SiteContext<'a>,
    pub(super) root: RootRequest,
    pub(super) available: u32,
    pub(super) wanted: Vec<Wanted>,
    /// Closure objects by the root offset of the register that points at them, and what is wanted of them.
    pub(super) closures: BTreeMap<u32, Vec<HeldVariable>>,
    pub(super) dictionary: Option<Spot>,
    /// Where the contexts are that may hold the hit's span.
    pub(super) contexts: Vec<Chain>,
}

impl<'a, 'r> Planner<'a, 'r> {
    fn new(registry: &'r mut TypeRegistry, context: &'a SiteContext<'a>) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "two small constants")]
        let overhead = (size_of::<Header>() + size_of::<Chunk>()) as u32;
        Self {
            registry,
            context,
            root: RootRequest::exactly(context.exact),
            available: context.limits.max_bytes.saturating_sub(overhead).min(MAX_ROOT_BYTES),
            wanted: Vec::new(),
            closures: BTreeMap::new(),
            dictionary: None,
            contexts: Vec::new(),
        }
    }

    /// Takes a part of a variable into the plan, or notes why it can't be read.
    fn want(&mut self, variable: &VisibleVariable, part: &Walk, name: Arc<str>, role: Role) {
        let place = place_text(&variable.location, self.context.cfa_from_sp);
        let mut root = self.root.clone();
        let mut access = self.access(variable, part);
        if self.context.types.redacts() {
            if self.is_redacted(variable.ty) || self.is_redacted(part.ty) {
                access = Access::Unavailable(Unavailable::Redacted);
            }
            if let Access::Pieces(pieces) = access {
                access = Access::Pieces(self.without_redacted(&pieces, part.ty));
            }
        }
        let placeable = match &access {
            Access::Pieces(pieces) => {
                pieces.iter().all(|piece| ask_for(&mut root, piece.spot, piece.bytes).is_some())
            }
            Access::Through { word, length, .. } => {
                [Some(*word), *length].into_iter().flatten().all(|spot| ask_for(&mut root, spot, 8).is_some())
            }
            Access::Closure { .. } | Access::Unavailable(_) => true,
        };
        if !placeable {
            access = Access::Unavailable(Unavailable::BadDebugInfo);
        } else if root.layout(self.available).is_none() || self.wanted.len() >= MAX_VARIABLES {
            access = Access::Unavailable(Unavailable::Budget);
        } else {
            self.root = root;
            if let Access::Closure { register, held } = &access {
                self.closures.entry(*register).or_default().push(*held);
            }
        }
        self.wanted.push(Wanted {
            name,
            role,
            ty: part.ty,
            dict_index: variable.dict_index.filter(|_| part.hops.is_empty() && part.ty == variable.ty),
            place,
            access,
            address: None,
        });
    }

    fn is_redacted(&self, ty: TypeId) -> bool {
        self.context.types.get(ty).shape == Shape::Redacted
    }

    /// The pieces without those bytes of the value that are not copied.
    fn without_redacted(&self, pieces: &[Placed], ty: TypeId) -> Vec<Placed> {
        let layout = layout_of(self.context.types, Target::value(ty));
        let bytes = u32::try_from(self.context.types.get(ty).bytes).unwrap_or(u32::MAX);
        // A value that is more holes than can be listed.
        let all = 0..bytes;
        let holes =
            if layout.redacts && layout.bytes == 0 { std::slice::from_ref(&all) } else { &layout.holes };
        if holes.is_empty() {
            return pieces.to_vec();
        }
        let mut out = Vec::new();
        let mut add = |from: u32, to: u32, redacted: bool| {
            for mut piece in clip(pieces, from, to - from) {
                piece.value_offset += from;
                if redacted {
                    piece.spot = Spot::Unavailable(Unavailable::Redacted);
                }
                out.push(piece);
            }
        };
        for kept in without(all.clone(), holes) {
            add(kept.start, kept.end, false);
        }
        for hole in holes {
            add(hole.start, hole.end.min(bytes), true);
        }
        // A register is recorded whole or not at all.
        let within = |register: u32| register & !7;
        let lost: Vec<u32> = pieces
            .iter()
            .filter(|piece| {
                let end = piece.value_offset.saturating_add(piece.bytes);
                holes.iter().any(|hole| hole.start < end && piece.value_offset < hole.end)
            })
            .filter_map(|piece| match piece.spot {
                Spot::Register(register) => Some(within(register)),
                _ => None,
            })
            .collect();
        for piece in &mut out {
            if matches!(piece.spot, Spot::Register(register) if lost.contains(&within(register))) {
                piece.spot = Spot::Unavailable(Unavailable::Redacted);
            }
        }
        out.sort_by_key(|piece| piece.value_offset);
        out
    }

    /// Asks for the words where chains of contexts begin. Nothing of them is shown, so they are copied by nobody but the
    /// kernel side's search for a span.
    fn want_contexts(&mut self) {
        for (variable, way) in trace_context::ways(self.context.types, self.context.contexts) {
            if self.contexts.len() == CONTEXT_ROOTS {
                break;
            }
            let Some(chain) = trace_context::chain(&self.access(variable, &way)) else { continue };
            let mut root = self.root.clone();
            if chain.spots().all(|spot| ask_for(&mut root, spot, 8).is_some())
                && root.layout(self.available).is_some()
            {
                self.root = root;
                self.contexts.push(chain);
            }
        }
    }

    fn want_dictionary(&mut self) {
        let Some(VariableLocation::Pieces(pieces)) = self.context.dictionary else { return };
        if self.wanted.iter().all(|wanted| wanted.dict_index.is_none()) {
            return;
        }
        if let [piece] = pieces.as_slice() {
            let spot = self.spot(piece.place);
            let mut root = self.root.clone();
            if piece.bytes == 8
                && ask_for(&mut root, spot, 8).is_some()
                && root.layout(self.available).is_some()
            {
                self.root = root;
                self.dictionary = Some(spot);
                self.want_addresses();
            }
        }
    }

    /// Asks for words that lead to the values whose real types the dictionary tells. The shape that all instantiations
    /// share does not say what its pointers point at, so such a value is followed by its real type instead.
    fn want_addresses(&mut self) {
        for index in 0..self.wanted.len() {
            let Some(wanted) = self.wanted.get(index).filter(|wanted| wanted.dict_index.is_some()) else {
                continue;
            };
            let is_pointer = matches!(self.context.types.get(wanted.ty).shape, Shape::Pointer { .. });
            let is_pointer = is_pointer && wanted.dict_index.is_some_and(|index| !index.of_pointer);
            let spot = match (&wanted.access, is_pointer) {
                (Access::Pieces(pieces), true) => match pieces.as_slice() {
                    [one] => Some(one.spot),
                    _ => None,
                },
                (Access::Pieces(pieces), false) => {
                    on_stack(pieces).map(|at| Spot::Word(WordSource::Stack(at)))
                }
                (Access::Through { word, hops, .. }, false) if hops.len() == 1 => Some(*word),
                _ => None,
            };
            let Some(spot) = spot else { continue };
            let mut root = self.root.clone();
            if ask_for(&mut root, spot, 8).is_some() && root.layout(self.available).is_some() {
                self.root = root;
                if let Some(wanted) = self.wanted.get_mut(index) {
                    wanted.address = Some(spot);
                }
            }
        }
    }

    fn access(&self, variable: &VisibleVariable, part: &Walk) -> Access {
        let whole = part.hops.is_empty() && part.offset == 0 && part.ty == variable.ty;
        match &variable.location {
            VariableLocation::Unavailable(reason) => Access::Unavailable(*reason),
            VariableLocation::Pieces(pieces) => {
                let bytes = self.context.types.get(variable.ty).bytes;
                if pieces.iter().map(|piece| u64::from(piece.bytes)).sum::<u64>() != bytes {
                    return Access::Unavailable(Unavailable::BadDebugInfo);
                }
                let placed = placed(pieces.iter().map(|piece| (piece.bytes, self.spot(piece.place))));
                match self.address_of(&placed, variable.ty) {
                    Some(word) => through(word, &[(0, Some(variable.ty))], part),
                    None if part.hops.is_empty() => self.in_pieces(&placed, part),
                    None => behind_pieces(&placed, part),
                }
            }
            VariableLocation::Heap(pieces) => match pieces.as_slice() {
                [piece] if piece.bytes == 8 => {
                    through(self.spot(piece.place), &[(0, Some(variable.ty))], part)
                }
                _ => Access::Unavailable(Unavailable::BadDebugInfo),
            },
            VariableLocation::Closure { register, offset, by_reference } => {
                let Some((register, _)) = general_register(*register) else {
                    return Access::Unavailable(Unavailable::BadDebugInfo);
                };
                if whole {
                    let held = HeldVariable { offset: *offset, ty: variable.ty, by_reference: *by_reference };
                    return Access::Closure { register, held };
                }
                let way = [(*offset, None), (0, Some(variable.ty))];
                let way = way.get(..if *by_reference { 2 } else { 1 }).unwrap_or_default();
                through(Spot::Register(register), way, part)
            }
        }
    }

    /// The address of a variable that is better copied as a chunk of its own: package variables, and large ones.
    fn address_of(&self, placed: &[Placed], ty: TypeId) -> Option<Spot> {
        match placed {
            [Placed { spot: Spot::Word(word), .. }] => Some(Spot::Word(*word)),
            [Placed { spot: Spot::Stack(offset), .. }]
                if self.wanted_bytes(&self.context.types.get(ty)) > MAX_ROOT_VARIABLE_BYTES =>
            {
                Some(Spot::Word(WordSource::Stack(*offset)))
            }
            _ => None,
        }
    }

    /// A part of a variable whose pieces are in the root chunk.
    fn in_pieces(&self, placed: &[Placed], part: &Walk) -> Access {
        let ty = self.context.types.get(part.ty);
        let (Ok(from), Ok(whole)) = (u32::try_from(part.offset), u32::try_from(ty.bytes)) else {
            return Access::Unavailable(Unavailable::Budget);
        };
        let bytes = self.wanted_bytes(&ty);
        let mut pieces = clip(placed, from, bytes);
        if bytes < whole {
            let spot = Spot::Unavailable(Unavailable::Budget);
            pieces.push(Placed { value_offset: bytes, bytes: whole - bytes, spot });
        }
        Access::Pieces(pieces)
    }

    fn spot(&self, place: Place) -> Spot {
        match place {
            Place::Register(number) => general_register(number)
                .map_or(Spot::Unavailable(Unavailable::BadDebugInfo), |(root_offset, _)| {
                    Spot::Register(root_offset)
                }),
            Place::FloatRegister(_) => Spot::Unavailable(Unavailable::RegisterFloat),
            Place::Frame(offset) => self
                .context
                .cfa_from_sp
                .and_then(|cfa| offset.checked_add(i64::from(cfa)))
                .map_or(Spot::Unavailable(Unavailable::BadDebugInfo), Spot::Stack),
            Place::Address(address) => Spot::Word(WordSource::Image(address)),
            Place::Constant(value) => Spot::Constant(value),
            Place::Missing => Spot::Unavailable(Unavailable::OptimizedOut),
        }
    }

    /// Bytes of a value that are copied: of an array no more elements than are shown.
    pub(super) fn wanted_bytes(&self, ty: &GoType) -> u32 {
        let mut bytes = ty.bytes;
        if let Shape::Array { elem, len } = ty.shape {
            let elem = self.context.types.get(elem).bytes;
            bytes = bytes.min(len.min(u64::from(self.context.limits.max_items)).saturating_mul(elem));
        }
        u32::try_from(bytes).unwrap_or(u32::MAX).min(MAX_CHUNK_BYTES)
    }
}

/// How a part is reached through a word that leads, by the way `first`, to the variable that it is a part of: offsets,
/// of the next pointer each, the last one of the variable; and what lies there.
fn through(word: Spot, first: &[(u64, Option<TypeId>)], part: &Walk) -> Access {
    match word {
        Spot::Unavailable(reason) => return Access::Unavailable(reason),
        Spot::Constant(_) => return Access::Unavailable(Unavailable::OptimizedOut),
        Spot::Register(_) | Spot::Stack(_) | Spot::Word(_) => {}
    }
    let mut hops: Vec<AccessHop> =
        first.iter().map(|&(offset, pointee)| AccessHop { offset, index: None, pointee }).collect();
    let next = part.hops.first().map_or(part.offset, |hop| hop.word);
    if let Some(last) = hops.last_mut() {
        last.offset = last.offset.saturating_add(next);
    }
    hops.extend(further(part));
    Access::Through { word, length: None, hops }
}

/// How a part behind a pointer is reached that lies in the pieces of its variable.
fn behind_pieces(placed: &[Placed], part: &Walk) -> Access {
    let Some(first) = part.hops.first() else { return Access::Unavailable(Unavailable::OptimizedOut) };
    let word_at = |offset: u64| match u32::try_from(offset).map(|at| clip(placed, at, 8)).as_deref() {
        Ok([Placed { bytes: 8, spot: spot @ (Spot::Register(_) | Spot::Stack(_)), .. }]) => Ok(*spot),
        Ok([Placed { spot: Spot::Unavailable(reason), .. }, ..]) => Err(*reason),
        _ => Err(Unavailable::OptimizedOut),
    };
    let length = first.index.map(|_| word_at(first.word.saturating_add(8))).transpose();
    match (word_at(first.word), length) {
        (Ok(word), Ok(length)) => Access::Through { word, length, hops: further(part).collect() },
        (Err(reason), _) | (_, Err(reason)) => Access::Unavailable(reason),
    }
}

/// The pointers of a part's way: what each leads to, and where the next one or the part lies in it.
fn further(part: &Walk) -> impl Iterator<Item = AccessHop> {
    let next = part.hops.iter().skip(1).map(|hop| hop.word).chain([part.offset]);
    part.hops.iter().zip(next).map(|(hop, offset)| AccessHop {
        offset,
        index: hop.index,
        pointee: Some(hop.pointee),
    })
}

/// Pieces one behind the other.
fn placed(pieces: impl Iterator<Item = (u32, Spot)>) -> Vec<Placed> {
    let mut value_offset = 0u32;
    let mut out: Vec<Placed> = Vec::new();
    for (bytes, spot) in pieces.filter(|(bytes, _)| *bytes > 0) {
        match out.last_mut() {
            // Neighbours in the value and on the stack are one.
            Some(before)
                if before.spot.plus(before.bytes) == Some(spot) && matches!(spot, Spot::Stack(_)) =>
            {
                before.bytes = before.bytes.saturating_add(bytes);
            }
            _ => out.push(Placed { value_offset, bytes, spot }),
        }
        value_offset = value_offset.saturating_add(bytes);
    }
    out
}

/// The pieces of the bytes `from..from + bytes` of a value, as a value of their own.
fn clip(placed: &[Placed], from: u32, bytes: u32) -> Vec<Placed> {
    let end = from.saturating_add(bytes);
    placed
        .iter()
        .filter_map(|piece| {
            let start = piece.value_offset.max(from);
            let stop = piece.value_offset.saturating_add(piece.bytes).min(end);
            let bytes = stop.checked_sub(start).filter(|&bytes| bytes > 0)?;
            let spot = piece.spot.plus(start - piece.value_offset)?;
            Some(Placed { value_offset: start - from, bytes, spot })
        })
        .collect()
}

impl Spot {
    /// The place `by` bytes further.
    pub(super) fn plus(self, by: u32) -> Option<Self> {
        Some(match self {
            Self::Register(root_offset) => Self::Register(root_offset.checked_add(by)?),
            Self::Stack(offset) => Self::Stack(offset.checked_add(i64::from(by))?),
            Self::Constant(value) => Self::Constant(value.checked_shr(by.saturating_mul(8)).unwrap_or(0)),
            Self::Word(word) if by == 0 => Self::Word(word),
            Self::Word(_) => return None,
            Self::Unavailable(reason) => Self::Unavailable(reason),
        })
    }
}

/// Where a value begins that lies on the stack in one run.
fn on_stack(pieces: &[Placed]) -> Option<i64> {
    let stack = |piece: &Placed| match piece.spot {
        Spot::Stack(offset) => Some(offset),
        _ => None,
    };
    let first = stack(pieces.first()?)?;
    let mut next = first;
    for piece in pieces {
        if stack(piece)? != next {
            return None;
        }
        next = next.checked_add(i64::from(piece.bytes))?;
    }
    Some(first)
}

/// Asks for what a spot needs in the root chunk. `None`: it can't be there.
fn ask_for(root: &mut RootRequest, spot: Spot, bytes: u32) -> Option<()> {
    match spot {
        Spot::Stack(offset) => root.want_stack(offset, bytes),
        Spot::Word(word) => {
            root.want_word(word);
            Some(())
        }
        Spot::Register(_) => (bytes <= 8).then_some(()),
        Spot::Constant(_) | Spot::Unavailable(_) => Some(()),
    }
}

#[cfg(test)]
mod tests;
