//! Which hosts there are, as their agents' heartbeats and profiles say. Pure: times come from the caller.

use std::collections::BTreeMap;

use riptrace_common::{
    id::{AgentId, Owner},
    wire::{
        api::{Host, HostStatus, Instance, Service},
        batch::{Heartbeat, IDLE_HEARTBEAT_MS},
        clock::Assigned,
        profile::{Profile, ServiceRule},
    },
};

/// An agent that was not heard of for so long is silent: not waited for, shown as such.
pub const SILENCE_NS: u64 = 5_000_000_000;

/// An agent that says that it will be heard of less often is silent when so many heartbeats did not come.
const MISSED_HEARTBEATS: u64 = 3;

/// But no agent is believed alive for longer than this.
const MAX_SILENCE_NS: u64 = 60_000_000_000;

/// So long after its start a server has heard of every agent that is alive.
pub const UNHEARD_OF_NS: u64 = SILENCE_NS + IDLE_HEARTBEAT_MS as u64 * 1_000_000;

/// A host that was not heard of for so long is forgotten.
const FORGOTTEN_NS: u64 = 24 * 3_600_000_000_000;

/// Hosts at the most; more are refused, and said to be.
pub const MAX_HOSTS: usize = 10_000;

/// Agents of one host that are remembered.
const MAX_RUNS: usize = 4;

/// A profile that could not be had is asked for again after so long.
const PROFILE_RETRY_NS: u64 = 5_000_000_000;

/// A moment, on two clocks of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic, from the server's start.
    pub mono_ns: u64,
    /// Since 1970.
    pub wall_ns: u64,
}

/// Every host that was heard of.
#[derive(Debug, Default)]
pub struct Hosts {
    hosts: BTreeMap<String, Entry>,
    runs: u64,
}

/// A host.
#[derive(Debug)]
pub struct Entry {
    /// Its agents' runs, the one that counts last.
    runs: Vec<Run>,
    profile: Option<Fetched>,
    /// When the profile was asked for and no answer came yet.
    asked_ns: Option<u64>,
    /// Why the last request for it failed.
    profile_problem: Option<String>,
}

#[derive(Debug)]
struct Fetched {
    profile: Profile,
    revision: u64,
}

/// One run of an agent.
#[derive(Debug)]
pub struct Run {
    /// When it was first heard of.
    pub first: Moment,
    /// When it was last heard of.
    pub last: Moment,
    /// What it said then.
    pub heartbeat: Heartbeat,
    /// When it last held tracepoints, or hits that were not in the stream yet.
    traced: Option<Moment>,
    share_of_core: f64,
}

impl Run {
    /// Whether it was heard of lately.
    #[must_use]
    pub fn is_alive(&self, now: Moment) -> bool {
        now.mono_ns.saturating_sub(self.last.mono_ns) < self.silence_ns()
    }

    /// It is silent when it was not heard of for so long.
    #[must_use]
    pub fn silence_ns(&self) -> u64 {
        (u64::from(self.heartbeat.next_ms) * 1_000_000 * MISSED_HEARTBEATS).clamp(SILENCE_NS, MAX_SILENCE_NS)
    }

    /// Whether it held tracepoints when it was last heard of, or shortly before: hits of theirs may be on their way.
    #[must_use]
    pub fn is_tracing(&self) -> bool {
        let until_ns = self.last.mono_ns.saturating_sub(SILENCE_NS);
        self.traced.is_some_and(|traced| traced.mono_ns >= until_ns)
    }

    fn note_tracing(&mut self, now: Moment) {
        let holds = self.heartbeat.generations.iter().any(|owner| owner.generation != 0);
        if holds || self.heartbeat.queued > 0 {
            self.traced = Some(now);
        }
    }

    /// What an owner's tracepoints on it are; 0: none.
    #[must_use]
    pub fn generation(&self, owner: &Owner) -> u64 {
        let of_owner = self.heartbeat.generations.iter().find(|entry| entry.owner == *owner);
        of_owner.map_or(0, |entry| entry.generation)
    }
}

impl Entry {
    /// The agent's run that counts.
    #[must_use]
    pub fn run(&self) -> Option<&Run> {
        self.runs.last()
    }

