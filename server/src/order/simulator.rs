//! A fleet whose truth is known: hosts with skewed, drifting clocks that exchange timestamps over delays of any asymmetry,
//! and requests that run through them in chains of fast messages. For tests and benchmarks.

use std::{collections::HashMap, sync::Arc};

use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::{
        clock::{DomainClock, OrderMark},
        event::{Certificate, Direction, Edge},
    },
};

use super::{DomainId, Finalized, HitKey, HitMeta, Limits, Placed, Process, Sequencer};
use crate::clock::{Estimator, Exchange, watermark};

/// The server's clock when the simulation begins.
const START_NS: u64 = 1_800_000_000_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const MILLI_NS: u64 = 1_000_000;
/// Hosts' kernels have run for so long.
const UPTIME_NS: u64 = 5_000_000_000_000;
const MARK_EVERY_NS: u64 = 200 * MILLI_NS;

/// How long a clock exchange's messages are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// 40 to 120 µs each way.
    Lan,
    /// 0.2 to 1 ms there, up to eight times as long back; which way is the slow one differs by host.
    Zones,
}

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// Hosts, each with its own clock and one agent.
    pub hosts: usize,
    /// Messages and replies.
    pub edges: usize,
    /// Between the server and the hosts.
    pub network: Network,
    /// A host's wall clock is wrong by no more than this.
    pub skew_ns: u64,
    /// A host's clock is fast or slow by no more than this.
    pub drift_ppb: u64,
    /// Requests that begin in a second.
    pub requests_per_second: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            hosts: 50,
            edges: 20_000,
            network: Network::Lan,
            skew_ns: 60 * SECOND_NS,
            drift_ppb: 80_000,
            requests_per_second: 400,
        }
    }
}

/// What a server reads.
#[derive(Clone, Debug)]
pub enum Item {
    /// A hit.
    Hit(Box<HitMeta>),
    /// A mark.
    Mark(OrderMark),
}

/// A fleet's stream, and its truth.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// What a server reads, in the stream's order.
    pub stream: Vec<Item>,
    /// The hits of each message: it left, it entered.
    pub edges: Vec<(HitKey, HitKey)>,
    /// When each hit was, by the server's clock.
    pub times: HashMap<HitKey, u64>,
    /// What each host's wall clock said.
    pub raw: HashMap<HitKey, u64>,
}

/// Numbers that look random (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From `least`, below `end`.
    pub fn between(&mut self, least: u64, end: u64) -> u64 {
        least + self.number() % (end - least).max(1)
    }

    /// Shuffles (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.number() % (last as u64 + 1)).unwrap_or(0);
            items.swap(last, other);
        }
    }
}

struct Host {
    boot_id: Arc<str>,
    agent: AgentId,
    /// Kernel time when the simulation begins.
    uptime_ns: u64,
    drift_ppb: i64,
    /// How wrong its wall clock is.
    skew_ns: i64,
    slow_there: bool,
    estimator: Estimator,
    /// Hits for each CPU and tracepoint.
    cpu_seqs: [u64; 4],
    seqs: [u64; 2],
}

impl Host {
    fn ktime_ns(&self, time_ns: u64) -> u64 {
        let passed = time_ns - START_NS;
        let drift = i128::from(passed) * i128::from(self.drift_ppb) / 1_000_000_000;
        u64::try_from(i128::from(self.uptime_ns + passed) + drift).unwrap_or(0)
    }
}

/// A hit before it is a hit: hits get their numbers by time.
struct Happening {
    time_ns: u64,
    host: usize,
    goroutine: u64,
    edge: Option<(usize, Direction)>,
}

/// Simulates.
#[must_use]
pub fn simulate(setup: &Setup) -> Simulation {
    let mut random = Random(setup.seed);
    let mut hosts: Vec<Host> = (0..setup.hosts).map(|index| host(index, setup, &mut random)).collect();
    let (mut happenings, messages) = requests(setup, &mut random);
    happenings.sort_by_key(|happening| happening.time_ns);

    let mut simulation = Simulation {
        stream: Vec::with_capacity(happenings.len() * 2),
        edges: Vec::new(),
        times: HashMap::new(),
        raw: HashMap::new(),
    };
    let mut sides: HashMap<(usize, bool), HitKey> = HashMap::new();
    let mut hits: Vec<(u64, usize, HitMeta)> = Vec::with_capacity(happenings.len());
    for happening in &happenings {
        let meta = hit(&mut hosts[happening.host], happening, setup.seed, &mut random);
        simulation.times.insert(meta.key.clone(), happening.time_ns);
        let raw = i128::from(happening.time_ns) + i128::from(hosts[happening.host].skew_ns);
        simulation.raw.insert(meta.key.clone(), u64::try_from(raw).unwrap_or(0));
        if let Some((message, direction)) = happening.edge {
            let sends = matches!(direction, Direction::Send | Direction::ReplySend);
            sides.insert((message, sends), meta.key.clone());
        }
        hits.push((happening.time_ns, happening.host, meta));
    }
    for message in 0..messages {
        if let (Some(sent), Some(received)) =
            (sides.remove(&(message, true)), sides.remove(&(message, false)))
        {
            simulation.edges.push((sent, received));
        }
    }
    deliver(&mut hosts, hits, setup.network, &mut random, &mut simulation.stream);
    simulation
}

