//! From what `captures` wants to the plan itself: windows, root slots, and where each value is in a record.

use std::{collections::BTreeMap, sync::Arc};

use riptrace_common::{
    abi::{
        context::{ContextPlan, NO_CONTEXT},
        limits::{MAX_CHUNK_BYTES, MAX_SLOTS_PER_TYPE},
        program::{ACTION_DICTIONARY, CLEARABLE_REGISTERS, REGISTER_BYTES, Slot},
    },
    wire::{
        event::{SiteInfo, VariableInfo},
        number::Address,
        value::Unavailable,
    },
};

use super::{
    CallRole, DictionaryPlan, Hop, IndexBound, PlannedVariable, RootPiece, RootPlace, SitePlan, ValueSource,
    captures::{Access, AccessHop, Placed, Planner, Spot, Wanted, holds_redacted},
    root::RootLayout,
    trace_context,
    types::{RegistryError, Synthetic, encode, object_holding},
};
use crate::golang::{
    layout::{SlotTarget, Target, TypeSlot, layout_of},
    types::{Shape, TypeId},
};

impl Planner<'_, '_> {
    /// Lays the root chunk out and numbers every type that the plan leads to.
    pub(super) fn finish(mut self) -> Result<SitePlan, RegistryError> {
        let layout = self
            .root
            .layout(self.available)
            .unwrap_or_else(|| RootLayout { windows: Vec::new(), root_bytes: REGISTER_BYTES });
        let wanted = std::mem::take(&mut self.wanted);
        let mut encoder = Encoder { layout: &layout, slots: Vec::new(), roots: Vec::new(), full: false };
        let objects = self.closure_objects(&mut encoder)?;
        let mut variables = Vec::with_capacity(wanted.len());
        let mut infos = Vec::with_capacity(wanted.len());
        let mut dictionary = Vec::new();
        let dictionary_word = self.dictionary.and_then(|spot| encoder.word(spot));
        for (position, wanted) in wanted.into_iter().enumerate() {
            let mut source = self.source(&mut encoder, &objects, &wanted)?;
            if encoder.full {
                source = ValueSource::Unavailable(Unavailable::Budget);
                encoder.full = false;
            }
            // A shape's real type says no more of what must not be copied.
            let is_redacted = matches!(source, ValueSource::Unavailable(Unavailable::Redacted));
            if let Some(index) = wanted.dict_index.filter(|_| !is_redacted) {
                dictionary.push((position, index));
                let data = wanted.address.and_then(|spot| encoder.word(spot));
                if let (Some(word), Some(data)) = (dictionary_word, data) {
                    let is_pointer = !index.of_pointer
                        && matches!(self.context.types.get(wanted.ty).shape, Shape::Pointer { .. });
                    encoder.add_dynamic(word, index.word, data, is_pointer);
                }
            }
            infos.push(self.info(&wanted, &source));
            variables.push(PlannedVariable { name: wanted.name, role: wanted.role, ty: wanted.ty, source });
        }
        let dictionary = dictionary_word.map(|word| DictionaryPlan { word, variables: dictionary });
        let depth = self.context.limits.max_depth;
        self.registry.compile(self.context.image, self.context.types, &encoder.roots, depth)?;
        let contexts = trace_context::plan(&self.contexts, &|spot| encoder.word(spot));
        let root_slots = encoder.slots;
        let cleared_registers =
            self.cleared_registers(&root_slots, &variables, dictionary.as_ref(), contexts.as_ref());
        let site = self.context.site;
        Ok(SitePlan {
            link_address: site.link_address,
            file_offset: self.context.file_offset,
            location: site.location.clone(),
            entry_address: site.entry_address,
            candidates: site.candidates.clone(),
            trigger: site.trigger,
            call: CallRole::None,
            needs_entry: false,
            fault_address: None,
            branch: site.branch,
            cfa_from_sp: self.context.cfa_from_sp,
            windows: layout.windows.clone(),
            root_bytes: layout.root_bytes,
            root_slots,
            variables,
            dictionary,
            cleared_registers,
            redacts: self.context.types.redacts(),
            contexts,
            condition: None,
            outputs: None,
            info: SiteInfo {
                location: site.location.clone(),
                event: site.trigger,
                instruction: site.instruction.clone(),
                fast: site.fast,
                entry: (site.entry_address != site.link_address).then_some(Address(site.entry_address)),
                choice: Arc::clone(&site.choice),
                variables: infos,
            },
        })
    }