    /// Each of its runs that are remembered.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// What its agent told of it.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref().map(|fetched| &fetched.profile)
    }

    /// Whether it was heard of lately.
    #[must_use]
    pub fn is_alive(&self, now: Moment) -> bool {
        self.run().is_some_and(|run| run.is_alive(now))
    }

    fn problems(&self, now: Moment) -> Vec<String> {
        let mut problems = Vec::new();
        let alive: Vec<&Run> = self.runs.iter().filter(|run| run.is_alive(now)).collect();
        // A run that was heard of after another one began is no predecessor of it.
        let together = alive.iter().any(|one| {
            alive.iter().any(|other| {
                other.heartbeat.agent != one.heartbeat.agent
                    && one.last.mono_ns > other.first.mono_ns
                    && one.first.mono_ns <= other.first.mono_ns
            })
        });
        if together {
            let names: Vec<&str> = alive.iter().map(|run| run.heartbeat.agent.as_str()).collect();
            problems.push(format!(
                "{} agents call themselves by this host's name ({}): requests reach any of them; \
                 give each its own --host-name",
                alive.len(),
                names.join(", ")
            ));
        }
        problems.extend(self.profile_problem.clone());
        problems
    }
}

impl Hosts {
    /// Takes a heartbeat. `Err`: it is not taken, and why.
    ///
    /// # Errors
    ///
    /// There are too many hosts.
    pub fn heartbeat(&mut self, heartbeat: Heartbeat, now: Moment) -> Result<(), String> {
        if !self.hosts.contains_key(&heartbeat.host) {
            if self.hosts.len() >= MAX_HOSTS {
                self.forget(now);
            }
            if self.hosts.len() >= MAX_HOSTS {
                return Err(format!(
                    "there are {MAX_HOSTS} hosts already; {:?} is not taken",
                    heartbeat.host
                ));
            }
        }
        let entry = self.hosts.entry(heartbeat.host.clone()).or_insert_with(|| Entry {
            runs: Vec::new(),
            profile: None,
            asked_ns: None,
            profile_problem: None,
        });
        match entry.runs.iter_mut().find(|run| run.heartbeat.agent == heartbeat.agent) {
            Some(run) => {
                let seconds = now.mono_ns.saturating_sub(run.last.mono_ns) as f64;
                let cpu = heartbeat.cpu_ns.saturating_sub(run.heartbeat.cpu_ns) as f64;
                if seconds > 0.0 {
                    // Smoothed over a few heartbeats.
                    run.share_of_core += (cpu / seconds - run.share_of_core) / 4.0;
                }
                run.last = now;
                run.heartbeat = heartbeat;
                run.note_tracing(now);
            }
            None => {
                if entry.runs.len() >= MAX_RUNS {
                    let oldest = (0..entry.runs.len()).min_by_key(|at| entry.runs[*at].last.mono_ns);
                    entry.runs.remove(oldest.unwrap_or_default());
                }
                let mut run = Run { first: now, last: now, heartbeat, traced: None, share_of_core: 0.0 };
                run.note_tracing(now);
                entry.runs.push(run);
                entry.profile = None;
                entry.asked_ns = None;
                self.runs += 1;
            }
        }
        Ok(())
    }

    /// How many agents' runs were heard of so far.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Forgets hosts that were not heard of for a long time.
    pub fn forget(&mut self, now: Moment) {
        self.hosts.retain(|_, entry| {
            entry.run().is_some_and(|run| now.mono_ns.saturating_sub(run.last.mono_ns) < FORGOTTEN_NS)
        });
    }

    /// Whether a host's profile is to be asked for now; it is taken as asked for then.
    pub fn wants_profile(&mut self, host: &str, now: Moment) -> bool {
        let Some(entry) = self.hosts.get_mut(host) else { return false };
        let Some(run) = entry.runs.last() else { return false };
        let is_new = entry.profile.as_ref().is_none_or(|fetched| {
            fetched.revision != run.heartbeat.profile_revision
                || fetched.profile.host.agent != run.heartbeat.agent
        });
        let may_ask = entry.asked_ns.is_none_or(|asked| now.mono_ns.saturating_sub(asked) > PROFILE_RETRY_NS);
        if is_new && may_ask {
            entry.asked_ns = Some(now.mono_ns);
        }
        is_new && may_ask
    }

