//! An agent that is killed: the next one, in the same state folder, says what it had counted.

use super::*;

/// Hits that are stored when the agent stands still.
const BEFORE: u64 = 500;
/// Hits that the kernel counts, and nobody takes.
const MEANWHILE: u64 = 3_000;

/// The agent stands still while the service goes on, and is killed then: how often the line was executed, by which run.
fn kill_in_mid_stream(scene: &mut Scene) -> Result<(u64, String)> {
    scene.meter.run(BEFORE, 0)?;
    scene.wait_stored(BEFORE)?;
    let run = scene.run()?;
    scene.agent()?.signal(libc::SIGSTOP)?;
    let truth = scene.meter.run(MEANWHILE, 0)?;
    scene.agent.take().context("an agent")?.kill()?;
    Ok((truth, run))
}

#[test]
fn a_killed_agent_accounts_for_its_last_run_at_the_next_start() -> Result<()> {
    let Some(mut scene) = Scene::start("agent-killed")? else { return Ok(()) };
    let (truth, run) = kill_in_mid_stream(&mut scene)?;
    // As long as nobody knows, nobody says that nothing was lost.
    wait(|| Ok(scene.status()?.unaccounted.iter().any(|open| *open.as_str() == *run).then_some(())))
        .context("waiting for the run to be over")?;
    scene.restart_agent()?;
    let status = scene.wait_accounted(truth)?;
    ensure!(status.stored == BEFORE && status.losses.unknown == MEANWHILE, "{:?}", status.losses);
    scene.wait_armed_again(&run)?;
    let more = scene.meter.run(BEFORE, 0)?;
    let status = scene.wait_accounted(more)?;
    ensure!(status.losses.total() == MEANWHILE, "{:?}", status.losses);
    scene.check_story(2 * BEFORE)?;
    scene.agent.take().context("an agent")?.end()?;
    // What was pinned is gone with the run that pinned it.
    let pins = pinned(&scene.folder)?;
    ensure!(pins.is_empty(), "{pins:?}");
    Ok(())
}

#[test]
fn where_counters_can_t_be_pinned_what_a_killed_agent_counted_is_unknown_and_not_none() -> Result<()> {
    let Some(mut scene) = Scene::start("agent-killed-unpinned")? else { return Ok(()) };
    // A run that finds no BPF file system, and none that it could mount.
    let run = scene.run()?;
    scene.agent.take().context("an agent")?.end()?;
    scene.agent = Some(unpinned_agent(&scene)?);
    scene.wait_armed_again(&run)?;
    let log = scene.agent()?.log();
    ensure!(log.contains("counters are not pinned"), "{log}");
    let (truth, run) = kill_in_mid_stream(&mut scene)?;
    scene.restart_agent()?;
    scene.wait_armed_again(&run)?;
    let is_open = || -> Result<Option<SessionStatus>> {
        let status = scene.status()?;
        Ok(status.unaccounted.iter().any(|open| *open.as_str() == *run).then_some(status))
    };
    let status = wait(is_open).context("waiting for the run to be over")?;
    let accounted = status.stored + status.losses.total();
    ensure!((BEFORE..=truth).contains(&accounted), "{accounted} of {truth}: {:?}", status.losses);
    let shown = scene.server.run(&["session", "show", &scene.session])?;
    ensure!(shown.contains(&format!("not known: what agent {run} counted")), "{shown}");
    Ok(())
}

/// An agent that sees an empty folder, which can't be written to, where the BPF file system is.
fn unpinned_agent(scene: &Scene) -> Result<Program> {
    const HIDE: &str = "mount -t tmpfs -o ro none /sys/fs && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", HIDE, "sh"]);
    scene.folder.agent_by(command, &scene.server.nats, "one", &[&scene.service], &["--budget", "0"])
}

/// Folders of pins of agents whose state is in this folder.
fn pinned(folder: &Folder) -> Result<Vec<std::path::PathBuf>> {
    use std::os::unix::fs::MetadataExt as _;
    let state = std::fs::metadata(folder.path().join("state-one"))?;
    let pins = format!("/sys/fs/bpf/riptrace-{:x}-{:x}", state.dev(), state.ino());
    let Ok(entries) = std::fs::read_dir(pins) else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.path())).collect()
}
