//! How the kernel side finds the span that a hit belongs to (`abi::context`): which of a site's variables lead to a
//! `context.Context`, and how each type of context leads to the one before it and to a span.
//!
//! Types come from debug data. OpenTelemetry keeps a span in a context under a key of a type of its own (its package
//! trace, `ContextWithSpan`), and every type of span has a field of type `SpanContext`.

use std::collections::HashSet;

use riptrace_common::abi::context::{
    CONTEXT_HOPS, CONTEXT_KEY, CONTEXT_PARENT, CONTEXT_ROOTS, CONTEXT_SPAN, CONTEXT_VALUE, ContextPlan,
    ContextRoot, NO_CONTEXT,
};

use super::{
    captures::{Access, Spot},
    path::{Walk, WalkHop},
};
use crate::{
    dwarf::VisibleVariable,
    golang::types::{GoType, Shape, TypeId, TypeSource},
};

/// The interface of contexts.
pub const CONTEXT: &str = "context.Context";
/// The interface of spans.
pub const SPAN: &str = "go.opentelemetry.io/otel/trace.Span";
/// The type of the key under which a context holds a span.
pub const SPAN_KEY: &str = "go.opentelemetry.io/otel/trace.traceContextKeyType";
/// What names a span.
const SPAN_CONTEXT: &str = "go.opentelemetry.io/otel/trace.SpanContext";
/// What spans call their own one.
const OWN_SPAN_CONTEXT: [&str; 2] = ["spanContext", "sc"];
/// Spans of OpenTelemetry that are kept in contexts without having been converted to [`SPAN`] before, so that the linker
/// made no itab for them.
pub const SPAN_TYPES: [&str; 5] = [
    "go.opentelemetry.io/otel/trace.nonRecordingSpan",
    "go.opentelemetry.io/otel/sdk/trace.nonRecordingSpan",
    "*go.opentelemetry.io/otel/sdk/trace.recordingSpan",
    "go.opentelemetry.io/otel/internal/global.nonRecordingSpan",
    "*go.opentelemetry.io/auto/sdk.span",
];
const REQUEST: &str = "net/http.Request";
const VALUE_CONTEXT: &str = "context.valueCtx";
/// Structs within each other that are searched for a field.
const MAX_EMBEDDING: u32 = 4;

/// An entry of the kernel's map: how what has this itab or runtime type leads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextLink {
    /// Link-time address.
    pub address: u64,
    /// One of `CONTEXT_*`.
    pub how: u32,
    /// `Dynamic::target`.
    pub offset: u32,
}

/// A concrete type that implements an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implementation {
    /// The itab's link-time address.
    pub itab: u64,
    /// The concrete type.
    pub ty: TypeId,
}

/// The links of a program. `contexts`, `spans`: what implements [`CONTEXT`] and [`SPAN`], each once; `key`: the type [`SPAN_KEY`].
/// Empty if the program has no spans.
#[must_use]
pub fn links(
    types: &dyn TypeSource,
    contexts: &[Implementation],
    spans: &[TypeId],
    key: TypeId,
) -> Vec<ContextLink> {
    let Some(key) = types.get(key).runtime_type else { return Vec::new() };
    let mut links: Vec<ContextLink> = spans.iter().filter_map(|span| span_link(types, *span)).collect();
    if links.is_empty() {
        return links;
    }
    links.push(ContextLink { address: key, how: CONTEXT_KEY, offset: 0 });
    links.extend(contexts.iter().filter_map(|context| context_link(types, *context)));
    links
}

/// A span is kept as `any`: its runtime type names it.
fn span_link(types: &dyn TypeSource, ty: TypeId) -> Option<ContextLink> {
    let address = types.get(ty).runtime_type?;
    let (offset, span) = own_span_context(types, &pointee_or_self(types, ty))?;
    let at = |name: &str| Some(named_field(&types.get(span), name)?.0);
    // The layout that is copied.
    let usual = ["traceID", "spanID", "traceFlags", "remote"].map(at) == [0, 16, 24, 56].map(Some);
    let offset = u32::try_from(offset).ok().filter(|_| usual)?;
    Some(ContextLink { address, how: CONTEXT_SPAN, offset })
}

