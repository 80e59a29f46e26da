//! From records to events: takes them from the ring, holds them back until their turn comes, decodes them.

use std::{ops::ControlFlow, sync::Arc};

use riptrace_common::{
    abi::record::Header,
    wire::event::{ErrorEvent, Event},
};

use super::{
    Tracer, host,
    order::{self, Taken},
    outputs, preload,
    stacks::Found,
};
use crate::{
    decode::{self, DecodeContext, record},
    golang::types::TypeSource,
    plan::stripped::RawTypes,
};

/// Records that are taken from the ring at once.
const MAX_BATCH: usize = 64;
/// Bytes of records that wait for their turn at the most. While so many wait, the rest stays in the ring, and what the
/// ring has no room for is dropped and counted: a reader that is slower than the hits costs neither memory nor delay.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Past the maximum, the earliest are released without waiting longer until so many are left.
const SURPLUS_BYTES: usize = MAX_WAITING_BYTES / 2;

impl Tracer {
    /// Takes what the kernel side recorded and hands the events over, in the order of the kernel's clock, until the sink
    /// breaks off. What it did not get then stays for the next time.
    pub fn poll(&mut self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        self.host.realtime_minus_monotonic_ns = host::realtime_minus_monotonic_ns();
        let now_ns = host::monotonic_ns();
        // What is left in the ring is not earlier than what was taken, but for the duration of a hit.
        let newest_ns = if self.drain() { now_ns } else { self.newest_ns };
        self.release_surplus(sink)?;
        let until_ns = newest_ns.saturating_sub(order::HOLD_BACK_NS);
        self.release(until_ns, sink)?;
        self.complete_until_ns = self.complete_until_ns.max(until_ns);
        ControlFlow::Continue(())
    }

    /// The same for everything that is there, without holding any record back. For the end.
    pub fn poll_all(&mut self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        self.host.realtime_minus_monotonic_ns = host::realtime_minus_monotonic_ns();
        while !self.drain() {
            self.release_surplus(sink)?;
        }
        self.release(u64::MAX, sink)
    }

    /// Throws away what is there, and counts it as dropped.
    pub fn discard(&mut self) {
        loop {
            let empty = self.drain();
            while let Some(taken) = self.waiting.pop_until(u64::MAX) {
                let of = record::header(&taken.record)
                    .ok()
                    .and_then(|header| self.armed.get_mut(&header.tracepoint));
                if let Some(tracepoint) = of {
                    tracepoint.discarded += 1;
                }
            }
            if empty {
                return;
            }
        }
    }

    /// Moves records from the ring to those that wait, as far as there is room; whether the ring is empty.
    fn drain(&mut self) -> bool {
        while self.waiting.bytes() < MAX_WAITING_BYTES {
            let taken = self.ring.drain(&mut self.batch, MAX_BATCH);
            let mut batch = std::mem::take(&mut self.batch);
            for record in batch.drain(..) {
                if let Some(copies) = &self.copies {
                    // Whoever listened may have gone.
                    let _ = copies.send(record.clone());
                }
                match record::header(&record) {
                    Ok(header) => {
                        self.newest_ns = self.newest_ns.max(header.ktime_ns);
                        let sent_stack = self.sent_stack(&record, &header);
                        let taken = Taken { record, sent_stack };
                        self.waiting.push(header.ktime_ns, header.cpu, header.cpu_seq, taken);
                    }
                    // It is reported when its turn comes: at once.
                    Err(_) => self.waiting.push(0, 0, 0, Taken { record, sent_stack: None }),
                }
            }
            self.batch = batch;
            if taken < MAX_BATCH {
                return true;
            }
        }
        false
    }

    /// Keeps the stack's frames if the record carries them, and finds them if it names them.
    fn sent_stack(&mut self, record: &[u8], header: &Header) -> Option<Arc<[u64]>> {
        // A record that can't be read is reported when its turn comes.
        let carried = record::stack(record, header).ok()?;
        match self.stacks.take(header.tgid, &carried) {
            Found::Carried => None,
            Found::Sent(frames) => Some(frames),
            Found::Unknown(hash) => {
                if let Some(tracepoint) = self.armed.get_mut(&header.tracepoint) {
                    tracepoint.stacks_unavailable += 1;
                }
                if let Err(error) = self.kernel.forget_stack(hash) {
                    tracing::warn!(%error, "a call stack that is not known can't be asked for again");
                }
                None
            }
        }
    }

