//! Which trace a hit is part of, where its own variables do not say it: that of the message which its goroutine is
//! handling. Pure; depends on the order of the stream alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use riptrace_common::wire::event::{Direction, Hit};
use serde::{Deserialize, Serialize};

/// Goroutines that are handling a message; of more, those that began first are forgotten.
const MAX_HANDLING: usize = 65_536;

/// A goroutine of a process of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Goroutine {
    boot_id: Arc<str>,
    pid: u32,
    start_ns: Option<u64>,
    goroutine: u64,
}

impl Goroutine {
    fn of(hit: &Hit) -> Option<Self> {
        Some(Self {
            boot_id: Arc::clone(&hit.boot_id),
            pid: hit.pid,
            start_ns: hit.process_start_ns,
            goroutine: hit.goroutine?,
        })
    }
}

/// What goroutines are handling.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct TraceIds {
    handling: HashMap<Goroutine, Handling>,
    /// In the order in which they began; some have ended.
    began: VecDeque<(u64, Goroutine)>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Handling {
    number: u64,
    traceparent: Arc<str>,
    trace_id: Arc<str>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Saved(Vec<(Goroutine, Arc<str>)>);

impl From<TraceIds> for Saved {
    fn from(ids: TraceIds) -> Self {
        let mut handling: Vec<_> = ids.handling.into_iter().collect();
        handling.sort_unstable_by_key(|(_, handling)| handling.number);
        Self(handling.into_iter().map(|(goroutine, handling)| (goroutine, handling.traceparent)).collect())
    }
}

impl From<Saved> for TraceIds {
    fn from(saved: Saved) -> Self {
        let mut ids = Self::default();
        for (goroutine, traceparent) in saved.0 {
            ids.begin(goroutine, &traceparent);
        }
        ids
    }
}

impl TraceIds {
    /// Learns from a hit, or gives it its trace id if it has none. Hits come in the stream's order.
    pub fn take(&mut self, hit: &mut Hit) {
        let Some(goroutine) = Goroutine::of(hit) else { return };
        match &hit.edge {
            Some(edge) if edge.direction == Direction::Receive => {
                let traceparent = Arc::clone(&edge.traceparent);
                self.begin(goroutine, &traceparent);
            }
            Some(edge) if edge.direction == Direction::ReplySend => {
                let is_its = self.handling.get(&goroutine);
                if is_its.is_some_and(|handling| handling.traceparent == edge.traceparent) {
                    self.handling.remove(&goroutine);
                }
            }
            _ if hit.trace_id.is_none() => {
                let handling = self.handling.get(&goroutine);
                hit.trace_id = handling.map(|handling| Arc::clone(&handling.trace_id));
            }
            _ => {}
        }
    }

    fn begin(&mut self, goroutine: Goroutine, traceparent: &Arc<str>) {
        let Some(trace_id) = trace_id(traceparent) else { return };
        self.next += 1;
        let handling = Handling {
            number: self.next,
            traceparent: Arc::clone(traceparent),
            trace_id: Arc::from(trace_id),
        };
        self.handling.insert(goroutine.clone(), handling);
        self.began.push_back((self.next, goroutine));
        while self.handling.len() > MAX_HANDLING || self.began.len() > 2 * MAX_HANDLING {
            let Some((number, goroutine)) = self.began.pop_front() else { return };
            if self.handling.get(&goroutine).is_some_and(|handling| handling.number == number) {
                self.handling.remove(&goroutine);
            }
        }
    }
}

/// The trace id of a `traceparent` (W3C Trace Context: `00-TRACE-PARENT-FLAGS`).
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_one = version.len() == 2
        && is_hex(version)
        && trace_id.len() == 32
        && is_hex(trace_id)
        && trace_id.bytes().any(|byte| byte != b'0');
    is_one.then_some(trace_id)
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::event::Edge;

    use super::*;
    use crate::collect::testing;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn edge(direction: Direction, traceparent: &str) -> Option<Edge> {
        Some(Edge { direction, traceparent: Arc::from(traceparent), protocol: Arc::from("http") })
    }

    fn take(ids: &mut TraceIds, goroutine: Option<u64>, edge: Option<Edge>) -> Option<String> {
        let mut hit = Hit { goroutine, edge, ..testing::hit("t", 1) };
        ids.take(&mut hit);
        hit.trace_id.map(|id| id.to_string())
    }

    #[test]
    fn a_goroutine_that_handles_a_message_is_part_of_its_trace() {
        let mut ids = TraceIds::default();
        assert_eq!(take(&mut ids, Some(7), None), None);
        take(&mut ids, Some(7), edge(Direction::Receive, PARENT));
        assert_eq!(take(&mut ids, Some(7), None).as_deref(), Some(TRACE));
        assert_eq!(take(&mut ids, Some(8), None), None);
        assert_eq!(take(&mut ids, None, None), None);
        // It sends on, and gets an answer: still the same.
        take(&mut ids, Some(7), edge(Direction::Send, PARENT));
        take(&mut ids, Some(7), edge(Direction::ReplyReceive, PARENT));
        let text = serde_json::to_string(&ids).unwrap();
        ids = serde_json::from_str(&text).unwrap();
        assert_eq!(take(&mut ids, Some(7), None).as_deref(), Some(TRACE));
        take(&mut ids, Some(7), edge(Direction::ReplySend, PARENT));
        assert_eq!(take(&mut ids, Some(7), None), None);
    }

    #[test]
    fn what_a_hit_says_itself_counts() {
        let mut ids = TraceIds::default();
        take(&mut ids, Some(7), edge(Direction::Receive, PARENT));
        let mut hit = Hit { goroutine: Some(7), trace_id: Some(Arc::from("own")), ..testing::hit("t", 1) };
        ids.take(&mut hit);
        assert_eq!(hit.trace_id.as_deref(), Some("own"));
    }

    #[test]
    fn what_is_no_traceparent_says_nothing() {
        for text in
            ["", "00", "00-", "00-abc-def-01", "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]
        {
            assert_eq!(trace_id(text), None, "{text}");
        }
        assert_eq!(trace_id("00-00000000000000000000000000000000-b7ad6b7169203331-01"), None);
    }

    #[test]
    fn there_is_a_bound() {
        let mut ids = TraceIds::default();
        for goroutine in 0..MAX_HANDLING as u64 + 10 {
            take(&mut ids, Some(goroutine), edge(Direction::Receive, PARENT));
        }
        assert_eq!(ids.handling.len(), MAX_HANDLING);
        assert_eq!(take(&mut ids, Some(0), None), None);
        for _ in 0..3 * MAX_HANDLING {
            take(&mut ids, Some(7), edge(Direction::Receive, PARENT));
        }
        assert!(ids.began.len() <= 2 * MAX_HANDLING);
    }
}
