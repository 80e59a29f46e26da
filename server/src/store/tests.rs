//! The store by data.

use std::sync::Arc;

use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Finality, HitQuery, Live},
        event::{Certificate, Hit, Stats},
    },
};
use tempfile::TempDir;

use super::{testing::hit, *};
use crate::order::{DomainId, Moment};

struct Fixture {
    folder: TempDir,
    options: Options,
    store: Store,
}

impl Fixture {
    fn new(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("hits.db"), options.clone()).unwrap();
        Self { folder, options, store }
    }

    /// As after a kill: what was not committed is gone.
    fn reopen(&mut self) {
        self.store = Store::open(&self.folder.path().join("hits.db"), self.options.clone()).unwrap();
    }
}

fn s() -> SessionId {
    SessionId::from("s")
}

fn incoming(stream_seq: u64, hits: impl IntoIterator<Item = Hit>) -> Vec<Incoming> {
    let service = Arc::from("orders");
    let of = |(index, hit)| Incoming { stream_seq, index, service: Arc::clone(&service), hit };
    hits.into_iter().enumerate().map(of).collect()
}

fn batch(stream_seq: u64, seqs: std::ops::Range<u64>) -> Vec<Incoming> {
    incoming(stream_seq, seqs.map(|seq| hit("t", seq)))
}

fn place(arrivals: impl IntoIterator<Item = u64>, first: u64) -> Vec<Placement> {
    let of = |(rank, arrival)| Placement {
        arrival,
        order: rank,
        place: (rank * 100, 0, rank),
        late: false,
        evidence: evidence(arrival),
    };
    (first..).zip(arrivals).map(of).collect()
}

/// Of a hit of the one host; goroutines take turns.
fn evidence(arrival: u64) -> Evidence {
    Evidence {
        domain: DomainId(1),
        moment: Moment { ktime_ns: arrival, cpu: 0, cpu_seq: arrival },
        process: 1,
        goroutine: None,
        started: None,
        received: None,
        interval: None,
        frontier: Arc::from([]),
    }
}

fn arrivals(taken: &[Taken]) -> Vec<u64> {
    taken
        .iter()
        .filter_map(|taken| if let Taken::New(arrival) = taken { Some(*arrival) } else { None })
        .collect()
}

fn seqs(store: &Store, query: &HitQuery) -> Vec<u64> {
    let mut query = query.clone();
    let mut seqs = Vec::new();
    loop {
        let page = store.hits(&s(), &query).unwrap();
        seqs.extend(page.hits.iter().map(|stored| stored.hit.seq));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return seqs,
        }
    }
}

#[test]
fn a_hit_is_stored_once_whatever_comes_how_often() {
    let mut fixture = Fixture::new(Options::default());
    let first = fixture.store.ingest(&batch(5, 0..10));
    assert_eq!(arrivals(&first), (0..10).map(|index| arrival(5, index)).collect::<Vec<_>>());
    fixture.store.commit(5, Some(b"state")).unwrap();
    // The same hits in another message, and a few new ones.
    let second = fixture.store.ingest(&batch(6, 5..12));
    assert_eq!(second[..5], [Taken::Duplicate; 5]);
    assert_eq!(arrivals(&second).len(), 2);
    fixture.store.commit(6, None).unwrap();
    // A restart goes on at the snapshot and reads the second message again.
    fixture.reopen();
    assert_eq!(
        fixture.store.resume().unwrap(),
        Resume { position: 5, snapshot: Some(b"state".to_vec()), stream: None }
    );
    let again = fixture.store.ingest(&batch(6, 5..12));
    assert_eq!(again[..5], [Taken::Duplicate; 5]);
    assert_eq!(again[5..], [Taken::Replayed(arrival(6, 5)), Taken::Replayed(arrival(6, 6))]);
    fixture.store.commit(6, None).unwrap();
    let counts = fixture.store.counts(&s());
    assert_eq!((counts.stored, counts.tracepoints[0].stored, counts.tracepoints[0].missing), (12, 12, 0));
    assert_eq!(seqs(&fixture.store, &HitQuery::default()), (0..12).collect::<Vec<_>>());
}

