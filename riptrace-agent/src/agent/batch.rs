//! Events become batches: written once, as JSON, into the message that will carry them. Pure.

use riptrace_common::wire::{batch::MAX_BATCH_BYTES, event::Event, message::VERSION};

use crate::nats::publish::Parcel;

/// What closes a batch: its list of events, and itself.
const TAIL: &[u8] = b"]}";

/// Collects events until they are a batch.
#[derive(Debug)]
pub struct BatchWriter {
    agent: String,
    /// The message up to the batch's number.
    head: Vec<u8>,
    /// The batch's number.
    seq: u64,
    /// Its events, separated by commas.
    events: Vec<u8>,
    hits: u64,
    /// There are hits among them, or messages that were seen.
    has_hits: bool,
    /// Of the earliest hit that may be in it.
    from_ktime_ns: u64,
}

impl BatchWriter {
    /// Batches of one run of an agent.
    #[must_use]
    pub fn new(host: &str, agent: &str, boot_id: &str) -> Self {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let head = format!(
            "{{\"v\":{VERSION},\"host\":{},\"agent\":{},\"boot_id\":{},\"seq\":",
            text(host),
            text(agent),
            text(boot_id)
        );
        Self {
            agent: agent.to_owned(),
            head: head.into_bytes(),
            seq: 1,
            events: Vec::new(),
            hits: 0,
            has_hits: false,
            from_ktime_ns: u64::MAX,
        }
    }

    /// The number of the batch that is being collected.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Bytes of a batch beside its events.
    fn frame_bytes(&self) -> usize {
        // The number has 20 digits at the most.
        self.head.len() + 20 + ",\"events\":[".len() + TAIL.len()
    }

    /// Takes an event. Where it no longer fits, what was collected before is handed over; and hits do not share a batch with
    /// what became of tracepoints, which is not lost where there is no room for hits.
    pub fn add(&mut self, event: &Event) -> Option<Parcel> {
        let is_apart = match event {
            Event::Hit(_) => !self.has_hits,
            Event::Error(_) => false,
            _ => self.has_hits,
        };
        let apart = is_apart.then(|| self.finish()).flatten();
        let before = self.events.len();
        if before > 0 {
            self.events.push(b',');
        }
        let begin = self.events.len();
        if let Err(error) = serde_json::to_writer(&mut self.events, event) {
            // Values have no maps with keys that are no strings; nothing else can fail.
            tracing::error!(%error, "an event has no JSON form");
            self.events.truncate(before);
            return None;
        }
        let mut full = None;
        if before > 0 && self.events.len() + self.frame_bytes() > MAX_BATCH_BYTES {
            let latest = self.events.split_off(begin);
            self.events.truncate(before);
            full = self.finish();
            self.events = latest;
        }
        if let Event::Hit(hit) = event {
            self.has_hits = true;
            // A message that was seen is no hit of a tracepoint that somebody set.
            self.hits += u64::from(hit.edge.is_none());
            self.from_ktime_ns = self.from_ktime_ns.min(hit.ktime_ns);
        }
        apart.or(full)
    }

    /// Hands over what was collected, if there is anything.
    pub fn finish(&mut self) -> Option<Parcel> {
        if self.events.is_empty() {
            return None;
        }
        let seq = self.seq;
        let mut payload = Vec::with_capacity(self.frame_bytes() + self.events.len());
        payload.extend_from_slice(&self.head);
        payload.extend_from_slice(seq.to_string().as_bytes());
        payload.extend_from_slice(b",\"events\":[");
        payload.append(&mut self.events);
        payload.extend_from_slice(TAIL);
        let parcel = Parcel {
            seq,
            message_id: format!("{}:{seq}", self.agent),
            payload: payload.into(),
            hits: std::mem::take(&mut self.hits),
            is_word: !std::mem::take(&mut self.has_hits),
            from_ktime_ns: std::mem::replace(&mut self.from_ktime_ns, u64::MAX),
        };
        self.seq += 1;
        Some(parcel)
    }
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::{batch::Batch, event::ErrorEvent, message};

    use super::*;

    fn event(bytes: usize) -> Event {
        Event::Error(ErrorEvent { tracepoint: None, message: "x".repeat(bytes) })
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let mut writer = BatchWriter::new("node \"a\"", "a_1", "b");
        assert!(writer.finish().is_none());
        for _ in 0..3 {
            assert!(writer.add(&event(10)).is_none());
        }
        let parcel = writer.finish().unwrap();
        let batch: Batch = message::read(&parcel.payload).unwrap();
        assert_eq!((batch.host.as_str(), batch.seq, batch.events.len()), ("node \"a\"", 1, 3));
        assert_eq!(parcel.message_id, batch.message_id());
        assert!(writer.finish().is_none());
        writer.add(&event(1));
        assert_eq!(writer.finish().unwrap().seq, 2);
    }

    #[test]
    fn batches_stay_within_their_bound_unless_one_event_is_longer() {
        let mut writer = BatchWriter::new("h", "a", "b");
        let mut parcels = Vec::new();
        let sizes = [MAX_BATCH_BYTES / 2; 5].into_iter().chain([MAX_BATCH_BYTES * 2, 10, 10]);
        for size in sizes {
            parcels.extend(writer.add(&event(size)));
        }
        parcels.extend(writer.finish());
        let mut events = 0;
        for parcel in &parcels {
            let batch: Batch = message::read(&parcel.payload).unwrap();
            assert!(parcel.payload.len() <= MAX_BATCH_BYTES || batch.events.len() == 1);
            events += batch.events.len();
        }
        assert_eq!(events, 8);
        assert!(parcels.iter().zip(1..).all(|(parcel, seq)| parcel.seq == seq));
    }
}
