//! Streams that follow each other, without a broker.

use std::path::Path;

use riptrace_common::{
    id::{AgentId, SessionId},
    wire::{
        clock::{Assigned, DomainClock},
        message,
    },
};

use super::*;
use crate::{collect::testing, store::Options};

fn resume(path: &Path) -> Indexer {
    let store = Store::open(path, Options::default()).unwrap();
    Indexer::resume(Arc::new(Fleet::new(Vec::new())), store, Subjects::default()).unwrap()
}

/// A batch with hits of these numbers.
fn batch(stream_seq: u64, seqs: std::ops::Range<u64>) -> Fetched {
    let events = seqs.clone().map(|seq| Event::Hit(Box::new(testing::hit("t", seq)))).collect();
    let agent = AgentId(testing::hit("t", 0).agent);
    let batch =
        Batch { host: "h".to_owned(), agent, boot_id: "boot".to_owned(), seq: seqs.start + 1, events };
    let payload = message::write(&batch).unwrap().into();
    Fetched { stream_seq, subject: "riptrace.v1.h.debugger.trace".to_owned(), payload }
}

/// A mark behind all hits, by the clock which is everybody's.
fn mark(stream_seq: u64, seq: u64) -> Fetched {
    let assigned =
        Assigned { offset_ns: 0, slope_ppb: 0, at_ktime_ns: 0, uncertainty_ns: 1, growth_ppb: 0, epoch: 1 };
    let clock =
        DomainClock { host: "h".to_owned(), boot_id: "boot".to_owned(), agent: AgentId::from("a"), assigned };
    let mark = OrderMark {
        server: "s".to_owned(),
        seq,
        clocks: vec![clock],
        watermark_ns: 1_000_000_000,
        silent: Vec::new(),
    };
    let payload = message::write(&mark).unwrap().into();
    Fetched { stream_seq, subject: "riptrace.v1._server.order".to_owned(), payload }
}

/// Hits of the session that are stored, and of these those with their final place.
fn stored(indexer: &Indexer) -> (u64, u64) {
    let counts = indexer.store.counts(&SessionId::from("s_1"));
    (counts.stored, counts.placed)
}

#[test]
fn hits_of_a_stream_that_is_gone_get_their_place_by_the_marks_of_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (_stopping, stop) = watch::channel(false);
    let mut indexer = resume(&path);
    assert_eq!((indexer.stream(), indexer.next()), (None, 1));
    assert!(indexer.begin(1000, false, &stop));
    indexer.take(&batch(1, 0..3));
    indexer.take(&mark(2, 1));
    indexer.take(&batch(3, 3..8));
    indexer.close(&stop);
    assert_eq!(stored(&indexer), (8, 3));
    drop(indexer);

    // The mark and the five behind it are read again from the stream, if it is there.
    let mut indexer = resume(&path);
    assert_eq!((indexer.stream(), indexer.next()), (Some(1000), 2));
    // It is not: the new one has their numbers for something else.
    assert!(indexer.begin(2000, true, &stop));
    // Killed in the same moment, it knows.
    drop(indexer);
    let mut indexer = resume(&path);
    assert_eq!((indexer.stream(), indexer.next()), (Some(2000), 1));
    indexer.take(&batch(1, 8..10));
    indexer.close(&stop);
    assert_eq!(stored(&indexer), (10, 3), "no mark came");
    drop(indexer);

    // Once more from the index, and from the new stream.
    let mut indexer = resume(&path);
    assert_eq!((indexer.stream(), indexer.next()), (Some(2000), 1));
    indexer.take(&batch(1, 8..10));
    indexer.take(&mark(2, 2));
    indexer.close(&stop);
    assert_eq!(stored(&indexer), (10, 10));
    let totals = indexer.store.totals();
    assert_eq!((totals.duplicates, totals.out_of_sequence, totals.provisional), (0, 0, 0));
    drop(indexer);
    assert_eq!(resume(&path).next(), 2, "the mark's message is read again, and what is behind it");
}

#[test]
fn an_index_that_does_not_know_its_stream_takes_the_one_there_is_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (_stopping, stop) = watch::channel(false);
    let mut indexer = resume(&path);
    indexer.take(&batch(1, 0..3));
    indexer.take(&mark(2, 1));
    indexer.close(&stop);
    let mut indexer = resume(&path);
    assert_eq!(indexer.stream(), None);
    assert!(indexer.begin(1000, false, &stop));
    indexer.take(&batch(3, 3..4));
    indexer.take(&mark(4, 2));
    indexer.close(&stop);
    assert_eq!(stored(&indexer), (4, 4));
}