#[test]
fn what_was_not_committed_comes_again_from_the_stream() {
    let mut fixture = Fixture::new(Options::default());
    fixture.store.ingest(&batch(1, 0..3));
    fixture.store.commit(1, Some(b"")).unwrap();
    let lost = fixture.store.ingest(&batch(2, 3..6));
    fixture.store.place(&place(arrivals(&lost), 1));
    fixture.reopen();
    assert_eq!(fixture.store.counts(&s()).stored, 3);
    assert_eq!(arrivals(&fixture.store.ingest(&batch(2, 3..6))), arrivals(&lost));
    fixture.store.commit(2, None).unwrap();
    assert_eq!(fixture.store.counts(&s()).stored, 6);
}

#[test]
fn hits_are_shown_in_their_order_the_provisional_ones_behind_by_time() {
    let mut fixture = Fixture::new(Options::default());
    let taken = arrivals(&fixture.store.ingest(&batch(1, 0..600)));
    fixture.store.commit(1, None).unwrap();
    // The order is another one than that of arrival; the last ones have no place yet.
    let order: Vec<u64> = taken[..500].chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    for (at, part) in order.chunks(70).enumerate() {
        fixture.store.place(&place(part.iter().copied(), at as u64 * 70 + 1));
        fixture.store.commit(1, None).unwrap();
    }
    for _ in 0..2 {
        for limit in [1, 7, 256, 2000] {
            let seqs = seqs(&fixture.store, &HitQuery { limit: Some(limit), ..HitQuery::default() });
            let swapped = (0..500).map(|n| n ^ 1);
            assert_eq!(seqs, swapped.chain(500..600).collect::<Vec<_>>(), "{limit}");
        }
        let page = fixture.store.hits(&s(), &HitQuery { limit: Some(2000), ..HitQuery::default() }).unwrap();
        for (stored, at) in page.hits.iter().zip(0_u64..) {
            let finality = if at < 500 { Finality::Final } else { Finality::Provisional };
            assert_eq!(stored.finality, finality);
            assert_eq!(stored.hit.order, (at < 500).then_some(at + 1));
            assert_eq!(stored.hit.certificate.is_some(), at > 0);
            assert_eq!(stored.service, "orders");
        }
        let counts = fixture.store.counts(&s());
        assert_eq!((counts.stored, counts.placed, counts.late), (600, 500, 0));
        fixture.reopen();
    }
    // Places go on where they were.
    fixture.store.place(&place(taken[500..].iter().copied(), 501));
    fixture.store.place(&place(taken.iter().copied(), 9000));
    fixture.store.commit(2, None).unwrap();
    let page = fixture.store.hits(&s(), &HitQuery { limit: Some(2000), ..HitQuery::default() }).unwrap();
    assert_eq!(page.hits.last().unwrap().hit.order, Some(600));
    assert!(page.hits.iter().all(|stored| stored.finality == Finality::Final));
}

#[test]
fn pages_are_the_same_while_hits_come_in() {
    let fixture = Fixture::new(Options::default());
    let mut rank = 1;
    let mut add = |message: u64| {
        let taken = arrivals(&fixture.store.ingest(&batch(message + 1, message * 50..(message + 1) * 50)));
        fixture.store.place(&place(taken, rank));
        rank += 50;
        fixture.store.commit(message + 1, None).unwrap();
    };
    (0..10).for_each(&mut add);
    let mut query = HitQuery { limit: Some(33), ..HitQuery::default() };
    let mut seen = Vec::new();
    for message in 10..20 {
        let page = fixture.store.hits(&s(), &query).unwrap();
        seen.extend(page.hits.iter().map(|stored| stored.hit.order.unwrap()));
        query.after = page.next;
        add(message);
    }
    assert_eq!(seen, (1..=330).collect::<Vec<_>>());
}