/// A span may hold its parent's span context too, and others.
fn own_span_context(types: &dyn TypeSource, span: &GoType) -> Option<(u64, TypeId)> {
    let is_span_context = |ty: TypeId| &*types.get(ty).name == SPAN_CONTEXT;
    let named = |name: &&str| named_field(span, name).filter(|(_, ty)| is_span_context(*ty));
    if let Some(found) = OWN_SPAN_CONTEXT.iter().find_map(named) {
        return Some(found);
    }
    let Shape::Struct { fields } = &span.shape else { return None };
    let mut all = fields.iter().filter(|field| is_span_context(field.ty));
    let only = all.next().filter(|_| all.next().is_none())?;
    Some((only.offset, only.ty))
}

/// The parent of a context is the context that it embeds, or keeps in its only field of that type.
fn context_link(types: &dyn TypeSource, context: Implementation) -> Option<ContextLink> {
    let holder = pointee_or_self(types, context.ty);
    let is_context = |ty: &GoType| &*ty.name == CONTEXT && ty.shape == Shape::Interface;
    let (offset, _) = field_of(types, &holder, &is_context, MAX_EMBEDDING)?;
    let offset = u32::try_from(offset).ok()?;
    let with_value = &*holder.name == VALUE_CONTEXT
        && ["key", "val"].map(|name| named_field(&holder, name).map(|found| found.0))
            == [16, 32].map(|behind| Some(u64::from(offset) + behind));
    let how = if with_value { CONTEXT_VALUE } else { CONTEXT_PARENT };
    Some(ContextLink { address: context.itab, how, offset })
}

/// What a pointer leads to, or the type itself: an interface keeps the address of either.
fn pointee_or_self(types: &dyn TypeSource, ty: TypeId) -> std::sync::Arc<GoType> {
    let go = types.get(ty);
    match go.shape {
        Shape::Pointer { elem: Some(elem) } => types.get(elem),
        _ => go,
    }
}

fn named_field(ty: &GoType, name: &str) -> Option<(u64, TypeId)> {
    let Shape::Struct { fields } = &ty.shape else { return None };
    fields.iter().find(|field| &*field.name == name).map(|field| (field.offset, field.ty))
}

/// The first field that is wanted: of the struct itself, else of the structs in it.
fn field_of(
    types: &dyn TypeSource,
    ty: &GoType,
    is_wanted: &dyn Fn(&GoType) -> bool,
    nesting: u32,
) -> Option<(u64, TypeId)> {
    let Shape::Struct { fields } = &ty.shape else { return None };
    if let Some(field) = fields.iter().find(|field| is_wanted(&types.get(field.ty))) {
        return Some((field.offset, field.ty));
    }
    let nesting = nesting.checked_sub(1)?;
    fields.iter().filter(|field| field.embedded).find_map(|field| {
        let (offset, found) = field_of(types, &types.get(field.ty), is_wanted, nesting)?;
        Some((field.offset.checked_add(offset)?, found))
    })
}

/// The way from a variable to a context. Fewer pointers first.
fn way(types: &dyn TypeSource, ty: TypeId) -> Option<Walk> {
    let is_context = |ty: &GoType| &*ty.name == CONTEXT && ty.shape == Shape::Interface;
    let is_request = |ty: &GoType| match ty.shape {
        Shape::Pointer { elem: Some(elem) } => &*types.get(elem).name == REQUEST,
        _ => false,
    };
    let go = types.get(ty);
    if is_context(&go) {
        return Some(Walk { hops: Vec::new(), offset: 0, ty });
    }
    let Shape::Pointer { elem: Some(elem) } = go.shape else { return None };
    let first = WalkHop { word: 0, index: None, pointee: elem };
    let holder = types.get(elem);
    let direct = |holder: &GoType| field_of(types, holder, &is_context, 1);
    if let Some((offset, ty)) = direct(&holder) {
        return Some(Walk { hops: vec![first], offset, ty });
    }
    // What web frameworks hand to a handler holds its request.
    let (word, request) = field_of(types, &holder, &is_request, 1)?;
    let Shape::Pointer { elem: Some(pointee) } = types.get(request).shape else { return None };
    let (offset, ty) = direct(&types.get(pointee))?;
    Some(Walk { hops: vec![first, WalkHop { word, index: None, pointee }], offset, ty })
}

