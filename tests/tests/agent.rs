//! `riptrace agent` with a real broker and a real Go program: what it answers, and that what it publishes is what happened.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

#[path = "agent/life.rs"]
mod life;
#[path = "agent/programs.rs"]
mod programs;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use riptrace_common::{
    id::{SessionId, TracepointId},
    wire::{
        batch::{Batch, Heartbeat},
        clock::{Assigned, SyncReply, SyncRequest},
        control::{
            CreateTracepoint, ListTracepoints, RemoveTracepoints, Removed, Target, TraceOptions,
            TracepointList, TracepointSpec, TracepointState, TracepointStatus,
        },
        event::{Event, Hit},
        message::{Error, ErrorCode, Reply},
        profile::{Profile, ProfileRequest},
        subject::Endpoint,
    },
};
use riptrace_tests::{
    fixture::{Fixture, probed_line},
    fleet::{Folder, Program, agent},
    go::{self, Mode, Version},
    nats::{self, NatsServer, Peer},
    requirements,
};
use serde::{Serialize, de::DeserializeOwned};

const TIMEOUT: Duration = Duration::from_secs(120);

/// A broker, an agent, a client.
struct Setting {
    peer: Peer,
    agent: Option<Program>,
    server: NatsServer,
    folder: Folder,
}

impl Setting {
    /// `None`: something is missing here, and it was said.
    async fn start(test: &str, options: &[&str]) -> Option<Self> {
        if !requirements::bpf(test) || !nats::is_there(test) {
            return None;
        }
        Some(Self::with(NatsServer::start().unwrap(), options).await)
    }

    async fn with(server: NatsServer, options: &[&str]) -> Self {
        let peer = server.connect().await.unwrap();
        peer.create_stream().await.unwrap();
        let folder = Folder::new().unwrap();
        let program = agent(&folder, &server.url(), HOST, &[], options).unwrap();
        peer.wait_for_agent(HOST).await.unwrap();
        Self { peer, agent: Some(program), server, folder }
    }

    async fn create(&self, spec: TracepointSpec) -> TracepointState {
        let request = CreateTracepoint { spec };
        self.peer.ask(HOST, Endpoint::CreateTracepoint, &request).await.unwrap().unwrap()
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        endpoint: Endpoint,
        request: &Q,
    ) -> Result<A, Error> {
        self.peer.ask(HOST, endpoint, request).await.unwrap()
    }

    async fn list(&self) -> Vec<TracepointState> {
        let list: TracepointList =
            self.ask(Endpoint::ListTracepoints, &ListTracepoints::default()).await.unwrap();
        list.tracepoints
    }