#[test]
fn a_late_hit_stands_at_its_place() {
    let mut fixture = Fixture::new(Options::default());
    let taken = arrivals(&fixture.store.ingest(&batch(1, 0..2000)));
    fixture.store.place(&place(taken[..1000].iter().copied(), 1));
    fixture.store.commit(1, None).unwrap();
    let late = |arrival: u64, at: u64| Placement {
        arrival,
        order: 5000,
        place: (at, 1 << 63, 10_000 + arrival),
        late: true,
        evidence: evidence(arrival),
    };
    // Behind the third, many behind the tenth, before all, behind all.
    let mut lates = vec![late(taken[1000], 350), late(taken[1001], 50), late(taken[1002], 1_000_000)];
    lates.extend(taken[1003..1900].iter().map(|arrival| late(*arrival, 1050)));
    fixture.store.place(&lates);
    fixture.store.commit(2, None).unwrap();
    for _ in 0..2 {
        let page = seqs(&fixture.store, &HitQuery { limit: Some(100), ..HitQuery::default() });
        let mut expect = vec![1001, 0, 1, 2, 1000];
        expect.extend(3..10);
        expect.extend(1003..1900);
        expect.extend(10..1000);
        expect.push(1002);
        expect.extend(1900..2000);
        assert_eq!(page, expect);
        let page = fixture.store.hits(&s(), &HitQuery { limit: Some(6), ..HitQuery::default() }).unwrap();
        let orders: Vec<_> =
            page.hits.iter().map(|stored| (stored.hit.order.unwrap(), stored.hit.late)).collect();
        assert_eq!(orders, [(5000, true), (1, false), (2, false), (3, false), (5000, true), (4, false)]);
        assert_eq!(fixture.store.counts(&s()).late, 900);
        fixture.reopen();
    }
}

#[test]
fn filters_find_what_they_say() {
    for full_text in [true, false] {
        let mut fixture = Fixture::new(Options { full_text, ..Options::default() });
        let value = |text: &str| {
            serde_json::json!([{"name":"o","role":"local","value":{"kind":"struct","fields":[
            {"name":"SKU","value":{"kind":"string","value":text}}]}}])
        };
        let hits = (0..1000).map(|seq| {
            let mut hit = hit(if seq % 10 == 0 { "t_b" } else { "t" }, seq);
            hit.host = Arc::from(if seq % 2 == 0 { "node-a" } else { "node-b" });
            hit.goroutine = Some(seq % 100);
            hit.trace_id = (seq % 4 == 0).then(|| Arc::from(format!("{:032x}", 1 + seq / 40)));
            hit.location.line = 40 + u32::try_from(seq % 3).unwrap();
            hit.location.file =
                Arc::from(if seq < 500 { "/src/orders/handler.go" } else { "/src/stock/stock.go" });
            hit.variables = serde_json::from_value(value(&format!("w-{seq}"))).unwrap();
            hit
        });
        let taken = arrivals(&fixture.store.ingest(&incoming(1, hits)));
        fixture.store.place(&place(taken[..900].iter().copied(), 1));
        fixture.store.commit(1, None).unwrap();
        let none = HitQuery::default;
        let some = |text: &str| Some(text.to_owned());
        for _ in 0..2 {
            for (query, expect) in [
                (HitQuery { host: some("node-b"), ..none() }, (0..1000).filter(|n| n % 2 == 1).collect()),
                (HitQuery { host: some("node-c"), ..none() }, vec![]),
                (
                    HitQuery { service: some("orders"), line: Some(41), ..none() },
                    (0..1000).filter(|n| n % 3 == 1).collect(),
                ),
                (HitQuery { service: some("payments"), ..none() }, vec![]),
                (HitQuery { file: some("stock.go"), ..none() }, (500..1000).collect()),
                (HitQuery { file: some("ock.go"), ..none() }, vec![]),
                (HitQuery { file: some("orders/handler.go"), ..none() }, (0..500).collect()),
                (HitQuery { tracepoint: some("t_b"), ..none() }, (0..1000).filter(|n| n % 10 == 0).collect()),
                (HitQuery { goroutine: Some(7), ..none() }, (0..1000).filter(|n| n % 100 == 7).collect()),
                (
                    HitQuery { trace_id: Some(format!("{:032x}", 25)), ..none() },
                    (960..1000).step_by(4).collect(),
                ),
                (HitQuery { path: some("o.SKU"), value: some("w-77"), ..none() }, vec![77]),
                (HitQuery { path: some("o.sku"), value: some("w-77"), ..none() }, vec![]),
                (HitQuery { value: some("w-977"), ..none() }, vec![977]),
                (
                    HitQuery { path: some("o"), goroutine: Some(3), host: some("node-b"), ..none() },
                    (0..1000).filter(|n| n % 100 == 3).collect(),
                ),
                (HitQuery { text: some("W 950"), ..none() }, vec![950]),
                (HitQuery { text: some("sku 95*"), ..none() }, [vec![95], (950..960).collect()].concat()),
                (HitQuery { text: some("nowhere"), ..none() }, vec![]),
                (HitQuery { text: some("\" OR 1 --"), ..none() }, vec![]),
            ] {
                for limit in [3, 2000] {
                    let query = HitQuery { limit: Some(limit), ..query.clone() };
                    assert_eq!(seqs(&fixture.store, &query), expect, "{query:?}");
                }
            }
            fixture.reopen();
        }
        let bad = fixture.store.hits(&s(), &HitQuery { after: some("x"), ..none() });
        assert!(matches!(bad, Err(StoreError::Cursor { .. })), "{bad:?}");
    }
}