    fn release(&mut self, until_ns: u64, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        while let Some(taken) = self.waiting.pop_until(until_ns) {
            if let Some(event) = self.decode(&taken) {
                sink(event)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn release_surplus(&mut self, sink: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        if self.waiting.bytes() < MAX_WAITING_BYTES {
            return ControlFlow::Continue(());
        }
        while self.waiting.bytes() > SURPLUS_BYTES
            && let Some(taken) = self.waiting.pop_until(u64::MAX)
        {
            if let Some(event) = self.decode(&taken) {
                sink(event)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The event of a record; `None`: its tracepoint was removed.
    fn decode(&mut self, taken: &Taken) -> Option<Event> {
        let bytes = &taken.record;
        let header = match record::header(bytes) {
            Ok(header) => header,
            Err(error) => {
                return Some(Event::Error(ErrorEvent { tracepoint: None, message: error.to_string() }));
            }
        };
        let Self { sites, armed, images, registry, processes, host, edges, kept_of_calls, .. } = self;
        let tracepoint = armed.get_mut(&header.tracepoint)?;
        let site = sites.get(&header.site).filter(|site| site.generation == header.generation);
        let known = images.get(tracepoint.image.0);
        let (Some(site), Some(known)) = (site, known) else {
            tracepoint.undecodable += 1;
            let message = format!("a record names site {}, which is not armed", header.site);
            return Some(Event::Error(ErrorEvent { tracepoint: Some(Arc::clone(&tracepoint.id)), message }));
        };
        let nothing = RawTypes;
        let types: &dyn TypeSource = match known.image.types() {
            Some(types) => types,
            None => &nothing,
        };
        let context = DecodeContext {
            plan: &site.plan,
            types,
            registry,
            image: known.index,
            symbols: &known.image,
            limits: tracepoint.limits,
            tracepoint_id: &tracepoint.id,
            host,
            process: processes.facts(header.tgid, &known.image),
            sent_stack: taken.sent_stack.as_deref(),
            redaction: known.image.types().map(|types| &**types.rules()).filter(|rules| !rules.are_off()),
        };
        match decode::decode(bytes, &context) {
            Ok(mut decoded) => {
                if let Some(outputs) = &site.plan.outputs {
                    let (hit, of) = (&mut decoded.hit, header.tracepoint);
                    outputs::apply(outputs, hit, of, bytes.len(), kept_of_calls);
                }
                if let Some(built_in) = tracepoint.wanted.edge
                    && !edges.apply(built_in, header.tracepoint, &mut decoded.hit, decoded.span)
                {
                    tracepoint.not_edges += 1;
                    return None;
                }
                self.learn(header.tracepoint, &decoded.unknown_types, &decoded.unknown_code);
                Some(Event::Hit(Box::new(decoded.hit)))
            }
            Err(error) => {
                tracepoint.undecodable += 1;
                let message = error.to_string();
                Some(Event::Error(ErrorEvent { tracepoint: Some(Arc::clone(&tracepoint.id)), message }))
            }
        }
    }

    /// Tells the kernel side of types that it met and did not know, so that the next hit shows their values whole.
    fn learn(&mut self, tracepoint: u32, types: &[u64], code: &[u64]) {
        if types.is_empty() && code.is_empty() {
            return;
        }
        let Some(armed) = self.armed.get(&tracepoint) else { return };
        let Some(known) = self.images.get(armed.image.0) else { return };
        let Some(known_types) = known.image.types() else { return };
        let learnt = preload::learn(&mut self.registry, &known.image, known.index, known_types, types, code);
        if let Err(error) = learnt {
            tracing::warn!(%error, "types that were met in a hit are not followed");
        }
        if let Err(error) = self.kernel.upload(&self.registry.take_upload()) {
            tracing::warn!(%error, "types that were met in a hit can't be told to the kernel side");
        }
    }
}
