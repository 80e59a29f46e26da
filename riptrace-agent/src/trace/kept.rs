//! What the ends of calls show of their entries: the entry's hit has it, and comes first.

use std::collections::BTreeMap;

use riptrace_common::{abi::limits::MAX_OPEN_CALLS, wire::value::Value};

use crate::fast_map::FastMap;

/// Calls that are open at once; the kernel side follows no more.
const MAX_CALLS: usize = MAX_OPEN_CALLS as usize;
/// Bytes of the records whose values are kept.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// A call: its tracepoint, and the number of its entry's hit.
type Call = (u32, u64);

/// Values of entries whose calls are open. The oldest are given up when there are too many: their calls never end, or
/// their ends were lost.
#[derive(Debug, Default)]
pub(super) struct KeptOfCalls {
    calls: FastMap<Call, Kept>,
    /// The oldest first.
    by_age: BTreeMap<u64, Call>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    age: u64,
    bytes: usize,
    values: Vec<Value>,
}

impl KeptOfCalls {
    /// Keeps what was read when a call began, from a record of so many bytes.
    pub(super) fn put(&mut self, call: Call, values: Vec<Value>, bytes: usize) {
        self.take(call);
        let age = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.by_age.insert(age, call);
        self.calls.insert(call, Kept { age, bytes, values });
        while (self.calls.len() > MAX_CALLS || self.bytes > MAX_BYTES)
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            let oldest = *oldest;
            self.take(oldest);
        }
    }

    /// The call ended.
    pub(super) fn take(&mut self, call: Call) -> Option<Vec<Value>> {
        let kept = self.calls.remove(&call)?;
        self.by_age.remove(&kept.age);
        self.bytes -= kept.bytes;
        Some(kept.values)
    }

    /// The tracepoint is gone.
    pub(super) fn forget(&mut self, tracepoint: u32) {
        let of_it: Vec<Call> = self.calls.keys().filter(|call| call.0 == tracepoint).copied().collect();
        for call in of_it {
            self.take(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_s_values_are_there_once_and_the_oldest_give_way() {
        let mut kept = KeptOfCalls::default();
        let values = |nil| vec![Value { nil, ..Value::default() }];
        kept.put((1, 1), values(true), 100);
        kept.put((2, 1), values(false), 100);
        assert_eq!(kept.take((1, 1)), Some(values(true)));
        assert_eq!(kept.take((1, 1)), None);
        kept.put((1, 2), values(true), MAX_BYTES / 2);
        kept.put((1, 3), values(true), MAX_BYTES / 2);
        assert_eq!((kept.take((2, 1)), kept.take((1, 2))), (None, Some(values(true))));
        kept.forget(1);
        assert_eq!((kept.take((1, 3)), kept.bytes, kept.by_age.len()), (None, 0, 0));
        for seq in 0..=MAX_CALLS as u64 {
            kept.put((3, seq), Vec::new(), 1);
        }
        assert_eq!((kept.take((3, 0)), kept.take((3, 1))), (None, Some(Vec::new())));
    }
}
