//! An agent that exists only on the broker: it answers as a real one does, and publishes hits that were made up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, jetstream};
use futures::StreamExt;
use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::{
        batch::{Batch, Heartbeat, Losses, OwnerGeneration},
        clock::{Assigned, SyncReply, SyncRequest},
        control::{
            CreateTracepoint, ListTracepoints, RemoveTracepoints, Removed, TracepointList, TracepointSpec,
            TracepointState, TracepointStatus, generation,
        },
        event::{Edge, Event, Hit, Stats},
        message::{self, Error, ErrorCode, Incoming, Reply},
        profile::{GoProcess, HostFacts, Profile},
        subject::{Endpoint, Parsed, Subjects},
    },
};
use serde::Serialize;
use tokio::task::JoinHandle;

/// How often it says that it is there.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// An agent.
pub struct Agent {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    host: String,
    agent: AgentId,
    boot_id: String,
    /// Its kernel's clock minus the machine's.
    skew_ns: i64,
    /// Its wall clock minus its kernel's.
    wall_ns: AtomicI64,
    began: Instant,
    base_ns: u64,
    subjects: Subjects,
    client: Client,
    jetstream: jetstream::Context,
    processes: Mutex<Vec<GoProcess>>,
    held: Mutex<BTreeMap<TracepointId, (TracepointSpec, Stats)>>,
    assigned: Mutex<Option<Assigned>>,
    batches: AtomicU64,
    published: AtomicU64,
    silent: AtomicBool,
    /// Every location is refused.
    refuses: AtomicBool,
    creations: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Agent {
    /// Starts one that has one process of each service.
    pub async fn start(url: &str, host: &str, services: &[&str], skew_ns: i64) -> Self {
        Self::start_booted(url, host, services, skew_ns, &format!("boot-of-{host}")).await
    }

    /// The same, of a kernel that was booted another time.
    pub async fn start_booted(url: &str, host: &str, services: &[&str], skew_ns: i64, boot_id: &str) -> Self {
        let client = async_nats::connect(url).await.unwrap();
        let process = |(pid, service): (u32, &&str)| GoProcess {
            pid,
            start_ns: 1,
            name: (*service).to_owned(),
            service: (*service).to_owned(),
            exe: format!("/srv/{service}"),
            ..GoProcess::default()
        };
        let shared = Arc::new(Shared {
            host: host.to_owned(),
            agent: AgentId::from(riptrace_server::ident::fresh("a").unwrap()),
            boot_id: boot_id.to_owned(),
            skew_ns,
            wall_ns: AtomicI64::new(0),
            began: Instant::now(),
            base_ns: 1_000_000_000_000_000,
            subjects: Subjects::default(),
            jetstream: jetstream::new(client.clone()),
            client,
            processes: Mutex::new((100..).zip(services).map(process).collect()),
            held: Mutex::default(),
            assigned: Mutex::default(),
            batches: AtomicU64::new(0),
            published: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            creations: AtomicU64::new(0),
        });
        let all = format!(
            "{}.>",
            shared.subjects.of(host, Endpoint::Trace).unwrap().replace(".debugger.trace", "")
        );
        let requests = shared.client.subscribe(all).await.unwrap();
        shared.client.flush().await.unwrap();
        let tasks = vec![
            tokio::spawn(answer(Arc::clone(&shared), requests)),
            tokio::spawn(beat(Arc::clone(&shared))),
        ];
        Self { shared, tasks }
    }

    pub fn id(&self) -> &AgentId {
        &self.shared.agent
    }

    /// What it holds.
    pub fn held(&self) -> Vec<TracepointSpec> {
        lock(&self.shared.held).values().map(|(spec, _)| spec.clone()).collect()
    }

    /// How often it was asked to set a tracepoint.
    pub fn creations(&self) -> u64 {
        self.shared.creations.load(Ordering::SeqCst)
    }

    /// What it is to stamp its hits with.
    pub fn assigned(&self) -> Option<Assigned> {
        *lock(&self.shared.assigned)
    }

    /// It says and answers nothing any more, or again.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Its wall clock is set.
    pub fn step_wall_clock(&self, by_ns: i64) {
        self.shared.wall_ns.fetch_add(by_ns, Ordering::SeqCst);
    }

    /// A batch of these events as it is published, to be changed and sent by hand.
    pub fn batch(&self, seq: u64, events: Vec<Event>) -> Batch {
        Batch {
            host: self.shared.host.clone(),
            agent: self.shared.agent.clone(),
            boot_id: self.shared.boot_id.clone(),
            seq,
            events,
        }
    }

    /// It refuses every tracepoint from now on.
    pub fn set_refuses(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
    }

    /// Its kernel's clock.
    pub fn ktime_ns(&self) -> u64 {
        self.shared.ktime_ns()
    }

    /// Hits of a tracepoint that it holds, now; they are not sent.
    pub fn hits(&self, tracepoint: &TracepointId, count: u64, goroutine: u64) -> Vec<Event> {
        self.shared.hits(tracepoint, count, goroutine)
    }

    /// A hit where a message leaves or enters.
    pub fn edge(&self, edge: Edge, goroutine: u64) -> Event {
        let seq = self.shared.batches.load(Ordering::SeqCst) * 1000 + self.shared.ktime_ns() % 1000;
        let mut hit = self.shared.hit("builtin.http", None, seq, goroutine);
        hit.edge = Some(edge);
        Event::Hit(Box::new(hit))
    }

    /// Publishes events and waits until the broker has them. Gives the batch.
    pub async fn publish(&self, events: Vec<Event>) -> Batch {
        let seq = self.shared.batches.fetch_add(1, Ordering::SeqCst) + 1;
        let batch = self.batch(seq, events);
        self.publish_again(&batch).await;
        let hits = batch.events.iter().filter(|event| matches!(event, Event::Hit(_))).count();
        self.shared.published.fetch_add(hits as u64, Ordering::SeqCst);
        batch
    }

    /// Publishes a batch once more, as an agent does that missed the broker's word.
    pub async fn publish_again(&self, batch: &Batch) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{}:{}", batch.message_id(), self.ktime_ns()));
        let subject = self.shared.subjects.of(&self.shared.host, Endpoint::Trace).unwrap();
        let body = message::write(batch).unwrap();
        loop {
            let sent = self.shared.jetstream.publish_with_headers(
                subject.clone(),
                headers.clone(),
                body.clone().into(),
            );
            if let Ok(acknowledged) = sent.await
                && acknowledged.await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Counters of all it holds, as they are published.
    pub fn stats(&self) -> Vec<Event> {
        lock(&self.shared.held).values().map(|(_, stats)| Event::Stats(stats.clone())).collect()
    }

    /// Hits of a tracepoint that the kernel had no room for.
    pub fn lose(&self, tracepoint: &TracepointId, count: u64) {
        let mut held = lock(&self.shared.held);
        let (_, stats) = held.get_mut(tracepoint).unwrap();
        stats.hits += count;
        stats.dropped += count;
    }
}

impl Shared {
    fn ktime_ns(&self) -> u64 {
        let since = u64::try_from(self.began.elapsed().as_nanos()).unwrap();
        (self.base_ns + since).checked_add_signed(self.skew_ns).unwrap()
    }

    fn hits(&self, tracepoint: &TracepointId, count: u64, goroutine: u64) -> Vec<Event> {
        let mut held = lock(&self.held);
        let (spec, stats) = held.get_mut(tracepoint).expect("the tracepoint is held");
        (0..count)
            .map(|_| {
                let seq = stats.emitted;
                stats.hits += 1;
                stats.emitted += 1;
                Event::Hit(Box::new(self.hit(spec.id.as_str(), spec.session.as_ref(), seq, goroutine)))
            })
            .collect()
    }

    fn hit(&self, tracepoint: &str, session: Option<&SessionId>, seq: u64, goroutine: u64) -> Hit {
        let ktime_ns = self.ktime_ns();
        let hit = serde_json::json!({
            "tracepoint": tracepoint, "seq": seq, "host": self.host, "boot_id": self.boot_id,
            "session": session, "agent": self.agent, "pid": 100, "process_start_ns": 1, "tid": 100,
            "process": "orders", "goroutine": goroutine, "time": "1970-01-01T00:00:00Z", "time_ns": ktime_ns,
            "ktime_ns": ktime_ns, "cpu": 0, "cpu_seq": ktime_ns,
            "location": {"file": "/src/main.go", "line": 7, "function": "main.main", "pc": "0x1000"},
            "event": "line",
            "variables": [{"name": "n", "role": "local", "value": {"type": "int", "kind": "int", "value": seq}}],
        });
        serde_json::from_value(hit).unwrap()
    }

    fn state(spec: &TracepointSpec, stats: &Stats) -> TracepointState {
        TracepointState {
            id: spec.id.clone(),
            revision: spec.revision,
            session: spec.session.clone(),
            owner: spec.owner.clone(),
            status: TracepointStatus::Armed,
            bindings: Vec::new(),
            failures: Vec::new(),
            stats: stats.clone(),
            expires_in_seconds: spec.ttl_seconds,
            origin: None,
        }
    }

    fn profile(&self) -> Profile {
        Profile {
            host: HostFacts {
                host: self.host.clone(),
                agent: self.agent.clone(),
                boot_id: self.boot_id.clone(),
                ..HostFacts::default()
            },
            processes: lock(&self.processes).clone(),
            unreadable: 0,
        }
    }

    fn create(&self, create: CreateTracepoint) -> Result<TracepointState, Error> {
        self.creations.fetch_add(1, Ordering::SeqCst);
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorCode::Unbound, "no such line"));
        }
        let spec = create.spec;
        let stats = Stats { tracepoint: Arc::clone(&spec.id.0), ..Stats::default() };
        let mut held = lock(&self.held);
        let entry = held.entry(spec.id.clone()).or_insert((spec.clone(), stats));
        entry.0 = spec;
        Ok(Self::state(&entry.0, &entry.1))
    }

    fn remove(&self, removal: &RemoveTracepoints) -> Result<Removed, Error> {
        let mut held = lock(&self.held);
        let is_meant = |spec: &TracepointSpec| {
            removal.id.as_ref().is_none_or(|id| *id == spec.id)
                && (removal.session.is_none() || removal.session == spec.session)
                && removal.owner.as_ref().is_none_or(|owner| *owner == spec.owner)
        };
        let gone: Vec<_> = held.extract_if(.., |_, (spec, _)| is_meant(spec)).collect();
        Ok(Removed { tracepoints: gone.iter().map(|(_, (spec, stats))| Self::state(spec, stats)).collect() })
    }
}

