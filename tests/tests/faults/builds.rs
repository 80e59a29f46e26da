//! Services of which some, or later ones, are built of another source.

use std::path::Path;

use super::*;

/// A meter of this source, built and started in this folder.
fn start(folder: &Path, source: &str, service: &str) -> Result<Meter> {
    Meter::start(&meter::program_of(source, folder)?, service)
}

/// The state of the one tracepoint on a host, once it is like that.
fn wait_state(
    server: &Server,
    session: &str,
    host: &str,
    fits: impl Fn(&TracepointState) -> bool,
) -> Result<TracepointState> {
    let mut last = None;
    wait(|| {
        let hosts = server.status(session)?.hosts;
        last = hosts.into_iter().find(|one| one.host == host).and_then(|one| one.state);
        Ok(last.clone().filter(&fits))
    })
    .with_context(|| format!("waiting for {host}; it is {last:?}"))
}

fn is_armed_on(pid: u32) -> impl Fn(&TracepointState) -> bool {
    move |state| {
        let pids = state.bindings.iter().flat_map(|binding| &binding.pids);
        state.status == TracepointStatus::Armed && pids.eq([&pid])
    }
}

#[test]
fn a_service_that_restarts_with_another_build_is_followed_or_stale() -> Result<()> {
    let service = &*named("restarted-with-new-build");
    if !requirements::bpf(service) {
        return Ok(());
    }
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let _agent = start_agent(&folder, &server.nats, "one", service, &[])?;
    let source = meter::source()?;
    let mut meter = start(folder.path(), &source, service)?;
    server.wait_for_services(&[(service, 1)])?;
    let line = meter::line(&source)?;
    let session = server.session(&[(service, &format!("meter/main.go:{line}"))], &["--rate", "0"], 1)?;
    let mut truth = meter.run(200, 0)?;
    drop(meter);

    // Something else was changed, further up: the line is another one.
    let moved = source.replacen("// Meter is", "// More is said of it here,\n// and here.\n\n// Meter is", 1);
    let new_line = meter::line(&moved)?;
    ensure!(new_line == line + 3);
    let mut meter = start(folder.path(), &moved, service)?;
    let state = wait_state(&server, &session, "one", is_armed_on(meter.pid()))?;
    // The former build stays armed for a while, should it come back.
    let told = state.bindings.iter().find(|binding| binding.pids == [meter.pid()]).context("a binding")?;
    let expected = format!("main.go:{new_line}");
    ensure!(told.moved_to.as_ref().is_some_and(|moved| moved.ends_with(&expected)), "{told:?}");
    truth += meter.run(300, 0)?;
    drop(meter);

    // The statement itself is another one.
    let changed = moved.replacen("m.Count += by", "m.Count = m.Count + by", 1);
    let mut meter = start(folder.path(), &changed, service)?;
    let is_stale = |state: &TracepointState| state.status == TracepointStatus::Stale;
    let state = wait_state(&server, &session, "one", is_stale)?;
    let reason = &state.failures[0].reason;
    ensure!(state.failures[0].stale && reason.contains("no statement `m.Count += by"), "{reason}");
    meter.run(100, 0)?;
    let shown = server.run(&["session", "show", &session])?;
    ensure!(shown.contains("stale"), "{shown}");
    drop(meter);

    // As it was: traced again.
    let mut meter = start(folder.path(), &source, service)?;
    wait_state(&server, &session, "one", is_armed_on(meter.pid()))?;
    truth += meter.run(50, 0)?;
    let story = server.story(&session, usize::try_from(truth)?)?;
    let of = |line: u32| story.iter().filter(|stored| stored.hit.location.line == line).count();
    ensure!((of(line), of(new_line), story.len()) == (250, 300, 550), "{} {}", of(line), of(new_line));
    let status = server.status(&session)?;
    ensure!(status.stored == truth && status.losses.total() == 0, "{status:?}");
    Ok(())
}

/// Another program of the same service.
const OTHER: &str = "package main

import (
	\"bufio\"
	\"fmt\"
	\"os\"
)

func main() {
	fmt.Println(0)
	bufio.NewScanner(os.Stdin).Scan()
}
";

#[test]
fn a_tracepoint_that_binds_on_one_host_says_of_each_host_what_became_of_it() -> Result<()> {
    let service = &*named("binds-on-some-hosts");
    if !requirements::bpf(service) {
        return Ok(());
    }
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let source = meter::source()?;
    let line = meter::line(&source)?;
    // The other build's file ends before the line.
    ensure!(u32::try_from(OTHER.lines().count())? < line);
    let (with, without) = (folder.path().join("with"), folder.path().join("without"));
    let mut meter = start(&with, &source, service)?;
    let _lacks_it = start(&without, OTHER, service)?;
    let exe = |folder: &Path| folder.join("program").display().to_string();
    let mut agents = Vec::new();
    for (host, exe) in [("has-it", exe(&with)), ("lacks-it", exe(&without)), ("elsewhere", "none".to_owned())]
    {
        agents.push(start_agent(&folder, &server.nats, host, service, &["--only-exe", &exe])?);
    }
    server.wait_for_services(&[(service, 2)])?;
    wait(|| Ok((server.ask(&["hosts", "--json"])?.len() == 3).then_some(())))?;
    let session = server.session(&[(service, &format!("meter/main.go:{line}"))], &["--rate", "0"], 1)?;
    let state = wait_state(&server, &session, "lacks-it", |state| !state.failures.is_empty())?;
    ensure!(matches!(state.status, TracepointStatus::Failed | TracepointStatus::Stale), "{state:?}");
    ensure!(state.failures[0].reason.contains("main.go"), "{state:?}");
    wait_state(&server, &session, "elsewhere", |state| state.status == TracepointStatus::Waiting)?;
    wait_state(&server, &session, "has-it", is_armed_on(meter.pid()))?;
    let shown = server.run(&["session", "show", &session])?;
    for said in ["has-it: armed in", "lacks-it: "] {
        ensure!(shown.contains(said), "{said}: {shown}");
    }
    let truth = meter.run(500, 0)?;
    let story = server.story(&session, usize::try_from(truth)?)?;
    ensure!(story.iter().all(|stored| &*stored.hit.host == "has-it"));
    let status = server.status(&session)?;
    ensure!(status.stored == truth && status.losses.total() == 0, "{status:?}");
    Ok(())
}