/// Names of the variables that lead to a context.
#[must_use]
pub fn names(types: &dyn TypeSource, variables: &[VisibleVariable]) -> HashSet<std::sync::Arc<str>> {
    variables
        .iter()
        .filter(|variable| way(types, variable.ty).is_some())
        .map(|variable| std::sync::Arc::clone(&variable.name))
        .collect()
}

/// The variables that are followed, and how: contexts first, then requests and what holds one.
pub(super) fn ways<'v>(
    types: &dyn TypeSource,
    variables: &'v [VisibleVariable],
) -> Vec<(&'v VisibleVariable, Walk)> {
    let mut found: Vec<_> =
        variables.iter().filter_map(|variable| Some((variable, way(types, variable.ty)?))).collect();
    let is_request = |variable: &VisibleVariable| &*pointee_or_self(types, variable.ty).name == REQUEST;
    found.sort_by_key(|(variable, way)| (way.hops.len(), !is_request(variable)));
    found
}

/// A chain of contexts that begins where `access` says: the words that must be in the root chunk, and the offsets of the
/// pointers on the way. `None`: it can't be followed.
pub(super) fn chain(access: &Access) -> Option<Chain> {
    match access {
        Access::Pieces(pieces) => {
            let word_at = |offset: u32| {
                let piece = pieces.iter().find(|piece| {
                    offset >= piece.value_offset
                        && offset + 8 <= piece.value_offset.saturating_add(piece.bytes)
                })?;
                let spot = piece.spot.plus(offset - piece.value_offset)?;
                matches!(spot, Spot::Register(_) | Spot::Stack(_)).then_some(spot)
            };
            Some(Chain { word: word_at(0)?, data: Some(word_at(8)?), offsets: Vec::new() })
        }
        Access::Through { word, length: None, hops } => {
            let offsets = hops
                .iter()
                .map(|hop| u32::try_from(hop.offset).ok().filter(|_| hop.index.is_none()))
                .collect::<Option<Vec<u32>>>()?;
            (!offsets.is_empty() && offsets.len() <= CONTEXT_HOPS).then_some(Chain {
                word: *word,
                data: None,
                offsets,
            })
        }
        Access::Closure { register, held } => {
            let at = u32::try_from(held.offset).ok()?;
            let offsets = if held.by_reference { vec![at, 0] } else { vec![at] };
            Some(Chain { word: Spot::Register(*register), data: None, offsets })
        }
        Access::Through { .. } | Access::Unavailable(_) => None,
    }
}

/// Where a chain of contexts begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) word: Spot,
    pub(super) data: Option<Spot>,
    pub(super) offsets: Vec<u32>,
}

impl Chain {
    /// The words of the root chunk that it needs.
    pub(super) fn spots(&self) -> impl Iterator<Item = Spot> {
        [Some(self.word), self.data].into_iter().flatten()
    }
}

/// The plan of these chains; `place` gives a word's root offset. `None`: there is none.
pub(super) fn plan(chains: &[Chain], place: &dyn Fn(Spot) -> Option<u32>) -> Option<ContextPlan> {
    let unused = ContextRoot { hops: NO_CONTEXT, ..ContextRoot::default() };
    let mut plan = ContextPlan { roots: [unused; CONTEXT_ROOTS] };
    let roots = chains.iter().filter_map(|chain| {
        let mut root = ContextRoot { word: place(chain.word)?, ..ContextRoot::default() };
        match chain.data {
            Some(data) => root.data = place(data)?,
            None => {
                root.hops = u32::try_from(chain.offsets.len()).ok()?;
                root.offsets.iter_mut().zip(&chain.offsets).for_each(|(to, offset)| *to = *offset);
            }
        }
        Some(root)
    });
    let mut used = 0;
    for (to, root) in plan.roots.iter_mut().zip(roots) {
        *to = root;
        used += 1;
    }
    (used > 0).then_some(plan)
}

#[cfg(test)]
mod tests;