    fn info(&self, wanted: &Wanted, source: &ValueSource) -> VariableInfo {
        let unavailable = match source {
            ValueSource::Unavailable(reason) => Some(*reason),
            ValueSource::Root(pieces) => pieces.iter().find_map(|piece| match piece.place {
                // An array that is longer than `max_items` is not short of anything.
                RootPlace::Unavailable(reason) if reason != Unavailable::Budget => Some(reason),
                _ => None,
            }),
            ValueSource::Through { .. } | ValueSource::Chain { .. } => None,
        };
        VariableInfo {
            name: Arc::clone(&wanted.name),
            role: wanted.role,
            type_name: Arc::clone(&self.context.types.get(wanted.ty).name),
            place: wanted.place.clone(),
            unavailable,
        }
    }

    /// One chunk type for each closure object, with everything that is wanted of it.
    fn closure_objects(&mut self, encoder: &mut Encoder<'_>) -> Result<BTreeMap<u32, u32>, RegistryError> {
        let mut objects = BTreeMap::new();
        let is_cut = self.root.is_exact();
        for (register, held) in std::mem::take(&mut self.closures) {
            let object = object_holding(self.context.types, held, 8, is_cut);
            let index = self.registry.reserve_synthetic(self.context.image, object)?;
            encoder.follow(register, index, self.context.limits.max_depth);
            objects.insert(register, index);
        }
        Ok(objects)
    }

    fn source(
        &mut self,
        encoder: &mut Encoder<'_>,
        objects: &BTreeMap<u32, u32>,
        wanted: &Wanted,
    ) -> Result<ValueSource, RegistryError> {
        Ok(match &wanted.access {
            Access::Unavailable(reason) => ValueSource::Unavailable(*reason),
            Access::Closure { register, held } => {
                let by_reference = if held.by_reference {
                    Some(self.registry.reserve(self.context.image, Target::value(held.ty))?)
                } else {
                    None
                };
                match objects.get(register) {
                    Some(&chunk_type) => ValueSource::Through {
                        word: *register,
                        chunk_type,
                        offset: held.offset,
                        by_reference,
                    },
                    None => ValueSource::Unavailable(Unavailable::BadDebugInfo),
                }
            }
            Access::Pieces(placed) => {
                let pieces: Vec<RootPiece> = placed.iter().map(|piece| encoder.piece(piece)).collect();
                self.follow_from_pieces(encoder, &pieces, wanted.ty)?;
                ValueSource::Root(pieces)
            }
            Access::Through { word, length, hops } => {
                self.through(encoder, *word, *length, hops, wanted.ty)?
            }
        })
    }

    fn through(
        &mut self,
        encoder: &mut Encoder<'_>,
        word: Spot,
        length: Option<Spot>,
        way: &[AccessHop],
        ty: TypeId,
    ) -> Result<ValueSource, RegistryError> {
        let image = self.context.image;
        let Some(root_word) = encoder.word(word) else {
            return Ok(ValueSource::Unavailable(Unavailable::BadDebugInfo));
        };
        let root_length = length.and_then(|spot| encoder.word(spot));
        let mut hops: Vec<Hop> = Vec::with_capacity(way.len());
        // From the value backwards: each chunk type names the next.
        let mut next: Option<u32> = None;
        for (at, hop) in way.iter().enumerate().rev() {
            let is_cut = self.is_cut(hop);
            let chunk_type = match next {
                None => match self.last_chunk(hop, ty, is_cut)? {
                    Some(index) => index,
                    None => return Ok(ValueSource::Unavailable(Unavailable::Budget)),
                },
                Some(target) => {
                    let with_length = way.get(at + 1).is_some_and(|next| next.index.is_some());
                    let end = hop.offset.saturating_add(if with_length { 16 } else { 8 });
                    let (Ok(word), Ok(bytes)) = (u32::try_from(hop.offset), u32::try_from(end)) else {
                        return Ok(ValueSource::Unavailable(Unavailable::Budget));
                    };
                    if bytes > MAX_CHUNK_BYTES {
                        return Ok(ValueSource::Unavailable(Unavailable::Budget));
                    }
                    let slots = vec![TypeSlot::one(word, SlotTarget::Index(target), 0)];
                    let holes = (is_cut && word > 0).then_some(0..word).into_iter().collect();
                    let synthetic = Synthetic { bytes, slots, holes };
                    self.registry.reserve_synthetic(image, synthetic)?
                }
            };
            let bound = hop.index.and_then(|index| {
                let length = match at.checked_sub(1).and_then(|before| way.get(before)) {
                    Some(before) => before.offset.saturating_add(8),
                    None => u64::from(root_length?),
                };
                Some(IndexBound { index, length })
            });
            hops.push(Hop { chunk_type, offset: hop.offset, bound });
            next = Some(chunk_type);
        }
        hops.reverse();
        if let Some(index) = next {
            encoder.follow(root_word, index, self.context.limits.max_depth);
        }
        Ok(match hops.as_slice() {
            [Hop { chunk_type, offset, bound: None }] => ValueSource::Through {
                word: root_word,
                chunk_type: *chunk_type,
                offset: *offset,
                by_reference: None,
            },
            _ => ValueSource::Chain { word: root_word, hops },
        })
    }

