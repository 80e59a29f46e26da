//! What a hit costs from the bytes of a message to the store: reading, ordering, storing. Processor time of the one thread
//! that does it, so that other load changes little; the minimum of some rounds.
//!
//! `cargo bench -p riptrace-server --bench store [-- [--json] HITS]`; `--json`: only what `cargo xtask bench fleet` takes.

#![recursion_limit = "256"]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use riptrace_common::{
    id::{AgentId, SessionId},
    wire::{
        api::HitQuery,
        batch::Batch,
        clock::{Assigned, DomainClock, OrderMark},
        event::{Event, Hit},
        message,
    },
};
use riptrace_server::{
    order::{HitMeta, Limits, Sequencer},
    store::{self, Incoming, Options, Placement, Store, Taken},
};

const HOSTS: u64 = 4;
const HITS_PER_BATCH: u64 = 200;
/// Batches between two commits: as many as come within some milliseconds at full load.
const BATCHES_PER_COMMIT: usize = 20;
const ROUNDS: usize = 3;

/// A hit with five variables of usual types.
fn hit(host: u64, seq: u64) -> Hit {
    let n = host * 1_000_003 + seq * 7919;
    let hit = serde_json::json!({
        "session": "s_01jd3k5m8q", "tracepoint": "t_01jd3k5m9r", "seq": seq, "host": format!("node-{host}"),
        "boot_id": format!("b3b6e1d2-6c55-4a3e-9a53-00000000000{host}"), "agent": format!("a_01jd3k{host}"),
        "pid": 4242, "process_start_ns": 77_000_000, "tid": 4250 + seq % 8, "process": "orders",
        "build_id": "Qm3vJc8_h1Yt0aXw/9sTz", "goroutine": 18 + n % 50, "parent_goroutine": 1,
        "time": "2026-11-20T12:00:00.123456789Z", "time_ns": 1_795_608_000_000_000_000_u64 + seq * 10_000 + host,
        "uncertainty_ns": 180_000, "clock_epoch": 1, "ktime_ns": 1_000_000_000 + seq * 10_000, "cpu": seq % 4, "cpu_seq": seq / 4,
        "location": {"file": "/src/shop/orders/handler.go", "line": 42, "function": "main.(*Server).Place", "pc": "0x4a1b2c"},
        "event": "line",
        "variables": [
            {"name": "o", "role": "argument", "value": {"type": "*main.Order", "kind": "ptr", "addr": format!("0xc{:09x}", n % 0xfff_ffff), "elem":
                {"type": "main.Order", "kind": "struct", "fields": [
                    {"name": "ID", "value": {"type": "int", "kind": "int", "value": n}},
                    {"name": "Name", "value": {"type": "string", "kind": "string", "value": format!("customer-{}", n % 1000), "len": 12}},
                    {"name": "Paid", "value": {"type": "bool", "kind": "bool", "value": n.is_multiple_of(2)}}]}}},
            {"name": "items", "role": "local", "value": {"type": "[]string", "kind": "slice", "len": 2, "cap": 2, "elems": [
                {"type": "string", "kind": "string", "value": "pen", "len": 3}, {"type": "string", "kind": "string", "value": "ink", "len": 3}]}},
            {"name": "total", "role": "local", "value": {"type": "int", "kind": "int", "value": n % 9999}},
            {"name": "took", "role": "local", "value": {"type": "time.Duration", "kind": "int64", "value": n, "display": format!("{n}ns")}},
            {"name": "err", "role": "local", "value": {"type": "error", "kind": "interface", "nil": true}}],
        "trace_id": format!("{:032x}", u128::from(n / 5) + 1), "span_id": format!("{:016x}", n + 1),
    });
    serde_json::from_value(hit).expect("a hit")
}

