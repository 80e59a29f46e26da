//! How tracepoints live: they wait for programs, are replaced, end, outlive the broker, and are gone when the agent is.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use riptrace_common::wire::{
    batch::{HEARTBEAT_MS, IDLE_HEARTBEAT_MS},
    event::{DetachReason, Stats},
};

use super::*;

fn location(name: &str) -> String {
    probed_line(&Version::local().unwrap(), name).unwrap().location()
}

/// A copy of the fixtures' program that no other test runs.
fn own_program(setting: &Setting) -> PathBuf {
    let copy = setting.folder.path().join("fixtures-own");
    fs::copy(go::build(&Version::local().unwrap(), Mode::Optimised).unwrap(), &copy).unwrap();
    copy.canonicalize().unwrap()
}

/// A tracepoint on every process of a program.
fn of_program(program: &Path, id: &str, name: &str) -> TracepointSpec {
    let exe = program.display().to_string();
    TracepointSpec { target: Target { exe: Some(exe), ..Target::default() }, ..spec(id, 0, location(name)) }
}

fn ends(batches: &[Batch]) -> Vec<DetachReason> {
    let events = batches.iter().flat_map(|batch| &batch.events);
    events
        .filter_map(|event| if let Event::Detached(end) = event { Some(end.reason) } else { None })
        .collect()
}