    /// The type of the chunk that holds the value itself. `None`: it lies behind the largest chunk.
    fn last_chunk(
        &mut self,
        hop: &AccessHop,
        ty: TypeId,
        is_cut: bool,
    ) -> Result<Option<u32>, RegistryError> {
        let go = self.context.types.get(ty);
        let wanted = self.wanted_bytes(&go);
        if hop.offset == 0 && hop.index.is_none() && u64::from(wanted) == go.bytes {
            return self.registry.reserve(self.context.image, Target::value(ty)).map(Some);
        }
        let Ok(offset) = u32::try_from(hop.offset) else { return Ok(None) };
        if offset.saturating_add(wanted) > MAX_CHUNK_BYTES && offset > 0 {
            return Ok(None);
        }
        let layout = layout_of(self.context.types, Target::value(ty));
        let slots = layout
            .slots
            .iter()
            .filter_map(|slot| slot.clipped(wanted))
            .filter_map(|slot| slot.shifted(offset))
            .collect();
        let bytes = offset + wanted;
        let before = (is_cut && offset > 0).then_some(0..offset);
        let within =
            layout.holes.iter().map(|hole| hole.start + offset..hole.end.saturating_add(offset).min(bytes));
        let holes = before.into_iter().chain(within.filter(|hole| hole.start < hole.end)).collect();
        let synthetic = Synthetic { bytes, slots, holes };
        self.registry.reserve_synthetic(self.context.image, synthetic).map(Some)
    }

    /// What a pointer leads to holds something that is not copied, or it is not known what it holds.
    fn is_cut(&self, hop: &AccessHop) -> bool {
        let types = self.context.types;
        types.redacts() && hop.pointee.is_none_or(|ty| holds_redacted(types, ty))
    }

    /// Registers that the record does not need. Any of them may hold a secret: of a variable that went out of scope, of a
    /// caller.
    fn cleared_registers(
        &self,
        root_slots: &[Slot],
        variables: &[PlannedVariable],
        dictionary: Option<&DictionaryPlan>,
        contexts: Option<&ContextPlan>,
    ) -> u16 {
        if !self.context.types.redacts() {
            return 0;
        }
        let mut needed = 0u16;
        let mut need = |root_offset: u32| {
            needed |= 1u16.checked_shl(root_offset / 8).unwrap_or_default();
        };
        for slot in root_slots {
            for repetition in 0..slot.repeat.min(REGISTER_BYTES / 8) {
                need(slot.word.saturating_add(repetition.saturating_mul(slot.stride)));
                need(slot.count.saturating_add(repetition.saturating_mul(slot.stride)));
            }
        }
        for variable in variables {
            match &variable.source {
                ValueSource::Root(pieces) => {
                    for piece in pieces {
                        if let RootPlace::At { root_offset, .. } = piece.place {
                            need(root_offset);
                        }
                    }
                }
                ValueSource::Through { word, .. } => need(*word),
                ValueSource::Chain { word, hops } => {
                    need(*word);
                    if let Some(length) = hops.first().and_then(|hop| hop.bound).map(|bound| bound.length) {
                        need(u32::try_from(length).unwrap_or(u32::MAX));
                    }
                }
                ValueSource::Unavailable(_) => {}
            }
        }
        if let Some(dictionary) = dictionary {
            need(dictionary.word);
        }
        for root in contexts.iter().flat_map(|plan| &plan.roots).filter(|root| root.hops != NO_CONTEXT) {
            need(root.word);
            if root.hops == 0 {
                need(root.data);
            }
        }
        CLEARABLE_REGISTERS & !needed
    }