fn host(index: usize, setup: &Setup, random: &mut Random) -> Host {
    let signed = |random: &mut Random, bound: u64| {
        i64::try_from(random.between(0, 2 * bound + 1)).unwrap_or(0) - i64::try_from(bound).unwrap_or(0)
    };
    Host {
        boot_id: Arc::from(format!("{index:08x}-0000-4000-8000-{:012x}", setup.seed & 0xffff_ffff_ffff)),
        agent: AgentId::from(format!("a_{index}")),
        uptime_ns: random.between(UPTIME_NS, 9 * UPTIME_NS),
        drift_ppb: signed(random, setup.drift_ppb),
        skew_ns: signed(random, setup.skew_ns),
        slow_there: random.number().is_multiple_of(2),
        estimator: Estimator::new(1),
        cpu_seqs: [0; 4],
        seqs: [0; 2],
    }
}

/// Requests: chains through hosts, every hop with a line before, the message, a line there, and the way back.
fn requests(setup: &Setup, random: &mut Random) -> (Vec<Happening>, usize) {
    let mut happenings = Vec::new();
    let (mut messages, mut goroutine) = (0, 0);
    let mut begin_ns = START_NS + SECOND_NS;
    let hosts = setup.hosts.max(2) as u64;
    while messages < setup.edges {
        begin_ns += random.between(1, 2 * SECOND_NS / setup.requests_per_second);
        let mut now_ns = begin_ns;
        let mut at = usize::try_from(random.between(0, hosts)).unwrap_or(0);
        goroutine += 1;
        let mut stack = Vec::new();
        let line =
            |time_ns: u64, host: usize, goroutine: u64| Happening { time_ns, host, goroutine, edge: None };
        let side = |time_ns, host, goroutine, message, direction| Happening {
            time_ns,
            host,
            goroutine,
            edge: Some((message, direction)),
        };
        happenings.push(line(now_ns, at, goroutine));
        for _ in 0..random.between(1, 6) {
            let to = usize::try_from((at as u64 + random.between(1, hosts)) % hosts).unwrap_or(0);
            now_ns += random.between(1_000, 40_000);
            happenings.push(side(now_ns, at, goroutine, messages, Direction::Send));
            stack.push((at, goroutine));
            (at, goroutine) = (to, goroutine + 1);
            now_ns += random.between(60_000, 140_000);
            happenings.push(side(now_ns, at, goroutine, messages, Direction::Receive));
            messages += 1;
            now_ns += random.between(500, 30_000);
            happenings.push(line(now_ns, at, goroutine));
        }
        let last_goroutine = goroutine;
        while let Some((back, its_goroutine)) = stack.pop() {
            now_ns += random.between(500, 30_000);
            happenings.push(side(now_ns, at, goroutine, messages, Direction::ReplySend));
            (at, goroutine) = (back, its_goroutine);
            now_ns += random.between(60_000, 140_000);
            happenings.push(side(now_ns, at, goroutine, messages, Direction::ReplyReceive));
            messages += 1;
            now_ns += random.between(500, 30_000);
            happenings.push(line(now_ns, at, goroutine));
        }
        goroutine = last_goroutine;
    }
    (happenings, messages)
}

