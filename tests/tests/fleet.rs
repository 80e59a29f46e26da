//! A fleet in which things end: servers, brokers, agents, services. What the services did is in the story, once, or it is
//! counted where it was lost.

use anyhow::{Context, Result, ensure};
use riptrace_common::wire::api::StoredHit;
use riptrace_tests::{
    chain::{self, Chain, OnlyOne},
    fleet::{Folder, PATIENCE, Server, wait},
    requirements,
    riptrace::send_signal,
};

/// Requests that front makes each time: enough that something can end meanwhile.
const REQUESTS: usize = 400;

/// Hits that must be stored before something is ended.
const SOME: u64 = 100;

const SERVICES: [&str; 3] = ["front", "middle", "back"];

/// A server, two agents, three services, a session.
struct Fleet {
    folder: Folder,
    server: Server,
    agents: Vec<riptrace_tests::fleet::Program>,
    chain: Chain,
    session: String,
}

impl Fleet {
    /// `None`: something is missing here, and it was said.
    fn start(test: &str) -> Result<Option<Self>> {
        if !requirements::bpf(test) {
            return Ok(None);
        }
        let folder = Folder::new()?;
        let server = Server::start(&folder)?;
        let agents = vec![
            server.agent(&folder, "one", &["front", "back"])?,
            server.agent(&folder, "two", &["middle"])?,
        ];
        let chain = Chain::start(REQUESTS)?;
        server.wait_for_services(&SERVICES.map(|service| (service, 1)))?;
        let session = server.session(&tracepoints()?, &["--rate", "0"], 3)?;
        Ok(Some(Self { folder, server, agents, chain, session }))
    }

    fn wait_stored(&self, at_least: u64) -> Result<()> {
        wait(|| Ok((self.server.status(&self.session)?.stored >= at_least).then_some(())))
            .context("waiting for hits to be stored")
    }

    /// Front makes all its requests; meanwhile something happens.
    fn requests_during(&mut self, happens: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.chain.front.release()?;
        self.wait_stored(SOME)?;
        happens(self)?;
        self.chain.front.read_until("done").map(drop)
    }

    /// The story is what the services did; nothing was lost.
    fn check_all(mut self) -> Result<()> {
        let steps = self.chain.end()?;
        let story = self.server.story(&self.session, steps.len())?;
        chain::check_order(&steps, &chain::step_names(&story)?)?;
        let status = self.server.status(&self.session)?;
        ensure!(status.stored == steps.len() as u64, "{} of {} are stored", status.stored, steps.len());
        ensure!(status.losses.total() == 0, "{:?}", status.losses);
        check_numbers(&story)
    }
}

fn tracepoints() -> Result<Vec<(&'static str, &'static str)>> {
    static LOCATION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let location = match LOCATION.get() {
        Some(location) => location,
        None => {
            let location = chain::location()?;
            LOCATION.get_or_init(|| location)
        }
    };
    Ok(SERVICES.map(|service| (service, location.as_str())).into())
}

/// Numbers go up without a gap.
fn check_numbers(story: &[StoredHit]) -> Result<()> {
    let in_time = story.iter().filter(|stored| !stored.hit.late);
    let numbers: Vec<u64> = in_time.filter_map(|stored| stored.hit.order).collect();
    ensure!(numbers.is_sorted(), "the numbers do not go up: {numbers:?}");
    Ok(())
}

#[test]
fn a_server_that_is_killed_in_mid_stream_loses_nothing() -> Result<()> {
    let Some(mut fleet) = Fleet::start("fleet, server killed")? else { return Ok(()) };
    fleet.requests_during(|fleet| {
        let (url, nats) = (fleet.server.url.clone(), fleet.server.nats.clone());
        let killed = std::mem::replace(
            &mut fleet.server,
            Server::start_with(&fleet.folder, "other", &["--nats", &nats])?,
        );
        killed.program.kill()?;
        fleet.server = Server::start(&fleet.folder)?;
        ensure!(fleet.server.nats == nats, "the broker is another one: {} {}", fleet.server.nats, nats);
        ensure!(fleet.server.url != url || !url.is_empty());
        Ok(())
    })?;
    fleet.check_all()
}

