//! Hits from the kernel through one agent on one core to a subscriber.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use async_nats::jetstream::{self, stream};
use futures::StreamExt as _;
use memchr::memmem;
use riptrace_common::wire::{
    batch::Heartbeat,
    control::{CreateTracepoint, Target, TraceOptions, TracepointSpec, TracepointState, TracepointStatus},
    subject::Endpoint,
};
use riptrace_tests::{
    fleet::{self, Folder},
    nats::{NatsServer, Peer},
};

use super::{
    Goal, row,
    usage::{Caller, pin},
};

const HOST: &str = "bench";
/// Measurements of each kind.
const ROUNDS: usize = 3;
/// Calls of one measurement without a pause.
const CALLS: u64 = 400_000;
/// Even rates that are tried, calls a second, for [`PACE_MS`] each.
const RATES: [u64; 10] = [10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000, 130_000, 160_000, 200_000];
const PACE_MS: u64 = 3_000;
/// Bytes that the stream keeps: the benchmark is no disk's.
const STREAM_BYTES: i64 = 256 << 20;

/// What came to the subscriber.
struct Received {
    since: Instant,
    hits: AtomicU64,
    bytes: AtomicU64,
    /// Nanoseconds from `since` to the latest message.
    latest_ns: AtomicU64,
}

impl Received {
    fn take(&self, payload: &[u8]) {
        self.bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        self.latest_ns.store(self.since.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.hits.fetch_add(hits(payload), Ordering::Release);
    }
}

/// Events that are hits: quotes inside of a string would be escaped.
fn hits(payload: &[u8]) -> u64 {
    const HIT: &[u8] = br#"{"kind":"hit","#;
    memmem::find_iter(payload, HIT).count() as u64
}

/// Hits that were handed over and did not reach the broker.
fn behind_the_kernel(heartbeat: &Heartbeat) -> u64 {
    heartbeat.losses.total() - heartbeat.losses.ring_full
}

/// What happened to some calls.
struct Outcome {
    calls: u64,
    hits: u64,
    dropped: u64,
    received: u64,
    bytes: u64,
    wall: Duration,
    agent: Duration,
}

pub(crate) async fn measure() -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    for (name, depth, goal) in [("headers only", 0, 200_000.0), ("four levels", 4, 60_000.0)] {
        let mut setting = Setting::start(depth, cores).await?;
        let (mut rates, mut costs, mut bytes, mut lost) = (vec![], vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            let outcome = setting.run(&format!("call Five {CALLS}")).await?;
            let received = outcome.received.max(1) as f64;
            rates.push(received / outcome.wall.as_secs_f64());
            costs.push(outcome.agent.as_secs_f64() * 1e6 / received);
            bytes.push(outcome.bytes as f64 / received);
            lost.push(100.0 * outcome.dropped as f64 / outcome.hits.max(1) as f64);
        }
        let what = |text: &str| format!("five locals, {name}: {text}");
        row(&what("hits at a subscriber, calls without a pause"), "hits/s", &rates, None);
        row(&what("the agent's processor time"), "µs a hit", &costs, None);
        let a_core: Vec<f64> = costs.iter().map(|cost| 1e6 / cost).collect();
        row(&what("hits that one core of the agent handles"), "hits/s", &a_core, Some(Goal::AtLeast(goal)));
        row(&what("message"), "bytes a hit", &bytes, None);
        row(&what("ring full (counted)"), "% of the hits", &lost, None);
        let mut best = 0;
        for rate in RATES {
            let outcome = setting.run(&format!("pace Five {rate} {PACE_MS}")).await?;
            // The program may not keep its pace with a probe in it.
            let reached = outcome.calls * 1000 / PACE_MS;
            if outcome.dropped > 0 || reached < rate * 95 / 100 {
                break;
            }
            best = rate;
        }
        row(&what("greatest even rate with nothing lost"), "hits/s", &[best as f64], None);
    }
    Ok(())
}

struct Setting {
    peer: Peer,
    caller: Caller,
    received: Arc<Received>,
    last: Heartbeat,
    _agent: fleet::Program,
    _server: NatsServer,
    _folder: Folder,
}

