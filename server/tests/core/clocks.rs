//! Clocks that do not go on as they went: a wall clock that is set, a machine that is booted anew, a server that coordinates
//! for the first time.

use super::*;

/// An hour.
const STEP_NS: i64 = 3_600_000_000_000;

/// Further apart than any error of the clocks.
const APART: Duration = Duration::from_millis(60);

/// Both agents have a hit each, one after the other, a number of times.
async fn take_turns(agents: &[&Agent], id: &TracepointId, rounds: u64) {
    for round in 0..rounds {
        for agent in agents {
            agent.publish(agent.hits(id, 1, round)).await;
            tokio::time::sleep(APART).await;
        }
    }
}

fn epoch(agent: &Agent) -> u64 {
    agent.assigned().map_or(0, |assigned| assigned.epoch)
}

async fn until_clocks(agents: &[&Agent]) {
    until("the clocks are known", || async { agents.iter().all(|agent| agent.assigned().is_some()) }).await;
}

/// What is stored of a session is what its agents counted, without a gap.
fn assert_nothing_missing(server: &Server, session: &SessionId, stored: u64) {
    let counts = server.store().counts(session);
    assert_eq!(counts.stored, stored);
    assert!(counts.tracepoints.iter().all(|one| one.missing == 0 && one.duplicates == 0), "{counts:?}");
    let sum: u64 = counts.tracepoints.iter().map(|one| one.stored).sum();
    assert_eq!(sum, stored);
}

/// The hits of each agent's run are in the order of its own clock.
fn assert_in_own_order(hits: &[StoredHit]) {
    let runs: std::collections::BTreeSet<&str> = hits.iter().map(|hit| &*hit.hit.agent).collect();
    for run in runs {
        let of_run = hits.iter().filter(|hit| &*hit.hit.agent == run);
        assert!(of_run.map(|hit| hit.hit.ktime_ns).is_sorted(), "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_that_is_set_by_an_hour_begins_an_epoch_and_moves_no_hit() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let one = Agent::start(&url, "one", &["orders"], 0).await;
    let two = Agent::start(&url, "two", &["orders"], -7_000_000_000).await;
    let (session, id) = traced(&server, &[&one, &two]).await;
    until_clocks(&[&one, &two]).await;
    take_turns(&[&one, &two], &id, 5).await;
    for step_ns in [STEP_NS, -2 * STEP_NS] {
        let before = epoch(&one);
        one.step_wall_clock(step_ns);
        until("the step began another epoch", || async { epoch(&one) > before }).await;
        take_turns(&[&one, &two], &id, 5).await;
    }
    let hits = until_final(&server, &session.id, 30).await;
    assert_nothing_missing(&server, &session.id, 30);
    let hosts: Vec<&str> = hits.iter().map(|hit| &*hit.hit.host).collect();
    assert_eq!(hosts, ["one", "two"].repeat(15), "hits are timed by the kernel's clock, which was not set");
    assert_in_own_order(&hits);
    assert!(server.fleet().clock_state().hosts.iter().any(|clock| clock.assigned.epoch >= epoch(&one)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_at_the_moment_of_a_step_are_in_their_host_s_order() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let one = Agent::start(&url, "one", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&one]).await;
    until_clocks(&[&one]).await;
    let before = epoch(&one);
    for round in 0..30 {
        one.publish(one.hits(&id, 2, round)).await;
        if round == 10 {
            one.step_wall_clock(STEP_NS);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("the step began another epoch", || async { epoch(&one) > before }).await;
    let hits = until_final(&server, &session.id, 60).await;
    assert_nothing_missing(&server, &session.id, 60);
    assert_in_own_order(&hits);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_booted_anew_has_another_clock() {
    let data = tempfile::tempdir().unwrap();
    let server = server(data.path(), &[]).await;
    let url = server.nats_url().to_owned();
    let one = Agent::start(&url, "one", &["orders"], 0).await;
    let two = Agent::start(&url, "two", &["orders"], 0).await;
    let (session, id) = traced(&server, &[&one, &two]).await;
    until_clocks(&[&one, &two]).await;
    take_turns(&[&one, &two], &id, 5).await;
    drop(one);
    // Its kernel counts from its boot: everything there seems to be days earlier.
    let one = Agent::start_booted(&url, "one", &["orders"], -900_000_000_000_000, "another boot").await;
    until("the next run holds the tracepoint", || async { one.held().len() == 1 }).await;
    until_clocks(&[&one]).await;
    take_turns(&[&one, &two], &id, 5).await;
    let hits = until_final(&server, &session.id, 20).await;
    assert_nothing_missing(&server, &session.id, 20);
    assert_in_own_order(&hits);
    let hosts: Vec<&str> = hits.iter().map(|hit| &*hit.hit.host).collect();
    assert_eq!(hosts, ["one", "two"].repeat(10));
    let boots: Vec<&str> =
        hits.iter().filter(|hit| &*hit.hit.host == "one").map(|hit| &*hit.hit.boot_id).collect();
    assert_eq!(boots, [["boot-of-one"; 5], ["another boot"; 5]].concat());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hosts_left_that_died_before_the_server_started_anew_is_ordered_by_the_clocks_of_before() {
    let data = tempfile::tempdir().unwrap();
    let first = server(data.path(), &[]).await;
    let url = first.nats_url().to_owned();
    let one = Agent::start(&url, "one", &["orders"], 3_600_000_000_000).await;
    let two = Agent::start(&url, "two", &["orders"], -7_000_000_000).await;
    let (session, id) = traced(&first, &[&one, &two]).await;
    until_clocks(&[&one, &two]).await;
    take_turns(&[&one, &two], &id, 10).await;
    drop((one, two));
    // The last of them are in the stream, and not final.
    first.stop().await;
    let second = server(data.path(), &[]).await;
    let hits = until_final(&second, &session.id, 20).await;
    assert_nothing_missing(&second, &session.id, 20);
    assert_in_own_order(&hits);
    let hosts: Vec<&str> = hits.iter().map(|hit| &*hit.hit.host).collect();
    assert_eq!(hosts, ["one", "two"].repeat(10));
    second.stop().await;
}
