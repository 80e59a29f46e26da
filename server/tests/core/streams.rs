//! A stream that is another one than the index was made of: what is there stays, what comes stands behind it.

use super::*;

const STREAM: &str = "RIPTRACE_TRACE";

async fn last_message(jetstream: &async_nats::jetstream::Context) -> u64 {
    jetstream.get_stream(STREAM).await.unwrap().cached_info().state.last_sequence
}

/// Every hit is there once, in the order in which they were made, and final.
fn assert_whole(server: &Server, session: &SessionId, hits: &[StoredHit]) {
    let count = hits.len() as u64;
    assert_eq!(hits.iter().map(|hit| hit.hit.seq).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    assert_eq!(
        hits.iter().map(|hit| hit.hit.order.unwrap()).collect::<Vec<_>>(),
        (1..=count).collect::<Vec<_>>()
    );
    let counts = server.store().counts(session);
    assert_eq!((counts.stored, counts.placed, counts.late), (count, count, 0));
    assert!(counts.tracepoints.iter().all(|one| one.missing == 0 && one.duplicates == 0), "{counts:?}");
    assert_eq!(server.store().totals().out_of_sequence, 0);
    assert!(server.fleet().problems().is_empty(), "{:?}", server.fleet().problems());
}

/// A stream is deleted and made anew while one server reads it and another is down. `outgrown`: the new one has more messages than
/// the other had read of the first.
async fn begins_anew(outgrown: bool) {
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
    until_final(&broker, &session.id, 20).await;
    first.stop().await;

    let jetstream = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
    let read = last_message(&jetstream).await;
    let config = jetstream.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    jetstream.delete_stream(STREAM).await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    let mut hits = 20;
    while outgrown && last_message(&jetstream).await <= read + 10 {
        agent.publish(agent.hits(&id, 1, hits)).await;
        hits += 1;
    }
    let second = server(data.path(), &["--nats", &url]).await;
    agent.publish(agent.hits(&id, 3, 1)).await;
    hits += 3;
    let stored = usize::try_from(hits).unwrap();
    assert_whole(&second, &session.id, &until_final(&second, &session.id, stored).await);
    assert_whole(&broker, &session.id, &until_final(&broker, &session.id, stored).await);
    // It goes on where it was in the new stream, and reads nothing of it as if it were of the first.
    second.stop().await;
    agent.publish(agent.hits(&id, 2, 1)).await;
    let third = server(data.path(), &["--nats", &url]).await;
    assert_whole(&third, &session.id, &until_final(&third, &session.id, stored + 2).await);
    third.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_made_anew_is_read_behind_what_is_in_the_index() {
    begins_anew(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_made_anew_and_has_outgrown_the_one_before_is_recognised() {
    begins_anew(true).await;
}