async fn answer(shared: Arc<Shared>, mut requests: async_nats::Subscriber) {
    while let Some(request) = requests.next().await {
        let receive_ktime_ns = shared.ktime_ns();
        let Some(reply_to) = request.reply.clone() else { continue };
        if shared.silent.load(Ordering::SeqCst) {
            continue;
        }
        let Some(Parsed::Agent { endpoint, .. }) = shared.subjects.parse(&request.subject) else { continue };
        let body = match endpoint {
            Endpoint::ProfileGet => reply(Ok(shared.profile())),
            Endpoint::CreateTracepoint => {
                reply(read(&request.payload).and_then(|asked| shared.create(asked)))
            }
            Endpoint::RemoveTracepoint => {
                reply(read(&request.payload).and_then(|asked| shared.remove(&asked)))
            }
            Endpoint::ListTracepoints => reply(read::<ListTracepoints>(&request.payload).map(|asked| {
                let held = lock(&shared.held);
                let all = held
                    .values()
                    .filter(|(spec, _)| asked.owner.as_ref().is_none_or(|one| *one == spec.owner));
                TracepointList { tracepoints: all.map(|(spec, stats)| Shared::state(spec, stats)).collect() }
            })),
            Endpoint::ClockSync => reply(read::<SyncRequest>(&request.payload).map(|asked| {
                if asked.assigned.is_some() {
                    *lock(&shared.assigned) = asked.assigned;
                }
                SyncReply {
                    agent: shared.agent.clone(),
                    boot_id: shared.boot_id.clone(),
                    server_send_ns: asked.server_send_ns,
                    receive_ktime_ns,
                    send_ktime_ns: shared.ktime_ns(),
                    realtime_minus_ktime_ns: shared.wall_ns.load(Ordering::SeqCst),
                    boottime_minus_ktime_ns: 0,
                }
            })),
            _ => reply::<()>(Err(Error::new(ErrorCode::Failed, "it is not a real one"))),
        };
        let _ = shared.client.publish(reply_to, body.into()).await;
    }
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match message::read_request(bytes)? {
        Incoming::Body(body) => Ok(body),
        Incoming::Page(_) => Err(Error::new(ErrorCode::NotFound, "there are no pages")),
    }
}

