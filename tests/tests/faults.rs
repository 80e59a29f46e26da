//! What breaks in a fleet, and that nothing is lost uncounted: what a service did = what the store holds + what was counted as
//! lost, and where.

#[path = "faults/away.rs"]
mod away;
#[path = "faults/builds.rs"]
mod builds;
#[path = "faults/killed.rs"]
mod killed;
#[path = "faults/many.rs"]
mod many;
#[path = "faults/space.rs"]
mod space;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use riptrace_common::wire::{
    api::SessionStatus,
    control::{TracepointState, TracepointStatus},
};
use riptrace_tests::{
    fleet::{Folder, PATIENCE, Program, Server, agent, wait},
    meter::{self, Meter},
    requirements,
    riptrace::send_signal,
};
use space::Disk;

/// A server, a host with an agent and a service that counts, a session with a tracepoint on what it counts.
struct Scene {
    // Dropped in this order: who is still asked goes last.
    agent: Option<Program>,
    server: Server,
    meter: Meter,
    session: String,
    service: String,
    /// Under the server's data, if they have one of their own.
    disk: Option<Disk>,
    folder: Folder,
    _alone: MutexGuard<'static, ()>,
}

/// Scenes follow each other: who waits until an agent counts as silent can't share two processors with 200 services that come
/// and go.
static ALONE: Mutex<()> = Mutex::new(());

impl Drop for Scene {
    fn drop(&mut self) {
        // Who has files open on the disk ends before it is gone: first who would start the broker again.
        let _ = self.server.program.signal(libc::SIGKILL);
        if let Some(broker) = self.folder.broker("server") {
            let _ = send_signal(broker, libc::SIGKILL);
        }
    }
}

impl Scene {
    /// `None`: something is missing here, and it was said.
    fn start(service: &str) -> Result<Option<Self>> {
        Self::start_with(service, &[], &[])
    }

    fn start_with(service: &str, server_options: &[&str], agent_options: &[&str]) -> Result<Option<Self>> {
        if !requirements::bpf(service) {
            return Ok(None);
        }
        Self::start_in(Folder::new()?, service, server_options, agent_options).map(Some)
    }

    fn start_in(
        folder: Folder,
        service: &str,
        server_options: &[&str],
        agent_options: &[&str],
    ) -> Result<Self> {
        Self::build(folder, service, server_options, agent_options, 0, &["--rate", "0"])
    }

    /// Hits have a text of `padding` bytes.
    fn build(
        folder: Folder,
        service: &str,
        server_options: &[&str],
        agent_options: &[&str],
        padding: usize,
        options: &[&str],
    ) -> Result<Self> {
        // A test that failed holds it no more.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let service = named(service);
        let server = Server::start_with(&folder, "server", server_options)?;
        let agent = start_agent(&folder, &server.nats, "one", &service, agent_options)?;
        let meter = Meter::start_with(&meter::program()?, &service, padding)?;
        server.wait_for_services(&[(&service, 1)])?;
        let session = server.session(&[(&service, &meter::location()?)], options, 1)?;
        Ok(Self { agent: Some(agent), server, meter, session, service, disk: None, folder, _alone: alone })
    }

    fn agent(&self) -> Result<&Program> {
        self.agent.as_ref().context("there is no agent")
    }

    /// Another run of the agent, in the same state folder.
    fn restart_agent(&mut self) -> Result<()> {
        self.agent = None;
        self.agent = Some(start_agent(&self.folder, &self.server.nats, "one", &self.service, &[])?);
        Ok(())
    }

    fn status(&self) -> Result<SessionStatus> {
        self.server.status(&self.session)
    }

    /// Waits until the tracepoint is armed by another run than this one.
    fn wait_armed_again(&self, than: &str) -> Result<()> {
        wait(|| {
            let status = self.status()?;
            let armed = |state: &TracepointState| state.status == TracepointStatus::Armed;
            let by_another = status.hosts.iter().filter(|host| host.agent.as_str() != than);
            Ok(by_another.filter_map(|host| host.state.as_ref()).any(armed).then_some(()))
        })
        .context("waiting for the next run to hold the tracepoint")
    }

    /// The run of the agent that the server knows.
    fn run(&self) -> Result<String> {
        let status = self.status()?;
        Ok(status.hosts.first().context("no host")?.agent.to_string())
    }

    fn wait_stored(&self, at_least: u64) -> Result<SessionStatus> {
        wait(|| Ok(Some(self.status()?).filter(|status| status.stored >= at_least)))
            .with_context(|| format!("waiting for {at_least} hits to be stored"))
    }

    /// Waits until everything that the service did is stored or counted as lost, and no more than that.
    fn wait_accounted(&self, truth: u64) -> Result<SessionStatus> {
        // A busy machine takes its time, as long as something goes on.
        let (mut since, mut last) = (Instant::now(), 0);
        loop {
            let status = self.status()?;
            let accounted = status.stored + status.losses.total();
            if status.stored != last {
                (since, last) = (Instant::now(), status.stored);
            }
            if accounted == truth && status.unaccounted.is_empty() {
                return Ok(status);
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "{} hits are stored, {:?} were lost, {truth} were made; {:?} did not account\n{}\n{}",
                status.stored,
                status.losses,
                status.unaccounted,
                self.server.program.log(),
                self.agent.as_ref().map_or_else(String::new, Program::log)
            );
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    /// The hits that are stored are numbered without a gap, whatever was lost.
    fn check_story(&self, stored: u64) -> Result<()> {
        let story = self.server.story(&self.session, usize::try_from(stored)?)?;
        ensure!(story.len() as u64 == stored, "{} hits are in the story, {stored} are stored", story.len());
        let mut orders: Vec<_> = story.iter().filter_map(|stored| stored.hit.order).collect();
        orders.sort_unstable();
        ensure!(orders.iter().copied().eq(1..=stored), "the numbers have gaps");
        Ok(())
    }
}

/// A service's name that nobody else on this machine has: agents of tests that run at the same time leave each other's
/// services alone.
fn named(service: &str) -> String {
    format!("{service}-{}", std::process::id())
}

/// An agent without a budget: a fault is no reason to capture less.
fn start_agent(folder: &Folder, nats: &str, host: &str, service: &str, options: &[&str]) -> Result<Program> {
    let all: Vec<&str> = ["--budget", "0"].iter().chain(options).copied().collect();
    agent(folder, nats, host, &[service], &all)
}
