//! Who is away for a while under load, and comes back: the broker; an agent that stands still.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;
use riptrace_tests::nats::{self, NatsServer};

/// How long the broker is away, in seconds; another number is taken from the environment: `RIPTRACE_AWAY_SECONDS=60` shows
/// what a queue does not hold.
const AWAY_SECONDS: u64 = 10;
const AWAY_VARIABLE: &str = "RIPTRACE_AWAY_SECONDS";
/// How often the line is executed meanwhile; `RIPTRACE_AWAY_HITS_PER_SECOND` is another number.
const HITS_PER_SECOND: u64 = 2_000;
const HITS_VARIABLE: &str = "RIPTRACE_AWAY_HITS_PER_SECOND";

fn setting(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text:?} is no number")),
        Err(_) => Ok(default),
    }
}

#[test]
fn a_broker_that_is_away_under_load_costs_what_the_queue_does_not_hold() -> Result<()> {
    const TEST: &str = "broker-away";
    if !nats::is_there(TEST) || !requirements::bpf(TEST) {
        return Ok(());
    }
    let (away, rate) = (setting(AWAY_VARIABLE, AWAY_SECONDS)?, setting(HITS_VARIABLE, HITS_PER_SECOND)?);
    let mut broker = NatsServer::start()?;
    let mut scene = Scene::start_in(Folder::new()?, TEST, &["--nats", &broker.url()], &[])?;
    scene.meter.begin(rate * (away + 4), rate)?;
    scene.wait_stored(rate)?;
    broker.kill()?;
    std::thread::sleep(Duration::from_secs(away));
    broker.restart()?;
    let truth = scene.meter.wait()?;
    let status = scene.wait_accounted(truth)?;
    let losses = &status.losses;
    println!("{truth} hits were made, {} are stored, {losses:?}", status.stored);
    ensure!(losses.unknown == 0 && losses.undecodable == 0 && losses.refused == 0, "{losses:?}");
    let is_default = (away, rate) == (AWAY_SECONDS, HITS_PER_SECOND);
    ensure!(!is_default || losses.queue_full == 0, "the queue holds {AWAY_SECONDS} s of these: {losses:?}");
    if is_default { scene.check_story(status.stored) } else { Ok(()) }
}

#[test]
fn an_agent_that_stands_still_is_not_waited_for_and_what_it_brings_is_late() -> Result<()> {
    let other_service = named("agent-goes-on");
    const HELD_BACK: u64 = 2_000;
    let Some(mut scene) = Scene::start("agent-stands-still")? else { return Ok(()) };
    let _other_agent = start_agent(&scene.folder, &scene.server.nats, "two", &other_service, &[])?;
    let mut other = Meter::start(&meter::program()?, &other_service)?;
    scene.server.wait_for_services(&[(&other_service, 1)])?;
    scene.server.run(&[
        "session",
        "add",
        &scene.session,
        &other_service,
        &meter::location()?,
        "--rate",
        "0",
    ])?;
    scene.server.wait_armed(&scene.session, 2)?;
    let before = scene.meter.run(100, 0)? + other.run(100, 0)?;
    scene.wait_stored(before)?;

    scene.agent()?.signal(libc::SIGSTOP)?;
    scene.meter.run(HELD_BACK, 0)?;
    let over_ns = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    // The other one goes on, and its hits become final without the one that stands still.
    other.begin(10_000, 1_000)?;
    wait(|| Ok((scene.status()?.watermark_ns > over_ns).then_some(())))
        .context("waiting for the watermark to leave the silent agent behind")?;
    scene.agent()?.signal(libc::SIGCONT)?;
    let truth = before + HELD_BACK + 10_000;
    other.wait()?;
    let status = scene.wait_accounted(truth)?;
    ensure!(status.losses.total() == 0, "{:?}", status.losses);
    let story = scene.server.story(&scene.session, usize::try_from(truth)?)?;
    let late =
        |host: &str| story.iter().filter(|stored| &*stored.hit.host == host && stored.hit.late).count();
    ensure!(late("one") as u64 == HELD_BACK, "{} hits of one are late", late("one"));
    ensure!(late("two") == 0, "{} hits of two are late", late("two"));
    // A late hit stands where it belongs: each host's hits are in the order of its own clock.
    for host in ["one", "two"] {
        let times = story.iter().filter(|stored| &*stored.hit.host == host).map(|stored| stored.hit.ktime_ns);
        ensure!(times.is_sorted(), "the hits of {host} are not in the order of its clock");
    }
    scene.check_story(truth)
}