    fn follow_from_pieces(
        &mut self,
        encoder: &mut Encoder<'_>,
        pieces: &[RootPiece],
        ty: TypeId,
    ) -> Result<(), RegistryError> {
        let depth = self.context.limits.max_depth;
        for slot in layout_of(self.context.types, Target::value(ty)).slots {
            let Some(levels) = depth.checked_sub(u32::from(slot.deeper)) else { continue };
            let runs = in_root(&slot, pieces);
            if runs.is_empty() {
                continue;
            }
            let target = self.registry.resolve(self.context.image, slot.target)?;
            for run in runs {
                encoder.add(encode(&run, target), levels);
            }
        }
        Ok(())
    }
}

/// Collects root slots and what they lead to.
struct Encoder<'a> {
    layout: &'a RootLayout,
    slots: Vec<Slot>,
    /// (index, levels of pointers behind it).
    roots: Vec<(u32, u32)>,
    /// A slot found no room since this was last cleared.
    full: bool,
}

impl Encoder<'_> {
    /// Root offset of 8 readable bytes.
    fn word(&self, spot: Spot) -> Option<u32> {
        match spot {
            Spot::Register(root_offset) => Some(root_offset),
            Spot::Stack(offset) => self.layout.stack(offset, 8).map(|(root_offset, _)| root_offset),
            Spot::Word(word) => self.layout.word(word).map(|(root_offset, _)| root_offset),
            Spot::Constant(_) | Spot::Unavailable(_) => None,
        }
    }

    fn piece(&self, placed: &Placed) -> RootPiece {
        let missing = RootPlace::Unavailable(Unavailable::Budget);
        let place = match placed.spot {
            Spot::Register(root_offset) => RootPlace::At { root_offset, window: None },
            Spot::Stack(offset) => self
                .layout
                .stack(offset, placed.bytes)
                .map_or(missing, |(root_offset, window)| RootPlace::At { root_offset, window: Some(window) }),
            Spot::Constant(value) => RootPlace::Constant(value),
            Spot::Unavailable(reason) => RootPlace::Unavailable(reason),
            Spot::Word(_) => RootPlace::Unavailable(Unavailable::BadDebugInfo),
        };
        RootPiece { value_offset: placed.value_offset, bytes: placed.bytes, place }
    }

    fn follow(&mut self, word: u32, target: u32, levels: u32) {
        self.add(encode(&TypeSlot::one(word, SlotTarget::Index(target), 0), target), levels);
    }

    /// A value behind the word `data`, followed by the type that the dictionary behind `word` names. What is not told to
    /// the kernel this way is still shown, by its shape.
    fn add_dynamic(&mut self, word: u32, index: u32, data: u32, deeper: bool) {
        if self.slots.len() < MAX_SLOTS_PER_TYPE as usize {
            self.slots.push(Slot {
                word,
                count: data,
                max_count: index,
                repeat: 1,
                action: ACTION_DICTIONARY,
                deeper: deeper.into(),
                ..Slot::default()
            });
        }
    }

    fn add(&mut self, slot: Slot, levels: u32) {
        if self.slots.contains(&slot) {
            return;
        }
        if self.slots.len() >= MAX_SLOTS_PER_TYPE as usize {
            self.full = true;
            return;
        }
        self.slots.push(slot);
        self.roots.push((slot.target, levels));
    }
}

/// A slot of a value as slots of the root chunk: one for each run of repetitions that lie side by side there. Repetitions
/// whose words are not all readable are left out.
fn in_root(slot: &TypeSlot, pieces: &[RootPiece]) -> Vec<TypeSlot> {
    let mut runs: Vec<TypeSlot> = Vec::new();
    for repetition in 0..slot.repeat.min(MAX_CHUNK_BYTES / 8) {
        let Some(by) = repetition.checked_mul(slot.stride) else { break };
        let Some(moved) = slot.shifted(by) else { break };
        let (Some(word), Some(count)) = (root_word(pieces, moved.word), root_word(pieces, moved.count))
        else {
            continue;
        };
        let follows = |run: &TypeSlot| {
            let behind = run.repeat.checked_mul(run.stride)?;
            Some(run.word.checked_add(behind)? == word && run.count.checked_add(behind)? == count)
        };
        match runs.last_mut() {
            Some(run) if follows(run) == Some(true) => run.repeat += 1,
            _ => runs.push(TypeSlot { word, count, repeat: 1, ..*slot }),
        }
    }
    runs
}

/// Root offset of the 8 bytes at `offset` of a value.
fn root_word(pieces: &[RootPiece], offset: u32) -> Option<u32> {
    pieces.iter().find_map(|piece| {
        let within = offset.checked_sub(piece.value_offset)?;
        let RootPlace::At { root_offset, .. } = piece.place else { return None };
        (within.checked_add(8)? <= piece.bytes).then_some(root_offset.checked_add(within)?)
    })
}