impl Setting {
    async fn start(depth: u32, cores: usize) -> Result<Self> {
        let server = NatsServer::start()?;
        let peer = server.connect().await?;
        let config = stream::Config {
            name: peer.subjects.stream_name(),
            subjects: vec![peer.subjects.of_all(Endpoint::Trace)],
            storage: stream::StorageType::Memory,
            max_bytes: STREAM_BYTES,
            ..stream::Config::default()
        };
        jetstream::new(peer.client.clone()).create_stream(config).await?;
        let received = Arc::new(Received {
            since: Instant::now(),
            hits: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            latest_ns: AtomicU64::new(0),
        });
        let mut messages = peer.client.subscribe(peer.subjects.of_all(Endpoint::Trace)).await?;
        let count = Arc::clone(&received);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                count.take(&message.payload);
            }
        });
        let folder = Folder::new()?;
        let agent = fleet::agent(&folder, &server.url(), HOST, &["calls"], &["--budget", "0"])?;
        peer.wait_for_agent(HOST).await?;
        let caller = Caller::start()?;
        let spec = TracepointSpec {
            id: "t_bench".into(),
            revision: 1,
            session: Some("s_bench".into()),
            owner: "bench".into(),
            target: Target { pid: Some(caller.pid()), ..Target::default() },
            service_rules: Vec::new(),
            location: String::from("main.Five"),
            origin: None,
            options: TraceOptions { rate: 0, depth, ..TraceOptions::default() },
            ttl_seconds: 0,
        };
        let state: TracepointState =
            peer.ask(HOST, Endpoint::CreateTracepoint, &CreateTracepoint { spec }).await??;
        ensure!(state.status == TracepointStatus::Armed, "{state:?}\n{}", agent.log());
        if cores > 1 {
            let last = cores - 1;
            pin(agent.pid(), &last.to_string())?;
            let others = if last > 1 { format!("0-{}", last - 1) } else { String::from("0") };
            for pid in [caller.pid(), server.pid(), std::process::id()] {
                pin(pid, &others)?;
            }
        }
        let last = peer.heartbeats(HOST).await?.wait_for("anything", |_| true).await?;
        Ok(Self { peer, caller, received, last, _agent: agent, _server: server, _folder: folder })
    }

    /// Has the program make calls, and waits until all of their hits are accounted for: at the subscriber, or counted where
    /// they were lost.
    async fn run(&mut self, order: &str) -> Result<Outcome> {
        let before =
            (self.received.hits.load(Ordering::Acquire), self.received.bytes.load(Ordering::Relaxed));
        let mut heartbeats = self.peer.heartbeats(HOST).await?;
        let begin = self.received.since.elapsed();
        let (calls, _) = self.caller.order(order)?;
        let all = heartbeats
            .wait_for("all hits", |heartbeat| {
                heartbeat.hits - self.last.hits == calls
                    && heartbeat.queued == 0
                    && heartbeat.published + behind_the_kernel(heartbeat) == heartbeat.emitted
            })
            .await?;
        // Heartbeats are a second apart; the messages know better.
        let end = Duration::from_nanos(self.received.latest_ns.load(Ordering::Relaxed));
        let received = self.received.hits.load(Ordering::Acquire) - before.0;
        let emitted = all.emitted - self.last.emitted;
        let dropped = all.losses.ring_full - self.last.losses.ring_full;
        ensure!(emitted + dropped == calls, "{calls} calls, {emitted} handed over, {dropped} dropped");
        ensure!(
            received == all.published - self.last.published,
            "{received} hits at the subscriber, {all:?}"
        );
        let outcome = Outcome {
            calls,
            hits: all.hits - self.last.hits,
            dropped,
            received,
            bytes: self.received.bytes.load(Ordering::Relaxed) - before.1,
            wall: end.saturating_sub(begin),
            agent: Duration::from_nanos(all.cpu_ns - self.last.cpu_ns),
        };
        self.last = all;
        Ok(outcome)
    }
}
