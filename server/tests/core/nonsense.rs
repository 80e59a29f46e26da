//! What comes to the server that is no message of ours, or one of a newer version: it is counted and passed over, and what
//! comes with it is not lost.

use riptrace_common::wire::{
    batch::{PreviousRun, PreviousTracepoint},
    event::{Event, Stats},
    message,
};
use riptrace_server::store::MAX_HITS_PER_BATCH;

use super::*;

const TRACE: &str = "riptrace.v1.one.debugger.trace";

/// Bytes that are larger than any message of ours, and smaller than what the broker takes.
const OVERSIZED: usize = 5 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_oversized_malformed_or_of_another_version_is_counted_and_passed_over() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let agent = Agent::start(server.nats_url(), "one", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&agent]).await;
    let good = agent.hits(&id, 1, 1);
    let other_version = String::from_utf8(message::write(&agent.batch(90, good.clone())).unwrap()).unwrap();
    let too_many = agent.batch(91, vec![good[0].clone(); MAX_HITS_PER_BATCH + 1]);
    let of_another_host =
        riptrace_common::wire::batch::Batch { host: "two".to_owned(), ..agent.batch(92, good.clone()) };
    let deep = format!("{{\"v\":1,\"host\":{}", "[".repeat(200_000));
    let nonsense: Vec<Vec<u8>> = vec![
        vec![b'x'; OVERSIZED],
        deep.into_bytes(),
        Vec::new(),
        b"null".to_vec(),
        b"{\"v\":1,\"host\":7}".to_vec(),
        other_version.replacen("\"v\":1", "\"v\":2", 1).into_bytes(),
        other_version.replacen("\"v\":1,", "", 1).into_bytes(),
        message::write(&too_many).unwrap(),
        message::write(&of_another_host).unwrap(),
    ];
    let client = async_nats::connect(server.nats_url()).await.unwrap();
    for (round, text) in (0..).zip(&nonsense) {
        client.publish(TRACE, text.clone().into()).await.unwrap();
        // Between them, what is right.
        client.flush().await.unwrap();
        agent.publish(agent.hits(&id, 2, round)).await;
    }
    // The first hit was only in what is nonsense: its number is missing, and that is counted.
    let stored = 2 * nonsense.len();
    until_final(&server, &session.id, stored).await;
    assert_eq!(server.fleet().malformed_count(), nonsense.len() as u64);
    let counts = server.store().counts(&session.id);
    assert_eq!((counts.stored, counts.tracepoints[0].missing), (stored as u64, 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_kinds_that_are_not_known_yet_do_not_cost_the_hits_beside_them() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let agent = Agent::start(server.nats_url(), "one", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&agent]).await;
    let mut batch = serde_json::to_value(agent.batch(1, agent.hits(&id, 3, 1))).unwrap();
    let unknown = serde_json::json!({"kind": "from_the_future", "hit": {"deep": [1, {"x": null}]}});
    batch["events"].as_array_mut().unwrap().insert(1, unknown);
    batch["v"] = 1.into();
    batch["also_new"] = true.into();
    let client = async_nats::connect(server.nats_url()).await.unwrap();
    client.publish(TRACE, batch.to_string().into()).await.unwrap();
    client.flush().await.unwrap();
    let hits = until_final(&server, &session.id, 3).await;
    assert_eq!(hits.iter().map(|hit| hit.hit.seq).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(server.fleet().malformed_count(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_accounts_for_earlier_runs_of_its_own_host_only() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let one = Agent::start(&url, "one", &["orders"], 0).await;
    let two = Agent::start(&url, "two", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&one, &two]).await;
    one.publish(one.hits(&id, 5, 1)).await;
    until_final(&server, &session.id, 5).await;
    let account = || {
        let stats = Stats { tracepoint: id.0.clone(), hits: 9, emitted: 8, dropped: 1, ..Stats::default() };
        let tracepoints = vec![PreviousTracepoint { session: Some(session.id.clone()), stats }];
        let run = PreviousRun { agent: one.id().clone(), hits: 9, emitted: 8, exact: true, tracepoints };
        vec![Event::PreviousRun(run)]
    };
    two.publish(account()).await;
    until("the foreign account is refused", || async { server.fleet().malformed_count() == 1 }).await;
    let of_one = || {
        let counts = server.store().counts(&session.id);
        counts.tracepoints.into_iter().find(|counts| counts.agent == *one.id()).unwrap()
    };
    assert!(!of_one().is_closed);
    let next = Agent::start(&url, "one", &["orders"], 0).await;
    next.publish(account()).await;
    until("the run is accounted for", || async { of_one().is_closed }).await;
    let counts = of_one();
    assert_eq!((counts.stored, counts.stats.map(|stats| (stats.hits, stats.dropped))), (5, Some((9, 1))));
    server.stop().await;
}
