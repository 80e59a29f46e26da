//! Many agents that only live: heartbeats and exchanges of timestamps, by the agent's own code, a connection for each of
//! them, and what the server spends on them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use riptrace_agent::{
    agent::{clock, stamp::Clock},
    nats::connection::{self, ConnectionSettings},
    trace::host::monotonic_ns,
};
use riptrace_common::{
    id::AgentId,
    wire::{
        batch::{HEARTBEAT_MS, Heartbeat, IDLE_HEARTBEAT_MS},
        message::{self, Reply},
        profile::{HostFacts, Profile},
        subject::{Endpoint, Subjects},
    },
};
use riptrace_tests::fleet::{Folder, PATIENCE, Server};
use tokio::{sync::watch, task::JoinSet};

use super::{
    Goal, row,
    usage::{processor_time, resident_bytes},
};

const AGENTS: usize = 1000;
/// Until the first exchanges, which follow each other quickly, are over.
const SETTLE: Duration = Duration::from_secs(15);
const MEASURE: Duration = Duration::from_secs(20);

pub(crate) async fn measure() -> Result<()> {
    measure_as("idle agents", false).await?;
    measure_as("agents that hold tracepoints", true).await
}

async fn measure_as(kind: &str, is_tracing: bool) -> Result<()> {
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let mut agents = JoinSet::new();
    for number in 0..AGENTS {
        let url = server.nats.clone();
        agents.spawn(async move {
            if let Err(error) = agent(number, url, is_tracing).await {
                eprintln!("agent {number}: {error:#}");
            }
        });
    }
    let begin = Instant::now();
    loop {
        let hosts = server.ask(&["hosts", "--json"])?;
        let synchronised = hosts.iter().filter(|host| !host["clock"].is_null()).count();
        if synchronised == AGENTS {
            break;
        }
        ensure!(begin.elapsed() < 3 * PATIENCE, "{} hosts, {synchronised} with a clock", hosts.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let pid = server.program.pid();
    let broker = folder.broker("server");
    let (time, broker_time) = (processor_time(pid)?, broker.map(processor_time).transpose()?);
    tokio::time::sleep(MEASURE).await;
    let share = |spent: Duration| 100.0 * spent.as_secs_f64() / MEASURE.as_secs_f64();
    let spent = processor_time(pid)?.saturating_sub(time);
    let what = |text: &str| format!("{AGENTS} {kind}, heartbeats and exchanges of timestamps: {text}");
    let goal = (!is_tracing).then_some(Goal::AtMost(1.0));
    row(&what("the server's processor time"), "% of a core", &[share(spent)], goal);
    if let (Some(broker), Some(before)) = (broker, broker_time) {
        let spent = processor_time(broker)?.saturating_sub(before);
        row(&what("the broker's processor time"), "% of a core", &[share(spent)], None);
    }
    let mebibytes = resident_bytes(pid)? as f64 / f64::from(1 << 20);
    row(&what("the server's resident memory"), "MiB", &[mebibytes], None);
    Ok(())
}

/// An agent's connection, its answers, its heartbeats.
async fn agent(number: usize, url: String, is_tracing: bool) -> Result<()> {
    let subjects = Subjects::default();
    let host = format!("crowd-{number:04}");
    let agent = AgentId::from(format!("a_crowd{number:04}"));
    let boot_id = format!("00000000-0000-0000-0000-{number:012}");
    let settings = ConnectionSettings { urls: vec![url], ..ConnectionSettings::default() };
    let (connected, _) = watch::channel(false);
    let client = connection::connect(&settings, &host, connected).await?;
    let exchanges = subjects.of(&host, Endpoint::ClockSync)?;
    let answers =
        clock::answer(client.clone(), exchanges, agent.clone(), boot_id.clone(), Arc::new(Clock::default()));
    // They end with this.
    let mut answering = JoinSet::new();
    answering.spawn(async move { drop(answers.await) });
    let mut profiles = client.subscribe(subjects.of(&host, Endpoint::ProfileGet)?).await?;
    let facts = HostFacts {
        host: host.clone(),
        agent: agent.clone(),
        boot_id: boot_id.clone(),
        ..HostFacts::default()
    };
    let publisher = client.clone();
    answering.spawn(async move {
        while let Some(request) = profiles.next().await {
            let reply = Reply::from(Ok(Profile { host: facts.clone(), ..Profile::default() }));
            if let (Some(reply_to), Ok(text)) = (request.reply, serde_json::to_vec(&reply)) {
                let _ = publisher.publish(reply_to, text.into()).await;
            }
        }
    });
    let subject = subjects.of(&host, Endpoint::Heartbeat)?;
    // Not all at once: agents of a fleet start at different times.
    let next_ms = if is_tracing { HEARTBEAT_MS } else { IDLE_HEARTBEAT_MS };
    let period = Duration::from_millis(next_ms.into());
    tokio::time::sleep(period * u32::try_from(number)? / u32::try_from(AGENTS)?).await;
    let generations: &[_] =
        if is_tracing { &[serde_json::json!({ "owner": "bench", "generation": 1 })] } else { &[] };
    let mut beat = tokio::time::interval(period);
    loop {
        beat.tick().await;
        let now = monotonic_ns();
        let heartbeat: Heartbeat = serde_json::from_value(serde_json::json!({
            "host": host, "agent": agent, "boot_id": boot_id, "ktime_ns": now, "complete_until_ktime_ns": now,
            "next_ms": next_ms, "generations": generations,
        }))?;
        client.publish(subject.clone(), message::write(&heartbeat)?.into()).await?;
    }
}
