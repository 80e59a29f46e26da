//! The server's core against a real broker and agents that are made up: what is wanted gets to the hosts, what happens there
//! gets into the index in one order, whatever ends in between.

use std::{future::Future, path::Path, time::Duration};

use clap::Parser;
use riptrace_common::{
    id::{SessionId, TracepointId},
    wire::{
        api::{Finality, HitQuery, NewSession, NewTracepoint, Selector, Session, StoredHit},
        control::Target,
    },
};
use riptrace_server::{
    run::Server,
    settings::{Arguments, Settings},
};

mod fake;

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
