//! The server's core against a real broker and agents that are made up: what is wanted gets to the hosts, what happens there
//! gets into the index in one order, whatever ends in between.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{future::Future, path::Path, time::Duration};

use clap::Parser;
use riptrace_common::{
    id::{Owner, SessionId, TracepointId},
    wire::{
        api::{
            ChangeTracepoint, Finality, HitQuery, HostStatus, Kill, NewSession, NewTracepoint, Selector,
            Session, SessionState, StoredHit,
        },
        control::{CreateTracepoint, Target, TracepointSpec, TracepointState},
        event::{Direction, Edge},
        message::ErrorCode,
        subject::Endpoint,
    },
};
use riptrace_server::{
    run::Server,
    settings::{Arguments, Settings},
};

#[path = "core/clocks.rs"]
mod clocks;
mod fake;
#[path = "core/nonsense.rs"]
mod nonsense;
#[path = "core/streams.rs"]
mod streams;

use fake::Agent;

/// On a busy machine everything takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

async fn server(data: &Path, more: &[&str]) -> Server {
    // `RIPTRACE_LOG=debug cargo test …` shows what the server did; the first test sets it up for all.
    let filter = tracing_subscriber::EnvFilter::from_env("RIPTRACE_LOG");
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
    let data = data.to_str().unwrap();
    let arguments = ["riptrace-server", "--listen", "127.0.0.1:0", "--data", data];
    let arguments = Arguments::parse_from(arguments.iter().chain(more));
    Server::start(Settings::new(arguments).unwrap()).await.unwrap()
}

/// Waits until something is so.
async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begin = std::time::Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn tracepoint(service: &str) -> NewTracepoint {
    let target = Target { service: Some(service.to_owned()), ..Target::default() };
    NewTracepoint {
        select: Selector { target, ..Selector::default() },
        location: "main.go:7".to_owned(),
        ..NewTracepoint::default()
    }
}

/// A session of one tracepoint that the agents hold.
async fn traced(server: &Server, agents: &[&Agent]) -> (Session, TracepointId) {
    let new = NewSession { tracepoints: vec![tracepoint("orders")], ..NewSession::default() };
    let session = server.fleet().create_session(new, "test").await.unwrap();
    for agent in agents {
        until("the agent holds the tracepoint", || async { agent.held().len() == 1 }).await;
    }
    let id = session.tracepoints[0].id.clone();
    (session, id)
}