fn hit(host: &mut Host, happening: &Happening, seed: u64, random: &mut Random) -> HitMeta {
    let cpu = usize::try_from(random.number() % 4).unwrap_or(0);
    let is_edge = usize::from(happening.edge.is_some());
    host.cpu_seqs[cpu] += 1;
    host.seqs[is_edge] += 1;
    let edge = happening.edge.map(|(message, direction)| Edge {
        direction,
        // Each message has a span of its own.
        traceparent: Arc::from(format!("00-{seed:032x}-{message:016x}-01")),
        protocol: Arc::from("http"),
    });
    HitMeta {
        key: HitKey {
            agent: host.agent.clone(),
            tracepoint: TracepointId::from(if is_edge == 1 { "builtin.http" } else { "t_1" }),
            seq: host.seqs[is_edge],
        },
        boot_id: Arc::clone(&host.boot_id),
        ktime_ns: host.ktime_ns(happening.time_ns),
        cpu: u32::try_from(cpu).unwrap_or(0),
        cpu_seq: host.cpu_seqs[cpu],
        process: Process { pid: 100, start_ns: Some(7) },
        goroutine: Some(happening.goroutine),
        parent_goroutine: None,
        starts_goroutine: None,
        session: edge.is_none().then(|| SessionId::from("s_1")),
        edge,
        arrival: 0,
    }
}

/// Puts hits and marks into a stream: what an agent says is complete is there before the mark that builds on it; what
/// is younger may be.
fn deliver(
    hosts: &mut [Host],
    hits: Vec<(u64, usize, HitMeta)>,
    network: Network,
    random: &mut Random,
    stream: &mut Vec<Item>,
) {
    let end_ns = hits.last().map_or(START_NS, |(time_ns, ..)| *time_ns) + SECOND_NS;
    let mut waiting: std::collections::VecDeque<(u64, usize, HitMeta)> = hits.into();
    let mut held: Vec<(u64, usize, HitMeta)> = Vec::new();
    for host in hosts.iter_mut() {
        for burst in 0..8 {
            exchange(host, START_NS + 100 * MILLI_NS + burst * 20 * MILLI_NS, network, random);
        }
    }
    let mut seq = 0;
    let mut now_ns = START_NS + SECOND_NS;
    while now_ns < end_ns {
        now_ns += MARK_EVERY_NS;
        seq += 1;
        let lags: Vec<u64> = hosts.iter().map(|_| random.between(MILLI_NS, 40 * MILLI_NS)).collect();
        // Younger hits come with this mark or, one in four, with a later one.
        let mut due: Vec<HitMeta> = Vec::new();
        let mut still: Vec<(u64, usize, HitMeta)> = Vec::new();
        let happened = waiting.partition_point(|(time_ns, ..)| *time_ns < now_ns);
        for (time_ns, host, meta) in held.drain(..).chain(waiting.drain(..happened)) {
            let complete = time_ns < now_ns - lags[host];
            if complete || !random.number().is_multiple_of(4) {
                due.push(meta);
            } else {
                still.push((time_ns, host, meta));
            }
        }
        held = still;
        for mut meta in due {
            meta.arrival = stream.len() as u64 + 1;
            stream.push(Item::Hit(Box::new(meta)));
        }
        if seq % 5 == 0 {
            for host in hosts.iter_mut() {
                let at_ns = now_ns - random.between(20 * MILLI_NS, 900 * MILLI_NS);
                exchange(host, at_ns, network, random);
            }
        }
        let clocks: Vec<DomainClock> = hosts
            .iter()
            .filter_map(|host| {
                let assigned = host.estimator.assigned()?;
                let (boot_id, agent) = (host.boot_id.to_string(), host.agent.clone());
                Some(DomainClock { host: boot_id.clone(), boot_id, agent, assigned })
            })
            .collect();
        let complete = hosts.iter().zip(&lags).map(|(host, lag)| host.ktime_ns(now_ns - lag));
        let watermark_ns = watermark(clocks.iter().map(|clock| &clock.assigned).zip(complete)).unwrap_or(0);
        stream.push(Item::Mark(OrderMark {
            server: "server".to_owned(),
            seq,
            clocks,
            watermark_ns,
            silent: Vec::new(),
        }));
    }
}

fn exchange(host: &mut Host, at_ns: u64, network: Network, random: &mut Random) {
    let (there_ns, back_ns) = match network {
        Network::Lan => (random.between(40_000, 120_000), random.between(40_000, 120_000)),
        Network::Zones => {
            let fast = random.between(200_000, MILLI_NS);
            let slow = fast * random.between(4, 9);
            if host.slow_there { (slow, fast) } else { (fast, slow) }
        }
    };
    let held_ns = random.between(1_000, 30_000);
    let exchange = Exchange {
        server_send_ns: at_ns - there_ns,
        receive_ktime_ns: host.ktime_ns(at_ns),
        send_ktime_ns: host.ktime_ns(at_ns + held_ns),
        server_receive_ns: at_ns + held_ns + back_ns,
        realtime_minus_ktime_ns: 0,
        boottime_minus_ktime_ns: 0,
    };
    // What a real server does with a refused one: nothing.
    let _ = host.estimator.exchange(&exchange);
}