#[test]
fn a_certificate_is_about_the_hit_before_in_the_same_answer() {
    let fixture = Fixture::new(Options::default());
    let hits = (0..6).map(|seq| {
        let mut hit = hit("t", seq);
        hit.goroutine = Some(seq % 2);
        hit
    });
    let taken = arrivals(&fixture.store.ingest(&incoming(1, hits)));
    fixture.store.place(&place(taken, 1));
    fixture.store.commit(1, None).unwrap();
    let certificates = |query: HitQuery| -> Vec<_> {
        let page = fixture.store.hits(&s(), &query).unwrap();
        page.hits.iter().map(|stored| stored.hit.certificate).collect()
    };
    assert_eq!(certificates(HitQuery::default())[..2], [None, Some(Certificate::SameHost)]);
    let one = HitQuery { goroutine: Some(1), ..HitQuery::default() };
    assert_eq!(certificates(one.clone())[1..], [Some(Certificate::SameGoroutine); 2]);
    // Over the end of a page too.
    let first = fixture.store.hits(&s(), &HitQuery { limit: Some(1), ..one.clone() }).unwrap();
    let next = HitQuery { after: first.next, ..one };
    assert_eq!(certificates(next), [Some(Certificate::SameGoroutine); 2]);
}

#[test]
fn who_follows_gets_each_hit_once_and_each_place_once() {
    let mut fixture = Fixture::new(Options::default());
    let mut cursor = Cursor::default();
    let (mut came, mut became_final) = (Vec::new(), Vec::new());
    let mut all = Vec::new();
    for step in 0..12_u64 {
        let taken = arrivals(&fixture.store.ingest(&batch(step + 1, step * 40..(step + 1) * 40)));
        all.extend(taken);
        // Places follow a step behind, all but each twentieth, which come late.
        if step > 0 {
            let ready: Vec<u64> = all[(step as usize - 1) * 40..step as usize * 40].to_vec();
            let on_time = ready.iter().copied().filter(|arrival| arrival % 20 != 3);
            fixture.store.place(&place(on_time, step * 40 + 1));
            let late = ready.iter().filter(|arrival| *arrival % 20 == 3).map(|arrival| Placement {
                arrival: *arrival,
                order: 1,
                place: (150 + *arrival, 5, 1_000_000 + *arrival),
                late: true,
                evidence: evidence(*arrival),
            });
            fixture.store.place(&late.collect::<Vec<_>>());
        }
        fixture.store.commit(step + 1, None).unwrap();
        if step == 6 {
            fixture.reopen();
        }
        loop {
            let live = fixture.store.live(&s(), cursor, 7).unwrap();
            for (next, event) in live.events {
                cursor = fixture.store.live_cursor(&s(), &next.to_string()).unwrap();
                match event {
                    Live::Hit(stored) => came.push(stored.hit.seq),
                    Live::Final(stored) => {
                        assert!(came.contains(&stored.hit.seq));
                        became_final.push(stored.hit.seq);
                    }
                    other => panic!("{other:?}"),
                }
            }
            if !live.more {
                break;
            }
        }
    }
    assert_eq!(came, (0..480).collect::<Vec<_>>());
    became_final.sort_unstable();
    assert_eq!(became_final, (0..440).collect::<Vec<_>>());
    let live = fixture.store.live(&s(), fixture.store.live_from_now(&s()).unwrap(), 10).unwrap();
    assert!(live.events.is_empty());
    let page = fixture.store.hits(&s(), &HitQuery::default()).unwrap();
    assert_eq!(page.live, Some(cursor.to_string()));
    // From an arrival alone.
    let from = fixture.store.live_cursor(&s(), &all[459].to_string()).unwrap();
    let live = fixture.store.live(&s(), from, 1000).unwrap();
    assert_eq!(live.events.len(), 20);
    assert!(matches!(fixture.store.live_cursor(&s(), "1.x"), Err(StoreError::Cursor { .. })));
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let fixture = Fixture::new(Options { max_pages: Some(60), ..Options::default() });
    let mut failed = None;
    for message in 0..40 {
        let hits = (message * 100..(message + 1) * 100).map(|seq| {
            let mut hit = hit("t", seq);
            // What can't be compressed.
            hit.message =
                Some((0..40).map(|n| format!("{:x}", hash::hash(&(seq * 100 + n).to_le_bytes()))).collect());
            hit
        });
        let taken = arrivals(&fixture.store.ingest(&incoming(message + 1, hits)));
        fixture.store.place(&place(taken, message * 100 + 1));
        if let Err(error) = fixture.store.commit(message + 1, Some(b"x")) {
            assert!(matches!(error, StoreError::Full { .. }), "{error}");
            assert!(error.to_string().contains("no space"), "{error}");
            failed.get_or_insert(message);
        }
    }
    let failed = failed.unwrap();
    assert!(fixture.store.totals().problem.is_some());
    assert_eq!(
        seqs(&fixture.store, &HitQuery::default()).len() as u64,
        failed * 100,
        "what was written can be read"
    );
    fixture.store.writer().connection.pragma_update(None, "max_page_count", 100_000).unwrap();
    fixture.store.commit(40, Some(b"y")).unwrap();
    assert_eq!(fixture.store.totals().problem, None);
    assert_eq!(seqs(&fixture.store, &HitQuery::default()), (0..4000).collect::<Vec<_>>());
}