fn reply<T: Serialize>(result: Result<T, Error>) -> Vec<u8> {
    serde_json::to_vec(&Reply::from(result)).unwrap()
}

async fn beat(shared: Arc<Shared>) {
    let subject = shared.subjects.of(&shared.host, Endpoint::Heartbeat).unwrap();
    loop {
        if !shared.silent.load(Ordering::SeqCst) {
            let mut owners: BTreeMap<_, Vec<_>> = BTreeMap::new();
            let mut losses = Losses::default();
            for (spec, stats) in lock(&shared.held).values() {
                owners.entry(spec.owner.clone()).or_default().push((spec.id.clone(), spec.revision));
                losses.ring_full += stats.dropped;
            }
            let generations = owners.into_iter().map(|(owner, held)| OwnerGeneration {
                owner,
                generation: generation(held.iter().map(|(id, revision)| (id, *revision))),
            });
            let mut heartbeat: Heartbeat = serde_json::from_value(serde_json::json!({
                "host": shared.host, "agent": shared.agent, "boot_id": shared.boot_id,
                "ktime_ns": shared.ktime_ns(), "complete_until_ktime_ns": shared.ktime_ns(),
                "profile_revision": 1, "published": shared.published.load(Ordering::SeqCst),
            }))
            .unwrap();
            heartbeat.generations = generations.collect();
            heartbeat.losses = losses;
            let _ = shared.client.publish(subject.clone(), message::write(&heartbeat).unwrap().into()).await;
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}