    /// Waits until the one tracepoint is in this state.
    async fn wait_for(&self, status: TracepointStatus) -> TracepointState {
        let begin = Instant::now();
        loop {
            let states = self.list().await;
            match states.as_slice() {
                [state] if state.status == status => return state.clone(),
                other => assert!(begin.elapsed() < TIMEOUT, "{other:?}\n{}", self.log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many hits are acknowledged, and gives what the stream holds.
    async fn published(&self, hits: u64) -> Vec<Batch> {
        let mut heartbeats = self.peer.heartbeats(HOST).await.unwrap();
        let fits = |heartbeat: &Heartbeat| heartbeat.published == hits && heartbeat.queued == 0;
        heartbeats.wait_for("all hits", fits).await.unwrap();
        self.peer.stored().await.unwrap()
    }

    fn log(&self) -> String {
        self.agent.as_ref().map_or_else(String::new, Program::log)
    }

    async fn remove(&self, which: RemoveTracepoints) -> Vec<TracepointState> {
        let removed: Removed =
            self.peer.ask(HOST, Endpoint::RemoveTracepoint, &which).await.unwrap().unwrap();
        removed.tracepoints
    }
}

/// What no token of a subject may be made of.
const HOST: &str = "node a.*";

fn spec(id: &str, pid: u32, location: String) -> TracepointSpec {
    TracepointSpec {
        id: TracepointId::from(id),
        revision: 1,
        session: Some(SessionId::from("s_1")),
        owner: "test".into(),
        target: Target { pid: Some(pid), ..Target::default() },
        service_rules: Vec::new(),
        location,
        origin: None,
        options: TraceOptions { rate: 0, ..TraceOptions::default() },
        ttl_seconds: 0,
    }
}

fn hits(batches: &[Batch]) -> Vec<&Hit> {
    let events = batches.iter().flat_map(|batch| &batch.events);
    events.filter_map(|event| if let Event::Hit(hit) = event { Some(&**hit) } else { None }).collect()
}

fn fixture(argument: &str) -> Fixture {
    let executable = go::build(&Version::local().unwrap(), Mode::Optimised).unwrap();
    Fixture::start(&executable, &[argument]).unwrap()
}

fn counts_fixture() -> Fixture {
    fixture("counts")
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_on_the_stream_are_what_the_program_did() {
    let Some(mut setting) = Setting::start("agent, hits", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    let version = Version::local().unwrap();
    let profile: Profile =
        setting.peer.ask(HOST, Endpoint::ProfileGet, &ProfileRequest {}).await.unwrap().unwrap();
    assert_eq!(profile.host.host, HOST);
    let process = profile.processes.iter().find(|process| process.pid == fixture.pid()).unwrap();
    assert_eq!(process.package.as_deref(), Some("fixtures"));

    let names = ["counts.Plain", "counts.Outer", "counts.Inner"];
    for name in names {
        let location = probed_line(&version, name).unwrap().location();
        let state = setting.create(spec(&format!("t_{name}"), fixture.pid(), location)).await;
        assert_eq!(state.status, TracepointStatus::Armed, "{state:?}");
        assert_eq!(state.bindings[0].pids, [fixture.pid()]);
        assert!(!state.bindings[0].sites.is_empty());
    }
    let mut heartbeats = setting.peer.heartbeats(HOST).await.unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let removed =
        setting.remove(RemoveTracepoints { session: Some("s_1".into()), ..Default::default() }).await;
    let emitted: u64 = removed.iter().map(|state| state.stats.emitted).sum();
    let heartbeat = heartbeats
        .wait_for("everything published", |heartbeat| {
            let all = heartbeat.emitted == emitted && heartbeat.published == emitted && heartbeat.queued == 0;
            all && heartbeat.generations.is_empty()
        })
        .await
        .unwrap();
    assert!(heartbeat.complete_until_ktime_ns <= heartbeat.ktime_ns);
    assert!(heartbeat.generations.is_empty(), "{heartbeat:?}");
    let truth = fixture.end().unwrap();

    let batches = setting.peer.stored().await.unwrap();
    let mut by_tracepoint: BTreeMap<&str, Vec<&Hit>> = BTreeMap::new();
    for hit in hits(&batches) {
        assert_eq!(hit.session.as_deref(), Some("s_1"));
        assert_eq!(&*hit.host, HOST);
        assert_eq!(hit.agent, profile.host.agent.0);
        by_tracepoint.entry(&hit.tracepoint).or_default().push(hit);
    }
    assert_eq!(removed.len(), names.len());
    for state in removed {
        let stats = &state.stats;
        assert_eq!(state.status, TracepointStatus::Ended);
        let name = state.id.as_str().strip_prefix("t_").unwrap();
        let outcomes = stats.emitted + stats.filtered + stats.throttled + stats.dropped + stats.failed;
        assert_eq!((stats.hits, outcomes), (truth.counts[name], truth.counts[name]), "{name}");
        let hits = &by_tracepoint[state.id.as_str()];
        assert_eq!(hits.len() as u64, stats.emitted, "{name}");
        let mut seqs: Vec<u64> = hits.iter().map(|hit| hit.seq).collect();
        seqs.sort_unstable();
        assert!(seqs.into_iter().eq(0..stats.emitted), "dense numbers");
    }
    assert!(batches.iter().zip(1..).all(|(batch, seq)| batch.seq == seq));

    setting.agent.take().unwrap().end().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_carries_the_coordinated_time_once_it_was_assigned() {
    let Some(setting) = Setting::start("agent, clock", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    let sync = |assigned| SyncRequest { server_send_ns: 77, assigned };
    let first: SyncReply = setting.peer.ask(HOST, Endpoint::ClockSync, &sync(None)).await.unwrap().unwrap();
    assert_eq!(first.server_send_ns, 77);
    assert!(first.receive_ktime_ns <= first.send_ktime_ns);
    let assigned = Assigned {
        // Whatever the kernel's clock says by now: a billion seconds after 1970.
        offset_ns: 1_000_000_000_000_000_000 - first.send_ktime_ns.cast_signed(),
        slope_ppb: 5_000,
        at_ktime_ns: first.send_ktime_ns,
        uncertainty_ns: 12_345,
        growth_ppb: 1_000,
        epoch: 3,
    };
    let second: SyncReply =
        setting.peer.ask(HOST, Endpoint::ClockSync, &sync(Some(assigned))).await.unwrap().unwrap();
    assert!(second.receive_ktime_ns > first.send_ktime_ns);

    let location = probed_line(&Version::local().unwrap(), "counts.Outer").unwrap().location();
    setting.create(spec("t_clock", fixture.pid(), location)).await;
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let removed = setting.remove(RemoveTracepoints::default()).await;
    let mut heartbeats = setting.peer.heartbeats(HOST).await.unwrap();
    let emitted = removed[0].stats.emitted;
    heartbeats.wait_for("all hits", |heartbeat| heartbeat.published == emitted).await.unwrap();
    let batches = setting.peer.stored().await.unwrap();
    let hits = hits(&batches);
    assert_eq!(hits.len(), 30);
    for hit in hits {
        let (time_ns, uncertainty_ns) = assigned.time_of(hit.ktime_ns);
        assert_eq!((hit.time_ns, hit.uncertainty_ns), (time_ns, Some(uncertainty_ns)));
        assert_eq!(hit.clock_epoch, Some(3));
        assert!(hit.time.starts_with("2001-09-09T"), "{}", hit.time);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_understood_is_answered_with_a_reason() {
    let Some(setting) = Setting::start("agent, bad requests", &[]).await else { return };
    let long = format!(r#"{{"v":1,"x":"{}"}}"#, "x".repeat(300_000));
    for endpoint in Endpoint::REQUESTS {
        for (text, code) in [
            ("no JSON", ErrorCode::BadRequest),
            ("[]", ErrorCode::BadRequest),
            (r#"{"v":2}"#, ErrorCode::UnsupportedVersion),
            (r#"{"x":1}"#, ErrorCode::UnsupportedVersion),
            (long.as_str(), ErrorCode::BadRequest),
            (r#"{"v":1,"page":{"id":"x","index":0}}"#, ErrorCode::NotFound),
            (r#"{"v":1,"page":7}"#, ErrorCode::BadRequest),
        ] {
            let reply = setting.peer.ask_text(HOST, endpoint, text.as_bytes().to_vec()).await.unwrap();
            let reply: Reply<serde_json::Value> = serde_json::from_slice(&reply).unwrap();
            let error = reply.error.unwrap_or_else(|| panic!("{endpoint:?} {text:.60}"));
            assert_eq!(error.code, code, "{endpoint:?} {text:.60}: {}", error.text);
        }
    }
    let refused = |spec: TracepointSpec| {
        let peer = setting.peer.clone();
        async move {
            let reply: Result<TracepointState, _> =
                peer.ask(HOST, Endpoint::CreateTracepoint, &CreateTracepoint { spec }).await.unwrap();
            reply.unwrap_err()
        }
    };
    let good = || spec("t", 1, "main.go:7".to_owned());
    for (spec, said) in [
        (TracepointSpec { id: "".into(), ..good() }, "can't be a tracepoint's id"),
        (TracepointSpec { session: Some("a b".into()), ..good() }, "can't be a session's id"),
        (TracepointSpec { location: "main.go".to_owned(), ..good() }, "the line is missing"),
        (
            TracepointSpec {
                options: TraceOptions { when: Some("a >".to_owned()), ..TraceOptions::default() },
                ..good()
            },
            "when: ",
        ),
    ] {
        let error = refused(spec).await;
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.text.contains(said), "{}", error.text);
    }
    assert!(setting.remove(RemoveTracepoints::default()).await.is_empty());
    assert!(!setting.server.log().is_empty() && setting.folder.path().exists());
}