fn last_stats(batches: &[Batch]) -> Stats {
    let events = batches.iter().flat_map(|batch| &batch.events);
    events
        .filter_map(|event| if let Event::Stats(stats) = event { Some(stats) } else { None })
        .next_back()
        .unwrap()
        .clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_later_is_traced() {
    let Some(setting) = Setting::start("agent, later programs", &["--budget", "0"]).await else { return };
    let program = own_program(&setting);
    let state = setting.create(of_program(&program, "t_later", "counts.Outer")).await;
    assert_eq!(state.status, TracepointStatus::Waiting, "{state:?}");

    let mut emitted = 0;
    let mut pids = HashSet::new();
    // The second one starts when the first has ended.
    for _ in 0..2 {
        let mut fixture = Fixture::start(&program, &["counts"]).unwrap();
        let begin = Instant::now();
        loop {
            let state = setting.list().await.remove(0);
            if state.bindings.iter().any(|binding| binding.pids == [fixture.pid()]) {
                let told = &state.bindings[0].warnings;
                let of_process = format!("process {} is traced from", fixture.pid());
                assert!(told.iter().any(|warning| warning.starts_with(&of_process)), "{told:?}");
                break;
            }
            assert!(begin.elapsed() < TIMEOUT, "{state:?}\n{}", setting.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pids.insert(fixture.pid());
        fixture.release().unwrap();
        fixture.wait_done(TIMEOUT).unwrap();
        emitted += fixture.end().unwrap().counts["counts.Outer"];
    }
    let state = setting.wait_for(TracepointStatus::Waiting).await;
    assert_eq!(state.stats.hits, emitted);
    let batches = setting.published(emitted).await;
    let hits = hits(&batches);
    assert_eq!(hits.iter().map(|hit| hit.pid).collect::<HashSet<_>>(), pids);
    assert!(hits.iter().map(|hit| hit.seq).eq(0..emitted), "one numbering for all processes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracepoint_is_replaced_by_a_newer_one_only() {
    let Some(setting) = Setting::start("agent, revisions", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    let first = spec("t", fixture.pid(), location("counts.Outer"));
    setting.create(first.clone()).await;
    let again = setting.create(TracepointSpec { ttl_seconds: 60, ..first.clone() }).await;
    assert!(again.expires_in_seconds <= 60);
    for (spec, said) in [
        (TracepointSpec { revision: 0, ..first.clone() }, "is older"),
        (TracepointSpec { owner: "other".into(), ..first.clone() }, "is held for"),
    ] {
        let refused: Result<TracepointState, _> =
            setting.ask(Endpoint::CreateTracepoint, &CreateTracepoint { spec }).await;
        let error = refused.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        assert!(error.text.contains(said), "{}", error.text);
    }
    let next = TracepointSpec { revision: 2, location: location("counts.Inner"), ..first };
    let state = setting.create(next).await;
    assert_eq!((state.status, state.revision), (TracepointStatus::Armed, 2));
    assert_eq!(setting.list().await.len(), 1);
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let removed =
        setting.remove(RemoveTracepoints { owner: Some("test".into()), ..Default::default() }).await;
    let truth = fixture.end().unwrap();
    assert_eq!(removed[0].stats.hits, truth.counts["counts.Inner"]);
    setting.published(removed[0].stats.emitted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_rare_while_there_is_nothing_to_tell() {
    let Some(setting) = Setting::start("agent, heartbeats", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    let mut heartbeats = setting.peer.heartbeats(HOST).await.unwrap();
    let idle = heartbeats.wait_for("nothing to tell", |heartbeat| heartbeat.next_ms == IDLE_HEARTBEAT_MS);
    assert!(idle.await.unwrap().generations.is_empty());
    setting.create(spec("t", fixture.pid(), location("counts.Plain"))).await;
    let held = heartbeats.wait_for("the tracepoint", |heartbeat| !heartbeat.generations.is_empty());
    assert_eq!(held.await.unwrap().next_ms, HEARTBEAT_MS);
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let removed =
        setting.remove(RemoveTracepoints { owner: Some("test".into()), ..Default::default() }).await;
    let emitted = removed[0].stats.emitted;
    let idle = heartbeats.wait_for("nothing to tell", |heartbeat| heartbeat.next_ms == IDLE_HEARTBEAT_MS);
    assert_eq!(idle.await.unwrap().published, emitted, "everything was told of before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracepoint_ends_by_its_limit_and_is_gone_after_its_time() {
    let Some(setting) = Setting::start("agent, limits", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    let mut limited = spec("t", fixture.pid(), location("counts.Plain"));
    limited.options.limit = 10;
    setting.create(limited.clone()).await;
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let state = setting.wait_for(TracepointStatus::Ended).await;
    assert_eq!(state.stats.emitted, 10);
    let batches = setting.published(10).await;
    assert_eq!(hits(&batches).len(), 10);
    assert_eq!(ends(&batches), [DetachReason::Limit]);
    // Asked for again it does not begin anew, and its time is another.
    let state = setting.create(TracepointSpec { ttl_seconds: 1, ..limited }).await;
    assert_eq!(state.status, TracepointStatus::Ended);
    let begin = Instant::now();
    while !setting.list().await.is_empty() {
        assert!(begin.elapsed() < TIMEOUT, "it is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_wait_for_a_broker_that_is_away_and_come_once() {
    let Some(mut setting) = Setting::start("agent, broker away", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    setting.create(spec("t", fixture.pid(), location("counts.Plain"))).await;
    setting.server.kill().unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    setting.server.restart().unwrap();
    let expected = fixture.end().unwrap().counts["counts.Plain"];
    setting.peer.wait_for_agent(HOST).await.unwrap();
    assert_eq!(setting.list().await[0].stats.emitted, expected);
    let batches = setting.published(expected).await;
    let seqs: HashSet<u64> = hits(&batches).iter().map(|hit| hit.seq).collect();
    assert_eq!((hits(&batches).len() as u64, seqs.len() as u64), (expected, expected));
    assert!(batches.iter().map(|batch| batch.seq).collect::<HashSet<_>>().len() == batches.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_in_the_queue_is_counted() {
    let options = ["--budget", "0", "--queue-bytes", "4194304"];
    let Some(mut setting) = Setting::start("agent, full queue", &options).await else { return };
    let mut fixture = counts_fixture();
    for (number, name) in ["counts.Plain", "counts.Plain", "counts.Plain", "counts.Plain"].iter().enumerate()
    {
        setting.create(spec(&format!("t_{number}"), fixture.pid(), location(name))).await;
    }
    setting.server.kill().unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    // The hits are in the queue, or not, when the last of them was taken.
    tokio::time::sleep(Duration::from_secs(2)).await;
    setting.server.restart().unwrap();
    setting.peer.wait_for_agent(HOST).await.unwrap();
    let emitted: u64 = setting.list().await.iter().map(|state| state.stats.emitted).sum();
    let mut heartbeats = setting.peer.heartbeats(HOST).await.unwrap();
    let heartbeat = heartbeats
        .wait_for("an account of all hits", |beat| {
            beat.queued == 0 && beat.published + beat.losses.queue_full == emitted
        })
        .await
        .unwrap();
    let batches = setting.peer.stored().await.unwrap();
    assert_eq!(hits(&batches).len() as u64, heartbeat.published);
    assert!(heartbeat.losses.queue_full > 0, "4 MiB hold no 20,000 hits: {heartbeat:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_when_the_agent_ends() {
    let Some(mut setting) = Setting::start("agent, end", &["--budget", "0"]).await else { return };
    let mut fixture = counts_fixture();
    setting.create(spec("t", fixture.pid(), location("counts.Outer"))).await;
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    setting.agent.take().unwrap().end().unwrap();
    let expected = fixture.end().unwrap().counts["counts.Outer"];
    let batches = setting.peer.stored().await.unwrap();
    assert_eq!(hits(&batches).len() as u64, expected);
    let stats = last_stats(&batches);
    assert_eq!((stats.hits, stats.emitted), (expected, expected));
    assert_eq!(ends(&batches), [DetachReason::Removed]);
}
