//! Channels: `runtime.hchan`, a ring buffer.

use riptrace_common::wire::{
    number::Address,
    value::{Limit, Truncated, Value},
};

use super::{
    memory::{Lack, View, Wanted},
    value::{Decoder, NESTING_ELEMS, check_length},
};
use crate::golang::types::TypeId;

impl<'a> Decoder<'a> {
    pub(super) fn chan(
        &mut self,
        elem: TypeId,
        header: TypeId,
        view: View<'a>,
        value: &mut Value,
    ) -> Result<(), Lack> {
        let address = view.u64(0)?;
        if address == 0 {
            value.nil = true;
            return Ok(());
        }
        value.addr = Some(Address(address));
        let hchan = self.object(header, address, view.origin, true)?;
        value.torn = hchan.origin.torn;
        let layout = self.get(header);
        let count = self.number(&layout, "qcount", hchan)?;
        let size = self.number(&layout, "dataqsiz", hchan)?;
        check_length(size)?;
        value.len = Some(count);
        value.cap = Some(size);
        if self.number(&layout, "closed", hchan).is_ok_and(|closed| closed != 0) {
            value.display = Some("closed".to_owned());
        }
        if count > size {
            value.torn = true;
            return Ok(());
        }
        if count == 0 {
            value.elems = Some(Vec::new());
            return Ok(());
        }
        let buffer = self.number(&layout, "buf", hchan)?;
        let oldest = self.number(&layout, "recvx", hchan)?;
        if oldest >= size {
            value.torn = true;
            return Err(Lack::BUDGET);
        }
        if self.is_redacted(elem) {
            return Err(Lack::REDACTED);
        }
        let elem_bytes = self.get(elem).bytes;
        let wanted = Wanted {
            address: buffer,
            type_index: self.type_index(elem),
            bytes: size.saturating_mul(elem_bytes),
            deeper: false,
        };
        let slots = self.memory.find(wanted, hchan.origin)?;
        if !self.budget.enter(NESTING_ELEMS) {
            return Err(Lack::Limit(Limit::MaxDepth));
        }
        let mut elems = Vec::new();
        // Elements up to the last one that was captured; one in between that was not keeps its place.
        let mut captured = 0;
        for index in 0..count.min(self.max_items()) {
            if self.budget.exhausted() {
                break;
            }
            let slot = (oldest + index) % size;
            let part = slots.part(slot.saturating_mul(elem_bytes), elem_bytes);
            if part.is_behind_end(elem_bytes) {
                elems.push(self.lacking(elem, Lack::BUDGET));
            } else {
                elems.push(self.value(elem, part));
                captured = elems.len();
            }
        }
        self.budget.leave(NESTING_ELEMS);
        let by = if self.budget.exhausted()
            || !slots.reaches(size.min(self.max_items()).saturating_mul(elem_bytes))
        {
            Limit::MaxBytes
        } else {
            Limit::MaxItems
        };
        elems.truncate(captured);
        if (captured as u64) < count {
            value.truncated = Some(Truncated { by, captured: captured as u64 });
        }
        value.elems = Some(elems);
        Ok(())
    }
}