#[test]
fn a_broker_that_is_killed_comes_back_and_nothing_is_lost() -> Result<()> {
    let Some(mut fleet) = Fleet::start("fleet, broker killed")? else { return Ok(()) };
    fleet.requests_during(|fleet| {
        let broker = fleet.folder.broker("server").context("no private broker")?;
        send_signal(broker, libc::SIGKILL)?;
        wait(|| Ok(fleet.folder.broker("server").filter(|again| *again != broker)))?;
        Ok(())
    })?;
    fleet.check_all()
}

#[test]
fn an_agent_that_ends_is_followed_by_one_that_goes_on() -> Result<()> {
    let Some(mut fleet) = Fleet::start("fleet, agent restarted")? else { return Ok(()) };
    fleet.chain.front.make_requests()?;
    let status = fleet.server.status(&fleet.session)?;
    let old = status.hosts.iter().find(|host| host.host == "two").map(|host| host.agent.clone());
    let middle = fleet.agents.pop().context("an agent")?;
    middle.end()?;
    fleet.agents.push(fleet.server.agent(&fleet.folder, "two", &["middle"])?);
    let agents = |stories: &[StoredHit]| -> usize {
        let agents: std::collections::BTreeSet<_> =
            stories.iter().filter(|one| &*one.hit.host == "two").map(|one| one.hit.agent.clone()).collect();
        agents.len()
    };
    let new_one = || -> Result<Option<()>> {
        let status = fleet.server.status(&fleet.session)?;
        // What is known of the host may still be what the old one said.
        let of_two =
            status.hosts.iter().filter(|host| host.host == "two" && Some(&host.agent) != old.as_ref());
        let armed = of_two
            .filter_map(|host| host.state.as_ref())
            .filter(|state| state.status == riptrace_common::wire::control::TracepointStatus::Armed);
        Ok((armed.count() == 1).then_some(()))
    };
    wait(new_one).context("waiting for the new agent to hold the tracepoint")?;
    fleet.chain.front.make_requests()?;
    let steps = fleet.chain.end()?;
    let story = fleet.server.story(&fleet.session, steps.len())?;
    chain::check_order(&steps, &chain::step_names(&story)?)?;
    ensure!(agents(&story) == 2, "{} runs of the agent", agents(&story));
    Ok(())
}

#[test]
fn a_service_that_starts_later_is_traced_from_its_start() -> Result<()> {
    if !requirements::bpf("fleet, later") {
        return Ok(());
    }
    let folder = Folder::new()?;
    let server = Server::start(&folder)?;
    let _one = server.agent(&folder, "one", &["front", "back"])?;
    let _two = server.agent(&folder, "two", &["middle"])?;
    wait(|| Ok((server.ask(&["hosts", "--json"])?.len() == 2).then_some(())))?;
    let only = OnlyOne::wait()?;
    let session = server.session(&tracepoints()?, &["--rate", "0"], 0)?;
    let mut chain = Chain::start_as(only, 20)?;
    server.wait_armed(&session, 3)?;
    chain.front.make_requests()?;
    let steps = chain.end()?;
    let story = server.story(&session, steps.len())?;
    chain::check_order(&steps, &chain::step_names(&story)?)
}

#[test]
fn two_servers_tell_the_same_story_and_the_kill_switch_ends_it() -> Result<()> {
    let Some(mut fleet) = Fleet::start("fleet, two servers")? else { return Ok(()) };
    let other = Server::start_with(&fleet.folder, "other", &["--nats", &fleet.server.nats])?;
    fleet.chain.front.make_requests()?;
    let identity = |stored: &StoredHit| {
        (
            stored.hit.order,
            stored.hit.agent.clone(),
            stored.hit.tracepoint.clone(),
            stored.hit.seq,
            stored.hit.certificate,
        )
    };
    let begin = std::time::Instant::now();
    let one = loop {
        let stored = fleet.server.status(&fleet.session)?.stored as usize;
        let one = fleet.server.story(&fleet.session, stored)?;
        if one.len() == fleet.server.status(&fleet.session)?.stored as usize {
            break one;
        }
        ensure!(begin.elapsed() < PATIENCE);
    };
    let two = other.story(&fleet.session, one.len())?;
    ensure!(one.iter().map(identity).eq(two.iter().map(identity)), "the stories differ");
    other.run(&["kill", "all"])?;
    let held = || -> Result<Option<()>> {
        let hosts = other.ask(&["hosts", "--json"])?;
        Ok(hosts.iter().all(|host| host["tracepoints"] == 0).then_some(()))
    };
    wait(held).context("waiting for the tracepoints to be gone")
}