    /// Takes a profile, or why there is none. The revision is the one for which it was asked.
    pub fn profile(&mut self, host: &str, revision: u64, result: Result<Profile, String>) {
        let Some(entry) = self.hosts.get_mut(host) else { return };
        match result {
            Ok(profile) => {
                entry.profile = Some(Fetched { profile, revision });
                entry.asked_ns = None;
                entry.profile_problem = None;
            }
            Err(problem) => entry.profile_problem = Some(problem),
        }
    }

    /// A host.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<&Entry> {
        self.hosts.get(host)
    }

    /// Every host, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.hosts.iter()
    }

    /// The run of an agent.
    #[must_use]
    pub fn run(&self, agent: &AgentId) -> Option<&Run> {
        let runs = self.hosts.values().flat_map(|entry| &entry.runs);
        runs.into_iter().find(|run| run.heartbeat.agent == *agent)
    }

    /// Every host as the API shows it.
    #[must_use]
    pub fn shown(
        &self,
        now: Moment,
        clock: impl Fn(&str) -> Option<Assigned>,
        tracepoints: impl Fn(&str) -> u32,
    ) -> Vec<Host> {
        let shown = |(name, entry): (&String, &Entry)| {
            let run = entry.run()?;
            let heartbeat = &run.heartbeat;
            let mut facts = entry.profile().map(|profile| profile.host.clone()).unwrap_or_default();
            facts.host.clone_from(name);
            facts.agent.clone_from(&heartbeat.agent);
            facts.boot_id.clone_from(&heartbeat.boot_id);
            facts.agent_version.clone_from(&heartbeat.agent_version);
            Some(Host {
                facts,
                status: if run.is_alive(now) { HostStatus::Alive } else { HostStatus::Silent },
                last_seen_ns: run.last.wall_ns,
                processes: count(entry.profile().map_or(0, |profile| profile.processes.len())),
                tracepoints: tracepoints(name),
                hits: heartbeat.hits,
                losses: heartbeat.losses.clone(),
                agent_share_of_core: run.share_of_core,
                agent_resident_bytes: heartbeat.resident_bytes,
                clock: clock(&heartbeat.boot_id),
                problems: entry.problems(now),
            })
        };
        self.hosts.iter().filter_map(shown).collect()
    }

    /// Every service with its instances on hosts that are alive.
    #[must_use]
    pub fn services(&self, rules: &[ServiceRule], now: Moment) -> Vec<Service> {
        let mut services: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        for (host, entry) in self.hosts.iter().filter(|(_, entry)| entry.is_alive(now)) {
            for process in entry.profile().into_iter().flat_map(|profile| &profile.processes) {
                let service = ServiceRule::service_of(rules, process).to_owned();
                let mut process = process.clone();
                process.service.clone_from(&service);
                services.entry(service).or_default().push(Instance { host: host.clone(), process });
            }
        }
        services.into_iter().map(|(name, instances)| Service { name, instances }).collect()
    }

    /// The service of a process of a host, as far as it is known.
    #[must_use]
    pub fn service_of(
        &self,
        rules: &[ServiceRule],
        host: &str,
        pid: u32,
        start_ns: Option<u64>,
    ) -> Option<String> {
        let profile = self.hosts.get(host)?.profile()?;
        let process = profile
            .processes
            .iter()
            .find(|process| process.pid == pid && start_ns.is_none_or(|start| start == process.start_ns))?;
        Some(ServiceRule::service_of(rules, process).to_owned())
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::profile::GoProcess;

    use super::*;

    fn heartbeat(host: &str, agent: &str) -> Heartbeat {
        let heartbeat = serde_json::json!({
            "host": host, "agent": agent, "boot_id": "boot", "ktime_ns": 0, "complete_until_ktime_ns": 0,
            "profile_revision": 1,
        });
        serde_json::from_value(heartbeat).unwrap()
    }

    fn at(seconds: u64) -> Moment {
        Moment { mono_ns: seconds * 1_000_000_000, wall_ns: seconds * 1_000_000_000 }
    }

    fn problems(hosts: &Hosts, now: Moment) -> usize {
        hosts.shown(now, |_| None, |_| 0)[0].problems.len()
    }

    #[test]
    fn two_agents_of_one_name_are_a_problem_and_a_restarted_one_is_not() {
        let mut hosts = Hosts::default();
        hosts.heartbeat(heartbeat("a", "one"), at(1)).unwrap();
        hosts.heartbeat(heartbeat("a", "one"), at(2)).unwrap();
        hosts.heartbeat(heartbeat("a", "two"), at(3)).unwrap();
        assert_eq!(problems(&hosts, at(3)), 0, "restarted");
        hosts.heartbeat(heartbeat("a", "two"), at(4)).unwrap();
        assert_eq!(problems(&hosts, at(4)), 0);
        hosts.heartbeat(heartbeat("a", "one"), at(4)).unwrap();
        assert_eq!(problems(&hosts, at(4)), 1, "both live");
        hosts.heartbeat(heartbeat("a", "two"), at(12)).unwrap();
        assert_eq!(problems(&hosts, at(12)), 0, "one is gone");
        assert_eq!(hosts.get("a").unwrap().run().unwrap().heartbeat.agent.as_str(), "two");
    }

    #[test]
    fn a_profile_is_asked_for_at_first_and_when_it_changed() {
        let mut hosts = Hosts::default();
        let profile = || {
            let mut profile = Profile::default();
            profile.host.agent = AgentId::from("one");
            Ok(profile)
        };
        hosts.heartbeat(heartbeat("a", "one"), at(1)).unwrap();
        assert!(hosts.wants_profile("a", at(1)));
        assert!(!hosts.wants_profile("a", at(2)), "it is under way");
        assert!(hosts.wants_profile("a", at(7)), "no answer came");
        hosts.profile("a", 1, profile());
        assert!(!hosts.wants_profile("a", at(8)));
        hosts.heartbeat(Heartbeat { profile_revision: 2, ..heartbeat("a", "one") }, at(9)).unwrap();
        assert!(hosts.wants_profile("a", at(9)));
        hosts.profile("a", 2, profile());
        hosts.heartbeat(Heartbeat { profile_revision: 2, ..heartbeat("a", "two") }, at(9)).unwrap();
        assert!(hosts.wants_profile("a", at(9)), "another run");
        assert!(!hosts.wants_profile("b", at(9)));
    }

    #[test]
    fn silence_is_seen_and_services_of_silent_hosts_are_not() {
        let mut hosts = Hosts::default();
        hosts.heartbeat(heartbeat("a", "one"), at(1)).unwrap();
        let process = GoProcess { pid: 7, service: "orders".to_owned(), ..GoProcess::default() };
        hosts.profile("a", 1, Ok(Profile { processes: vec![process], ..Profile::default() }));
        let rule =
            ServiceRule { service: "ruled".to_owned(), exe: Some("*".to_owned()), ..ServiceRule::default() };
        assert_eq!(hosts.services(&[], at(5))[0].name, "orders");
        assert_eq!(hosts.services(&[rule], at(5))[0].instances[0].process.service, "ruled");
        assert!(hosts.services(&[], at(6)).is_empty());
        assert_eq!(hosts.shown(at(6), |_| None, |_| 0)[0].status, HostStatus::Silent);
        hosts.heartbeat(Heartbeat { next_ms: 5_000, ..heartbeat("a", "one") }, at(10)).unwrap();
        assert_eq!(
            hosts.shown(at(24), |_| None, |_| 0)[0].status,
            HostStatus::Alive,
            "it has nothing to tell"
        );
        assert_eq!(hosts.shown(at(25), |_| None, |_| 0)[0].status, HostStatus::Silent);
        hosts.heartbeat(Heartbeat { next_ms: u32::MAX, ..heartbeat("a", "one") }, at(30)).unwrap();
        assert_eq!(
            hosts.shown(at(90), |_| None, |_| 0)[0].status,
            HostStatus::Silent,
            "that is not believed"
        );
        assert_eq!(hosts.service_of(&[], "a", 7, None).as_deref(), Some("orders"));
        assert_eq!(hosts.service_of(&[], "a", 7, Some(1)), None, "another process with the same pid");
    }

    #[test]
    fn there_is_a_bound() {
        let mut hosts = Hosts::default();
        for host in 0..MAX_HOSTS {
            hosts.heartbeat(heartbeat(&host.to_string(), "one"), at(1)).unwrap();
        }
        assert!(hosts.heartbeat(heartbeat("more", "one"), at(1)).is_err());
        assert!(hosts.heartbeat(heartbeat("more", "one"), at(100_000)).is_ok(), "old ones are forgotten");
    }
}
