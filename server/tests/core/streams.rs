//! A stream that is another one than the index was made of.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_made_anew_is_not_mixed_with_the_index_and_it_is_said_what_to_do() {
    let (broker_data, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = server(broker_data.path(), &[]).await;
    let url = broker.nats_url().to_owned();
    let first = server(data.path(), &["--nats", &url]).await;
    let agent = Agent::start(&url, "one", &["orders"], 0).await;
    let (session, id) = traced(&first, &[&agent]).await;
    for round in 0..20 {
        agent.publish(agent.hits(&id, 1, round)).await;
    }
    until_final(&first, &session.id, 20).await;
    first.stop().await;

    let client = async_nats::connect(&url).await.unwrap();
    async_nats::jetstream::new(client).delete_stream("RIPTRACE_TRACE").await.unwrap();
    let second = server(data.path(), &["--nats", &url]).await;
    until("it says what to do", || async {
        second
            .fleet()
            .problems()
            .iter()
            .any(|problem| problem.contains("remove the index from the data folder"))
    })
    .await;
    agent.publish(agent.hits(&id, 3, 1)).await;
    assert_eq!(second.store().counts(&session.id).stored, 20, "what is there stays");
    second.stop().await;

    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        drop(std::fs::remove_file(data.path().join(file)));
    }
    let third = server(data.path(), &["--nats", &url]).await;
    agent.publish(agent.hits(&id, 2, 1)).await;
    let hits = until_final(&third, &session.id, 5).await;
    assert_eq!(hits.iter().map(|hit| hit.hit.seq).collect::<Vec<_>>(), (20..25).collect::<Vec<_>>());
    assert!(third.fleet().problems().is_empty(), "{:?}", third.fleet().problems());
    third.stop().await;
    broker.stop().await;
}
