//! Writes a session as an evidence file ([`riptrace_common::wire::evidence`]), straight from the store.

use std::ops::ControlFlow;

use riptrace_common::wire::{
    api::{ClockState, EvidenceHeader, SessionStatus, StoredHit},
    evidence::{EVIDENCE_VERSION, FORMAT},
};
use serde::Serialize;

use crate::store::{Store, StoreError, now_ns};

/// Bytes that are handed over at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Writes a session, in pieces of some ten kilobytes; ends early when a piece is not taken. Reads the disk: not for a task
/// that others wait for.
///
/// # Errors
///
/// The store can't be read. What was written until then is no whole file, which its reader tells by the number of hits.
pub fn write(
    store: &Store,
    status: SessionStatus,
    clocks: ClockState,
    take: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let session = status.session.id.clone();
    let chunk = std::cell::RefCell::new(Vec::with_capacity(CHUNK_BYTES));
    let begin = |hits| {
        let header = EvidenceHeader {
            format: FORMAT.to_owned(),
            version: EVIDENCE_VERSION,
            exported_ns: now_ns(),
            status,
            clocks,
            hits,
        };
        line(&mut chunk.borrow_mut(), &header);
        ControlFlow::Continue(())
    };
    let each = |stored: StoredHit| {
        let mut chunk = chunk.borrow_mut();
        line(&mut chunk, &stored);
        if chunk.len() < CHUNK_BYTES {
            return ControlFlow::Continue(());
        }
        take(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES)))
    };
    store.export(&session, begin, each)?;
    let _ = take(chunk.into_inner());
    Ok(())
}

fn line(out: &mut Vec<u8>, value: &impl Serialize) {
    // These types have a JSON form, and memory takes all of it.
    let _ = serde_json::to_writer(&mut *out, value);
    out.push(b'\n');
}