impl Simulation {
    /// The same stream with the hits between marks in another order.
    #[must_use]
    pub fn shuffled(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut stream = self.stream.clone();
        for run in stream.split_mut(|item| matches!(item, Item::Mark(_))) {
            random.shuffle(run);
        }
        for (index, item) in stream.iter_mut().enumerate() {
            if let Item::Hit(meta) = item {
                meta.arrival = index as u64 + 1;
            }
        }
        Self { stream, ..self.clone() }
    }

    /// Feeds a sequencer with all of it.
    pub fn feed(&self, sequencer: &mut Sequencer, mut take: impl FnMut(Finalized)) {
        for (index, item) in self.stream.iter().enumerate() {
            match item {
                Item::Hit(meta) => sequencer.hit(HitMeta::clone(meta)).into_iter().for_each(&mut take),
                Item::Mark(mark) => take(sequencer.mark(mark, index as u64 + 1)),
            }
        }
    }

    /// Puts all of it in order.
    #[must_use]
    pub fn order(&self) -> (Vec<Placed>, Vec<String>) {
        let (mut placed, mut contradictions) = (Vec::new(), Vec::new());
        self.feed(&mut Sequencer::new(Limits::default()), |finalized| {
            placed.extend(finalized.placed);
            contradictions.extend(finalized.contradictions);
        });
        (placed, contradictions)
    }

    /// How good an order is.
    #[must_use]
    pub fn report(&self, placed: &[Placed]) -> Report {
        let by_key: HashMap<&HitKey, &Placed> = placed.iter().map(|hit| (&hit.key, hit)).collect();
        let mut report = Report { hits: placed.len(), edges: self.edges.len(), ..Report::default() };
        report.late = placed.iter().filter(|hit| hit.late).count();
        for (sent, received) in &self.edges {
            report.raw_inversions += usize::from(self.raw[received] <= self.raw[sent]);
            let (Some(sent), Some(received)) = (by_key.get(sent), by_key.get(received)) else { continue };
            let time = |hit: &Placed| hit.evidence.interval.map_or(0, |interval| interval.time_ns);
            report.clock_inversions += usize::from(time(received) <= time(sent));
            report.inversions += usize::from(received.sort_key <= sent.sort_key);
        }
        let mut last: HashMap<DomainId, &Placed> = HashMap::new();
        for hit in placed {
            if let Some(before) = last.insert(hit.evidence.domain, hit) {
                report.host_inversions += usize::from(self.times[&before.key] > self.times[&hit.key]);
            }
        }
        let mut neighbour: Option<&Placed> = None;
        for hit in placed.iter().filter(|hit| hit.session.is_some()) {
            if let (Some(before), Some(certificate)) = (neighbour, hit.certificate) {
                report.count(certificate);
                let is_true = self.times[&before.key] < self.times[&hit.key];
                report.false_certificates += usize::from(certificate != Certificate::Ambiguous && !is_true);
            }
            neighbour = Some(hit);
        }
        report
    }
}

/// How good an order is against the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hits that were placed.
    pub hits: usize,
    /// Messages and replies.
    pub edges: usize,
    /// Of these, those that the hosts' wall clocks turn round.
    pub raw_inversions: usize,
    /// Those that the corrected clocks alone turn round.
    pub clock_inversions: usize,
    /// Those that the order turns round.
    pub inversions: usize,
    /// Neighbours on one host that the order turns round.
    pub host_inversions: usize,
    /// Late hits.
    pub late: usize,
    /// Certificates between neighbours of the session.
    pub certificates: Vec<(Certificate, usize)>,
    /// Of these, those that claim what is not true.
    pub false_certificates: usize,
}

impl Report {
    fn count(&mut self, certificate: Certificate) {
        match self.certificates.iter_mut().find(|(known, _)| *known == certificate) {
            Some((_, count)) => *count += 1,
            None => self.certificates.push((certificate, 1)),
        }
    }

    /// Neighbours with a certificate, of 1,000.
    #[must_use]
    pub fn per_mille(&self, certificate: Certificate) -> usize {
        let all: usize = self.certificates.iter().map(|(_, count)| count).sum();
        let these = self.certificates.iter().find(|(known, _)| *known == certificate);
        these.map_or(0, |(_, count)| count * 1_000 / all.max(1))
    }
}