/// The messages of a stream.
fn messages(hits: u64) -> Vec<Vec<u8>> {
    let batches = hits / HITS_PER_BATCH;
    let of = |number: u64| {
        let host = number % HOSTS;
        let first = number / HOSTS * HITS_PER_BATCH;
        let events =
            (first..first + HITS_PER_BATCH).map(|seq| Event::Hit(Box::new(hit(host, seq)))).collect();
        let batch = Batch {
            host: format!("node-{host}"),
            agent: AgentId::from(format!("a_01jd3k{host}")),
            boot_id: format!("b3b6e1d2-6c55-4a3e-9a53-00000000000{host}"),
            seq: number / HOSTS + 1,
            events,
        };
        message::write(&batch).expect("a batch is JSON")
    };
    (0..batches).map(of).collect()
}

fn mark(seq: u64, watermark_ns: u64) -> OrderMark {
    let clock = |host: u64| DomainClock {
        host: format!("node-{host}"),
        boot_id: format!("b3b6e1d2-6c55-4a3e-9a53-00000000000{host}"),
        agent: AgentId::from(format!("a_01jd3k{host}")),
        assigned: Assigned {
            offset_ns: 1_795_608_000_000_000_000 - 1_000_000_000,
            slope_ppb: 0,
            at_ktime_ns: 1_000_000_000,
            uncertainty_ns: 100_000,
            growth_ppb: 1000,
            epoch: 1,
        },
    };
    OrderMark {
        server: "server".to_owned(),
        seq,
        clocks: (0..HOSTS).map(clock).collect(),
        watermark_ns,
        silent: Vec::new(),
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[derive(Clone, Copy, Default)]
struct Costs {
    read: Duration,
    ingest: Duration,
    order: Duration,
    place: Duration,
    commit: Duration,
    bytes: u64,
    stored: u64,
}

impl Costs {
    fn total(&self) -> Duration {
        self.read + self.ingest + self.order + self.place + self.commit
    }
}

fn round(messages: &[Vec<u8>], full_text: bool) -> (Costs, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { full_text, ..Options::default() };
    let store = Store::open(&folder.path().join("index.db"), options).expect("a store");
    let mut sequencer = Sequencer::new(Limits::default());
    let mut costs = Costs::default();
    let service: Arc<str> = Arc::from("orders");
    let mut clock = thread_time();
    let mut lap = |sum: &mut Duration| {
        let now = thread_time();
        *sum += now.saturating_sub(clock);
        clock = now;
    };
    let mut stream_seq = 0;
    let mut last_ns = 0;
    for (commit, chunk) in (1..).zip(messages.chunks(BATCHES_PER_COMMIT)) {
        for text in chunk {
            stream_seq += 1;
            lap(&mut Duration::default());
            let batch: Batch = serde_json::from_slice(text).expect("a batch");
            lap(&mut costs.read);
            store.batches([(&batch.agent, batch.host.as_str(), batch.seq)]);
            let incoming: Vec<Incoming> = batch
                .events
                .into_iter()
                .enumerate()
                .filter_map(|(index, event)| {
                    let Event::Hit(hit) = event else { return None };
                    Some(Incoming { stream_seq, index, service: Arc::clone(&service), hit: *hit })
                })
                .collect();
            let taken = store.ingest(&incoming);
            lap(&mut costs.ingest);
            for (incoming, taken) in incoming.iter().zip(taken) {
                let Taken::New(arrival) = taken else { continue };
                last_ns = last_ns.max(incoming.hit.time_ns);
                // Nothing is final before its mark: fewer are pending than the sequencer holds.
                assert!(sequencer.hit(HitMeta::of(&incoming.hit, arrival)).is_none());
            }
            lap(&mut costs.order);
        }
        let finalized =
            sequencer.mark(&mark(commit, last_ns.saturating_sub(50_000_000)), store::arrival(stream_seq, 0));
        lap(&mut costs.order);
        let placements: Vec<Placement> = finalized
            .placed
            .into_iter()
            .map(|placed| Placement {
                arrival: placed.arrival,
                order: placed.order.unwrap_or_default(),
                place: placed.sort_key.into(),
                late: placed.late,
                evidence: placed.evidence,
            })
            .collect();
        store.place(&placements);
        lap(&mut costs.place);
        store.commit(stream_seq, None).expect("a commit");
        lap(&mut costs.commit);
    }
    costs.bytes = store.totals().bytes;
    costs.stored = store.totals().stored;
    (costs, store, folder)
}

/// Rows as lines of JSON.
fn json(messages: &[Vec<u8>]) {
    for (full_text, name, goal) in
        [(true, "with full text", 60_000.0), (false, "without full text", 100_000.0)]
    {
        let rounds: Vec<Costs> = (0..ROUNDS).map(|_| round(messages, full_text).0).collect();
        let each = |costs: &Costs| costs.total().as_secs_f64() / costs.stored as f64;
        let costs: Vec<f64> = rounds.iter().map(|costs| each(costs) * 1e6).collect();
        let rates: Vec<f64> = rounds.iter().map(|costs| 1.0 / each(costs)).collect();
        let bytes: Vec<f64> = rounds.iter().map(|costs| (costs.bytes / costs.stored) as f64).collect();
        let row = |text: &str, unit: &str, samples: Vec<f64>, goal: Option<f64>| {
            let goal = goal.map(|goal| serde_json::json!({"at_least": goal}));
            let what = format!("the server, from messages to ordered and stored, {name}: {text}");
            println!("{}", serde_json::json!({"what": what, "unit": unit, "samples": samples, "goal": goal}));
        };
        row("processor time", "µs a hit", costs, None);
        row("hits a core", "hits/s", rates, Some(goal));
        row("size of the index", "bytes a hit", bytes, None);
    }
}

fn main() {
    let hits = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(200_000);
    let messages = messages(hits);
    if std::env::args().any(|text| text == "--json") {
        return json(&messages);
    }
    let bytes: usize = messages.iter().map(Vec::len).sum();
    println!("{hits} hits of {} bytes, {HOSTS} hosts", bytes as u64 / hits);
    println!(
        "{:<12} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}  hits/s a core  bytes a hit",
        "µs a hit", "read", "ingest", "order", "place", "commit", "all"
    );
    for full_text in [false, true] {
        let mut best: Option<Costs> = None;
        let mut last = None;
        for _ in 0..ROUNDS {
            let (costs, store, folder) = round(&messages, full_text);
            if best.is_none_or(|best| costs.total() < best.total()) {
                best = Some(costs);
            }
            last = Some((store, folder));
        }
        let costs = best.unwrap_or_default();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / costs.stored as f64;
        println!(
            "{:<12} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2}  {:>13.0}  {:>11}",
            if full_text { "full text" } else { "no full text" },
            each(costs.read),
            each(costs.ingest),
            each(costs.order),
            each(costs.place),
            each(costs.commit),
            each(costs.total()),
            1e6 / each(costs.total()),
            costs.bytes / costs.stored,
        );
        let Some((store, _folder)) = last else { continue };
        let session = SessionId::from("s_01jd3k5m8q");
        let all = HitQuery { limit: Some(200), ..HitQuery::default() };
        for (what, query) in [
            ("first page", all.clone()),
            ("a trace", HitQuery { trace_id: Some(format!("{:032x}", 40_000_u128)), ..all.clone() }),
            ("a goroutine", HitQuery { goroutine: Some(20), ..all.clone() }),
            (
                "path and value",
                HitQuery {
                    path: Some("o.ID".to_owned()),
                    value: Some((1_000_003 + 20_000 * 7919).to_string()),
                    ..all.clone()
                },
            ),
            ("a rare word", HitQuery { text: Some((1_000_003 + 20_000 * 7919).to_string()), ..all.clone() }),
            ("two words", HitQuery { text: Some("customer 17".to_owned()), ..all }),
        ] {
            let begin = Instant::now();
            let page = store.hits(&session, &query).expect("a page");
            println!(
                "  {what:<16} {:>6.1} ms, {} hits",
                begin.elapsed().as_secs_f64() * 1e3,
                page.hits.len()
            );
        }
    }
}