fn hits(server: &Server, session: &SessionId) -> Vec<StoredHit> {
    let mut all = Vec::new();
    let mut query = HitQuery::default();
    loop {
        let page = server.store().hits(session, &query).unwrap();
        all.extend(page.hits);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

async fn until_final(server: &Server, session: &SessionId, count: usize) -> Vec<StoredHit> {
    until("the hits are final", || async {
        let hits = hits(server, session);
        hits.len() == count && hits.iter().all(|hit| hit.finality == Finality::Final)
    })
    .await;
    hits(server, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_of_hosts_with_other_clocks_are_collected_and_ordered() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let one = Agent::start(&url, "one", &["orders"], 0).await;
    let two = Agent::start(&url, "two.b *", &["orders"], -3_600_000_000_000).await;
    until("both hosts are known", || async {
        server.fleet().services().first().is_some_and(|service| service.instances.len() == 2)
    })
    .await;
    let (session, id) = traced(&server, &[&one, &two]).await;
    until("the clocks are known", || async { one.assigned().is_some() && two.assigned().is_some() }).await;
    for round in 0..10 {
        one.publish(one.hits(&id, 5, round)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        two.publish(two.hits(&id, 5, round)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let hits = until_final(&server, &session.id, 100).await;
    let orders: Vec<_> = hits.iter().map(|hit| hit.hit.order.unwrap()).collect();
    assert_eq!(orders, (1..=100).collect::<Vec<_>>());
    let hosts: Vec<&str> = hits.chunks(5).map(|chunk| &*chunk[0].hit.host).collect();
    assert_eq!(hosts, ["one", "two.b *"].repeat(10), "an hour between the clocks does not matter");
    assert!(
        hits.iter()
            .all(|hit| hit.service == "orders" && hit.hit.certificate.is_some() || hit.hit.order == Some(1))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_give_the_same_order_and_one_takes_over() {
    let (data, other_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = server(data.path(), &[]).await;
    let url = broker.nats_url().to_owned();
    let (one_data, two_data) = (other_data.path().join("one"), other_data.path().join("two"));
    let first = server(&one_data, &["--nats", &url]).await;
    let second = server(&two_data, &["--nats", &url]).await;
    let agents = [
        Agent::start(&url, "one", &["orders"], 0).await,
        Agent::start(&url, "two", &["orders"], 5_000_000_000).await,
    ];
    let (session, id) = traced(&second, &[&agents[0], &agents[1]]).await;
    until("the clocks are known", || async { agents.iter().all(|agent| agent.assigned().is_some()) }).await;
    for round in 0..20 {
        for agent in &agents {
            agent.publish(agent.hits(&id, 3, round)).await;
        }
    }
    let order = |hits: &[StoredHit]| -> Vec<_> {
        hits.iter()
            .map(|hit| (hit.hit.order, hit.hit.agent.clone(), hit.hit.seq, hit.hit.certificate))
            .collect()
    };
    let expected = order(&until_final(&first, &session.id, 120).await);
    assert_eq!(order(&until_final(&second, &session.id, 120).await), expected);
    assert_eq!(order(&until_final(&broker, &session.id, 120).await), expected);
    // The one that coordinated is gone: the others go on.
    first.stop().await;
    let more = agents[0].hits(&id, 5, 99);
    agents[0].publish(more).await;
    let order_then = order(&until_final(&second, &session.id, 125).await);
    assert_eq!(order(&until_final(&broker, &session.id, 125).await), order_then);
    second.fleet().delete_session(&session.id).await.unwrap();
    until("the tracepoint is removed", || async { agents.iter().all(|agent| agent.held().is_empty()) }).await;
    second.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_gets_to_hosts_whenever_they_come() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let early = Agent::start(&url, "early", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&early]).await;
    let spec = early.held().remove(0);
    assert_eq!((spec.owner.as_str(), spec.session.as_ref()), ("server", Some(&session.id)));
    assert!((1..=600).contains(&spec.ttl_seconds));
    let late = Agent::start(&url, "late", &["orders"], 0).await;
    until("the later host holds it too", || async { late.held().len() == 1 }).await;
    // It restarts and has forgotten everything.
    drop(late);
    let late = Agent::start(&url, "late", &["orders"], 0).await;
    until("the restarted host holds it again", || async { late.held().len() == 1 }).await;
    let other = server.fleet().add_tracepoint(&session.id, tracepoint("payments")).await.unwrap();
    until("both hold two", || async { early.held().len() == 2 && late.held().len() == 2 }).await;
    let change = ChangeTracepoint { location: Some("main.go:9".to_owned()), ..ChangeTracepoint::default() };
    server.fleet().change_tracepoint(&session.id, &id, change).await.unwrap();
    until("the change is there", || async {
        early.held().iter().any(|spec| spec.location == "main.go:9" && spec.revision == 2)
    })
    .await;
    server.fleet().remove_tracepoint(&session.id, &other.id).await.unwrap();
    until("one is gone", || async { early.held().len() == 1 && late.held().len() == 1 }).await;
    let status = server.fleet().session(&session.id).await.unwrap();
    assert_eq!(status.hosts.len(), 2);
    assert!(status.hosts.iter().all(|host| host.state.is_some() && host.tracepoint.as_ref() == Some(&id)));
    server.fleet().set_running(&session.id, false).await.unwrap();
    until("nothing is held", || async { early.held().is_empty() && late.held().is_empty() }).await;
    server.fleet().set_running(&session.id, true).await.unwrap();
    until("it is held again", || async { early.held().len() == 1 && late.held().len() == 1 }).await;
    late.set_silent(true);
    until("the silent host is seen", || async {
        let hosts = server.fleet().hosts();
        hosts.iter().any(|host| host.facts.host == "late" && host.status == HostStatus::Silent)
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tracepoint_is_shown_and_not_asked_for_again_and_again() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let agent = Agent::start(server.nats_url(), "one", &["orders"], 0).await;
    agent.set_refuses();
    let new = NewSession { tracepoints: vec![tracepoint("orders")], ..NewSession::default() };
    let session = server.fleet().create_session(new, "test").await.unwrap();
    until("the refusal is shown", || async {
        let status = server.fleet().session(&session.id).await.unwrap();
        status.hosts.first().is_some_and(|host| host.error.as_deref() == Some("no such line"))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(agent.creations() <= 2, "{}", agent.creations());
    let error = server.fleet().session(&SessionId::from("s_none")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    let error = server.fleet().request::<_, ()>("nowhere", Endpoint::ProfileGet, &()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_removes_whoever_set_it() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let (one, two) =
        (Agent::start(&url, "one", &["orders"], 0).await, Agent::start(&url, "two", &["orders"], 0).await);
    let (session, _) = traced(&server, &[&one, &two]).await;
    let foreign: TracepointSpec = serde_json::from_str(r#"{"id":"mine","location":"main.go:1"}"#).unwrap();
    let create = CreateTracepoint { spec: foreign };
    let fleet = server.fleet();
    let set = fleet.request::<_, TracepointState>("one", Endpoint::CreateTracepoint, &create).await.unwrap();
    assert_eq!(set.owner, Owner::from("client"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(one.held().len(), 2, "what another client set is left alone");

    let killed = fleet.kill(&Kill::Host("one".to_owned())).await.unwrap();
    assert_eq!(killed.hosts, ["one"]);
    assert!(one.held().is_empty());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(one.held().is_empty(), "it stays away");
    assert_eq!(two.held().len(), 1);
    fleet.set_running(&session.id, true).await.unwrap();
    until("it was started again", || async { one.held().len() == 1 }).await;

    two.set_silent(true);
    let killed = fleet.kill(&Kill::All).await.unwrap();
    assert_eq!((killed.hosts, killed.unreachable), (vec!["one".to_owned()], vec!["two".to_owned()]));
    assert_eq!(killed.sessions, std::slice::from_ref(&session.id));
    assert_eq!(fleet.sessions()[0].state, SessionState::Stopped);
    two.set_silent(false);
    until("the host that was away is cleared", || async { two.held().is_empty() }).await;
    assert_eq!(fleet.kill(&Kill::Host("three".to_owned())).await.unwrap_err().code, ErrorCode::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_batches_count_once_and_nonsense_is_skipped() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let agent = Agent::start(server.nats_url(), "one", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&agent]).await;
    let batch = agent.publish(agent.hits(&id, 10, 1)).await;
    agent.publish_again(&batch).await;
    let client = async_nats::connect(server.nats_url()).await.unwrap();
    for (subject, text) in [
        ("riptrace.v1.one.debugger.trace", &b"\xff\xfe"[..]),
        ("riptrace.v1.one.debugger.trace", b"{\"v\":2}"),
        ("riptrace.v1._.debugger.trace", b"{\"v\":1}"),
        ("riptrace.v1._server.order", b"{\"v\":1}"),
        ("riptrace.v1.one.heartbeat", b"{}"),
        ("riptrace.v1.two.heartbeat", b"{\"v\":1,\"host\":\"one\"}"),
    ] {
        client.publish(subject, text.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let edge = |direction| Edge { direction, traceparent: parent.into(), protocol: "http".into() };
    let mut events = vec![agent.edge(edge(Direction::Receive), 1)];
    events.extend(agent.hits(&id, 5, 1));
    events.push(agent.edge(edge(Direction::ReplySend), 1));
    events.extend(agent.hits(&id, 5, 1));
    agent.publish(events).await;
    let hits = until_final(&server, &session.id, 20).await;
    let traced =
        hits.iter().filter(|hit| hit.hit.trace_id.as_deref() == Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(traced.count(), 5);
    assert_eq!(server.fleet().malformed_count(), 6);
    agent.lose(&id, 7);
    agent.publish(agent.stats()).await;
    until("the counters are known", || async {
        let counts = server.store().counts(&session.id);
        counts.tracepoints.first().is_some_and(|tracepoint| {
            tracepoint.agent == *agent.id()
                && tracepoint.stored == 20
                && tracepoint.duplicates == 10
                && tracepoint.stats.as_ref().is_some_and(|stats| (stats.hits, stats.dropped) == (27, 7))
        })
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_time_is_over() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let agent = Agent::start(server.nats_url(), "one", &["orders"], 0).await;
    let new = NewSession { tracepoints: vec![tracepoint("orders")], ttl_seconds: 3, ..NewSession::default() };
    let session = server.fleet().create_session(new, "test").await.unwrap();
    until("it is armed", || async { agent.held().len() == 1 }).await;
    assert!(agent.held()[0].ttl_seconds <= 3);
    until("it is over", || async { agent.held().is_empty() }).await;
    until("it says so", || async { server.fleet().sessions()[0].state == SessionState::Stopped }).await;
    assert_eq!(server.fleet().sessions()[0].id, session.id);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_does_not_hold_up_the_order_and_what_it_brings_is_late() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let (one, two) =
        (Agent::start(&url, "one", &["orders"], 0).await, Agent::start(&url, "two", &["orders"], 0).await);
    let (session, id) = traced(&server, &[&one, &two]).await;
    until("the clocks are known", || async { one.assigned().is_some() && two.assigned().is_some() }).await;
    let held_back = two.hits(&id, 3, 1);
    // Further apart than any error of the two clocks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    two.set_silent(true);
    one.publish(one.hits(&id, 3, 1)).await;
    until_final(&server, &session.id, 3).await;
    assert_eq!(server.fleet().clock_state().silent, std::slice::from_ref(two.id()));
    two.set_silent(false);
    two.publish(held_back).await;
    let hits = until_final(&server, &session.id, 6).await;
    // What is late stands where it would have stood.
    let late: Vec<bool> = hits.iter().map(|hit| hit.hit.late).collect();
    assert_eq!(late, [true, true, true, false, false, false]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_goes_on_where_it_was() {
    let data = tempfile::tempdir().unwrap();
    let first = server(data.path(), &[]).await;
    let url = first.nats_url().to_owned();
    let agent = Agent::start(&url, "one", &["orders"], 0).await;
    let (session, id) = traced(&first, &[&agent]).await;
    agent.publish(agent.hits(&id, 50, 1)).await;
    until_final(&first, &session.id, 50).await;
    agent.publish(agent.hits(&id, 50, 1)).await;
    first.stop().await;
    // The broker is gone too. It comes back at the same port, so that the agent finds it.
    let second = server(data.path(), &[]).await;
    assert_eq!(second.nats_url(), url);
    agent.publish(agent.hits(&id, 50, 1)).await;
    let hits = until_final(&second, &session.id, 150).await;
    let seqs: Vec<u64> = hits.iter().map(|hit| hit.hit.seq).collect();
    assert_eq!(seqs, (0..150).collect::<Vec<_>>());
    assert_eq!(second.fleet().sessions().len(), 1);
    second.stop().await;
}
