//! What a message of the stream says. Pure.

use riptrace_common::wire::{
    batch::Batch,
    clock::OrderMark,
    event::Event,
    message,
    subject::{Endpoint, Parsed, Subjects},
};

use crate::store::MAX_HITS_PER_BATCH;

/// A message.
#[derive(Debug)]
pub enum Decoded {
    /// Of an agent.
    Batch(Box<Batch>),
    /// Of the holder of the lease.
    Mark(Box<OrderMark>),
}

/// Reads a message; `Err`: why it is none.
///
/// # Errors
///
/// Its subject, its version or its fields are wrong.
pub fn decode(subjects: &Subjects, subject: &str, payload: &[u8]) -> Result<Decoded, String> {
    match subjects.parse(subject) {
        Some(Parsed::ServerOrder) => {
            let mark = message::read(payload).map_err(|error| format!("a mark of order: {error}"))?;
            Ok(Decoded::Mark(Box::new(mark)))
        }
        Some(Parsed::Agent { host, endpoint: Endpoint::Trace }) => {
            let batch = read_batch(payload).map_err(|error| format!("a batch of {host:?}: {error}"))?;
            check(&batch, &host).map_err(|error| format!("a batch of {host:?}: {error}"))?;
            Ok(Decoded::Batch(Box::new(batch)))
        }
        _ => Err(format!("a message with the subject {subject:?}")),
    }
}

/// The version stands first in what our agents write; then it need not be looked for, and the batch is read without being
/// taken apart twice.
fn read_batch(payload: &[u8]) -> Result<Batch, String> {
    const BEGIN: &[u8] = b"{\"v\":1,";
    if payload.starts_with(BEGIN)
        && let Ok(batch) = serde_json::from_slice(payload)
    {
        return Ok(batch);
    }
    message::read(payload).map_err(|error| error.text)
}

fn check(batch: &Batch, host: &str) -> Result<(), String> {
    if batch.host != host {
        return Err(format!("it says it is of {:?}", batch.host));
    }
    if batch.events.len() > MAX_HITS_PER_BATCH {
        return Err(format!("{} events; at most {MAX_HITS_PER_BATCH} are taken", batch.events.len()));
    }
    let foreign = batch.events.iter().find_map(|event| match event {
        Event::Hit(hit) if *hit.agent != *batch.agent.0 || *hit.host != *batch.host => Some(hit),
        _ => None,
    });
    match foreign {
        Some(hit) => Err(format!("a hit in it is of {:?} of {:?}", hit.agent, hit.host)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use riptrace_common::id::AgentId;

    use super::*;
    use crate::collect::testing;

    fn batch() -> Batch {
        Batch {
            host: "h".to_owned(),
            agent: AgentId::from("a_1"),
            boot_id: "boot".to_owned(),
            seq: 1,
            events: vec![Event::Hit(Box::new(testing::hit("t", 1)))],
        }
    }

    fn read(subject: &str, payload: &[u8]) -> Result<Decoded, String> {
        decode(&Subjects::default(), subject, payload)
    }

    #[test]
    fn batches_and_marks_are_read_wherever_the_version_stands() {
        let text = message::write(&batch()).unwrap();
        let Decoded::Batch(read_back) = read("riptrace.v1.h.debugger.trace", &text).unwrap() else {
            panic!()
        };
        assert_eq!(*read_back, batch());
        let mut fields: serde_json::Map<_, _> = serde_json::from_slice(&text).unwrap();
        let version = fields.remove("v").unwrap();
        fields.insert("v".to_owned(), version);
        let text = serde_json::to_vec(&fields).unwrap();
        assert!(matches!(read("riptrace.v1.h.debugger.trace", &text), Ok(Decoded::Batch(_))));
        let mark = OrderMark {
            server: "s".to_owned(),
            seq: 1,
            clocks: Vec::new(),
            watermark_ns: 7,
            silent: Vec::new(),
        };
        let text = message::write(&mark).unwrap();
        assert!(matches!(read("riptrace.v1._server.order", &text), Ok(Decoded::Mark(_))));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = message::write(&batch()).unwrap();
        let other_host = message::write(&Batch { host: "other".to_owned(), ..batch() }).unwrap();
        let other_agent = message::write(&Batch { agent: AgentId::from("a_2"), ..batch() }).unwrap();
        let many = Batch { events: vec![batch().events.remove(0); MAX_HITS_PER_BATCH + 1], ..batch() };
        let many = message::write(&many).unwrap();
        for (subject, payload, word) in [
            ("riptrace.v1.h.debugger.trace", &b""[..], "JSON"),
            ("riptrace.v1.h.debugger.trace", b"\xff\x00", "JSON"),
            ("riptrace.v1.h.debugger.trace", b"{\"v\":1}", "fields"),
            ("riptrace.v1.h.debugger.trace", b"{\"v\":2}", "version"),
            ("riptrace.v1.h.debugger.trace", &other_host, "other"),
            ("riptrace.v1.h.debugger.trace", &other_agent, "a_1"),
            ("riptrace.v1.h.debugger.trace", &many, "events"),
            ("riptrace.v1.h.heartbeat", &text, "subject"),
            ("riptrace.v1._server.order", b"{\"v\":1}", "mark"),
        ] {
            let error = read(subject, payload).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