#[test]
fn the_oldest_go_when_the_file_is_too_large_or_they_are_too_old() {
    for options in [
        Options { max_bytes: Some(400_000), ..Options::default() },
        Options { max_age: Some(Duration::from_nanos(1)), ..Options::default() },
    ] {
        let mut fixture = Fixture::new(options.clone());
        for message in 0..60_u64 {
            let taken = arrivals(&fixture.store.ingest(&incoming(
                message + 1,
                (message * 100..(message + 1) * 100).map(|seq| {
                    let mut hit = hit("t", seq);
                    hit.message = Some(
                        (0..10)
                            .map(|n| format!("{:x}", hash::hash(&(seq * 100 + n).to_le_bytes())))
                            .collect(),
                    );
                    hit
                }),
            )));
            fixture.store.place(&place(taken, message * 100 + 1));
            fixture.store.commit(message + 1, None).unwrap();
        }
        let removed = fixture.store.retain().unwrap();
        assert!(removed.hits > 0);
        if let Some(max_bytes) = options.max_bytes {
            assert!(fixture.store.totals().bytes <= max_bytes);
        }
        for _ in 0..2 {
            let left = seqs(&fixture.store, &HitQuery::default());
            assert_eq!(left, (removed.hits..6000).collect::<Vec<_>>());
            let counts = fixture.store.counts(&s());
            assert_eq!((counts.stored, counts.expired), (6000, removed.hits));
            fixture.reopen();
        }
        let more = arrivals(&fixture.store.ingest(&batch(100, 6000..6001)));
        fixture.store.place(&place(more, 6001));
        fixture.store.commit(100, None).unwrap();
        let page = fixture.store.hits(&s(), &HitQuery { limit: Some(2000), ..HitQuery::default() }).unwrap();
        assert!(page.hits.iter().all(|stored| stored.hit.order == Some(stored.hit.seq + 1)));
    }
}

#[test]
fn a_deleted_session_is_gone_and_the_others_are_not() {
    let mut fixture = Fixture::new(Options::default());
    let other = SessionId::from("other");
    fixture.store.ingest(&batch(1, 0..300));
    fixture.store.ingest(&incoming(
        2,
        (0..300).map(|seq| {
            let mut hit = hit("u", seq);
            hit.session = Some(Arc::from("other"));
            hit
        }),
    ));
    fixture.store.commit(2, None).unwrap();
    fixture.store.delete_session(&s()).unwrap();
    for _ in 0..2 {
        assert_eq!(seqs(&fixture.store, &HitQuery::default()), [0; 0]);
        assert_eq!(fixture.store.counts(&s()).stored, 0);
        assert_eq!(fixture.store.counts(&other).stored, 300);
        fixture.reopen();
    }
    assert_eq!(fixture.store.ingest(&batch(1, 0..2)), [Taken::Duplicate; 2]);
    fixture.store.ingest(&batch(3, 300..301));
    fixture.store.commit(3, None).unwrap();
    assert_eq!(seqs(&fixture.store, &HitQuery::default()), [300]);
}

#[test]
fn a_hit_of_a_message_that_is_older_than_what_is_stored_is_counted() {
    let fixture = Fixture::new(Options::default());
    fixture.store.ingest(&batch(9, 0..3));
    fixture.store.ingest(&batch(1, 3..5));
    fixture.store.commit(9, None).unwrap();
    assert_eq!(fixture.store.totals().out_of_sequence, 2);
    assert_eq!(fixture.store.counts(&s()).stored, 3);
}

#[test]
fn batches_hits_and_counters_are_accounted_for() {
    let mut fixture = Fixture::new(Options::default());
    let agent = AgentId::from("a_1");
    fixture.store.batches([1, 2, 5].map(|seq| (&agent, "node-a", seq)));
    fixture.store.ingest(&batch(1, 2..4));
    let stats = Stats { tracepoint: Arc::from("t"), hits: 9, emitted: 4, dropped: 5, ..Stats::default() };
    let host = Arc::from("node-a");
    fixture.store.stats(&[HostStats { host, agent, session: Some(s()), stats: stats.clone() }]);
    let mut foreign = hit("client", 0);
    foreign.session = None;
    fixture.store.ingest(&incoming(2, [foreign]));
    fixture.store.commit(2, None).unwrap();
    for _ in 0..2 {
        let agents = fixture.store.agents();
        assert_eq!((agents[0].batches, agents[0].batches_missing), (3, 2));
        let counts = fixture.store.counts(&s());
        let [tracepoint] = counts.tracepoints.as_slice() else { panic!("{counts:?}") };
        assert_eq!((tracepoint.stored, tracepoint.missing), (2, 2));
        assert_eq!(tracepoint.stats.as_ref(), Some(&stats));
        assert_eq!(fixture.store.totals().foreign, 1);
        fixture.reopen();
    }
}

#[test]
fn a_file_of_something_else_or_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hits.db");
    std::fs::write(&path, "hello, this is no database at all, and it is long enough to be looked at")
        .unwrap();
    let error = Store::open(&path, Options::default()).unwrap_err();
    assert!(error.to_string().contains("delete the file"), "{error}");
    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&path, Options::default()).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}
