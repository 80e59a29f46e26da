//! What the server knows of the fleet and can have it do: hosts, services, sessions, requests to agents. The API and the
//! reconciler share one [`Fleet`].
//!
//! What is wanted (sessions) is in the broker's key-value bucket and only mirrored here ([`sessions`]); what is there
//! (hosts, their tracepoints, clocks) is what agents and the stream said last.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use async_nats::connection::State::Connected;
use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::{
        api::{
            ChangeTracepoint, ClockState, Host, HostTracepoint, Kill, Killed, Live, NewSession,
            NewTracepoint, Service, Session, SessionState, SessionStatus, SessionTracepoint,
        },
        clock::{Assigned, OrderMark},
        event::Hit,
        message::{Error, ErrorCode},
        profile::ServiceRule,
        subject::Endpoint,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Notify, broadcast};

use crate::{
    ident,
    nats::Nats,
    reconcile::{self, Cleared},
    session,
};

pub mod heartbeats;
pub mod hosts;
mod kill;
pub mod reconciler;
mod reports;
mod request;
pub mod sessions;

use hosts::{Hosts, Moment};
use reports::Report;

/// Live events that a slow reader may be behind; past it, it is told that it missed some and reads them from the store.
const LIVE_QUEUE: usize = 4096;

/// The fleet as one server sees it. Cheap to share behind an `Arc`; every method can be called from any task.
#[derive(Debug)]
pub struct Fleet {
    live: broadcast::Sender<(SessionId, Live)>,
    state: Mutex<State>,
    nats: OnceLock<Nats>,
    rules: Vec<ServiceRule>,
    /// Something changed that the reconciler looks at.
    wake: Notify,
    began: Instant,
}

/// What is known.
#[derive(Debug, Default)]
struct State {
    hosts: Hosts,
    sessions: BTreeMap<SessionId, Session>,
    /// Hosts that the kill switch cleared.
    cleared: BTreeMap<String, Cleared>,
    reports: BTreeMap<String, Report>,
    clocks: ClockState,
    /// What the order found that contradicts itself, the latest ones.
    contradictions: Vec<String>,
    /// Messages that could not be used.
    malformed: u64,
    /// What does not work at the moment, by the part that says so.
    problems: BTreeMap<&'static str, String>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Fleet {
    /// A fleet of which nothing is known yet. The rules name services.
    #[must_use]
    pub fn new(rules: Vec<ServiceRule>) -> Self {
        Self {
            live: broadcast::channel(LIVE_QUEUE).0,
            state: Mutex::default(),
            nats: OnceLock::new(),
            rules,
            wake: Notify::new(),
            began: Instant::now(),
        }
    }

    /// Gives it its broker; once.
    pub fn connect(&self, nats: Nats) {
        if self.nats.set(nats).is_err() {
            tracing::error!("the fleet has a broker already; the second one is not used");
        }
    }

    fn nats(&self) -> Result<&Nats, Error> {
        let none = || Error::new(ErrorCode::Unreachable, "the server has no connection to its broker");
        self.nats.get().ok_or_else(none)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a whole one: after a panic in between there is nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, on the clocks by which heartbeats are dated.
    #[must_use]
    pub fn now(&self) -> Moment {
        let mono_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Moment { mono_ns, wall_ns: ident::now_ns() }
    }

    /// Every host that was heard of, by name.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        let state = self.state();
        let clock = |boot_id: &str| -> Option<Assigned> {
            let clocks = &state.clocks.hosts;
            clocks.iter().find(|clock| clock.boot_id == boot_id).map(|clock| clock.assigned)
        };
        let held = |host: &str| {
            let count = state.reports.get(host).map_or(0, |report| report.states.len());
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        state.hosts.shown(self.now(), clock, held)
    }

    /// Every service with its instances, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        self.state().hosts.services(&self.rules, self.now())
    }

    /// The service of a hit: that of its process, if it is known; else the one that its tracepoint was set for; else the
    /// process's name.
    #[must_use]
    pub fn service_of(&self, hit: &Hit) -> String {
        let state = self.state();
        let known = state.hosts.service_of(&self.rules, &hit.host, hit.pid, hit.process_start_ns);
        known
            .or_else(|| {
                let session = state.sessions.get(&SessionId::from(hit.session.as_deref()?))?;
                let tracepoint = session.tracepoints.iter().find(|one| *one.id.0 == *hit.tracepoint)?;
                tracepoint.select.target.service.clone()
            })
            .unwrap_or_else(|| hit.process.to_string())
    }

    /// The clocks, and up to where the order is final.
    #[must_use]
    pub fn clock_state(&self) -> ClockState {
        self.state().clocks.clone()
    }

    /// Takes what a mark of order, or the exchanges of timestamps, say.
    pub fn set_clocks(&self, change: impl FnOnce(&mut ClockState)) {
        change(&mut self.state().clocks);
    }

    /// Takes over what a mark in the stream says.
    pub fn take_mark(&self, mark: &OrderMark) {
        self.set_clocks(|clocks| {
            for told in &mark.clocks {
                match clocks.hosts.iter_mut().find(|known| known.boot_id == told.boot_id) {
                    Some(known) => known.clone_from(told),
                    None => clocks.hosts.push(told.clone()),
                }
            }
            clocks.watermark_ns = clocks.watermark_ns.max(mark.watermark_ns);
            clocks.silent.clone_from(&mark.silent);
        });
    }

    /// Takes over what the order found that contradicts itself.
    pub fn set_contradictions(&self, contradictions: Vec<String>) {
        self.state().contradictions = contradictions;
    }

    /// Whether an agent's run has ended, as far as can be seen: nothing more comes of it.
    #[must_use]
    pub fn is_over(&self, agent: &AgentId) -> bool {
        let now = self.now();
        // Who has just started has not heard of everyone.
        now.mono_ns > hosts::UNHEARD_OF_NS
            && !self.state().hosts.run(agent).is_some_and(|run| run.is_alive(now))
    }

    /// Says that a part of the server does not work, or works again.
    pub fn set_problem(&self, part: &'static str, problem: Option<String>) {
        let mut state = self.state();
        match problem {
            Some(problem) => {
                if state.problems.insert(part, problem.clone()).as_ref() != Some(&problem) {
                    drop(state);
                    tracing::error!(part, problem);
                }
            }
            None => {
                if state.problems.remove(part).is_some() {
                    drop(state);
                    tracing::info!(part, "works again");
                }
            }
        }
    }

    /// What does not work at the moment; empty: the server is ready.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let state = self.state();
        let away = match self.nats.get() {
            None => Some("there is no broker yet".to_owned()),
            Some(nats) if nats.client.connection_state() != Connected => {
                Some("the broker is away; it is connected to again and again".to_owned())
            }
            Some(_) => None,
        };
        away.into_iter().chain(state.problems.values().cloned()).collect()
    }

    /// The session of a tracepoint.
    #[must_use]
    pub fn session_of(&self, tracepoint: &TracepointId) -> Option<SessionId> {
        let state = self.state();
        let has = |session: &&Session| session.tracepoints.iter().any(|one| one.id == *tracepoint);
        state.sessions.values().find(has).map(|session| session.id.clone())
    }

    /// Every session, the newest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        let mut sessions: Vec<Session> = self.state().sessions.values().cloned().collect();
        sessions.sort_by(|one, other| (other.created_ns, &other.id).cmp(&(one.created_ns, &one.id)));
        sessions
    }

    /// A session with the states of its tracepoints.
    ///
    /// # Errors
    ///
    /// There is no such session.
    pub async fn session(&self, id: &SessionId) -> Result<SessionStatus, Error> {
        let session = self.known(id)?;
        self.refresh_reports(&session).await;
        let state = self.state();
        let now = self.now();
        let mut hosts = Vec::new();
        for (name, entry) in state.hosts.iter() {
            let Some(run) = entry.run() else { continue };
            let labels = entry.profile().map_or(&[][..], |profile| &profile.host.labels);
            let wanted = reconcile::desired([&session], name, labels, &self.rules, now.wall_ns, |session| {
                state.cleared.get(name).is_some_and(|cleared| cleared.bars(session))
            });
            for tracepoint in &session.tracepoints {
                let report = state.reports.get(name);
                let told = report.and_then(|report| report.states.get(&tracepoint.id)).cloned();
                if told.is_none() && !(wanted.contains_key(&tracepoint.id) && entry.is_alive(now)) {
                    continue;
                }
                let error = report.and_then(|report| report.error_of(&tracepoint.id));
                hosts.push(HostTracepoint {
                    host: name.clone(),
                    agent: run.heartbeat.agent.clone(),
                    tracepoint: Some(tracepoint.id.clone()),
                    state: told,
                    error,
                });
            }
        }
        Ok(SessionStatus {
            session,
            hosts,
            stored: 0,
            losses: riptrace_common::wire::batch::Losses::default(),
            unaccounted: Vec::new(),
            watermark_ns: state.clocks.watermark_ns,
            contradictions: state.contradictions.clone(),
        })
    }

    fn known(&self, id: &SessionId) -> Result<Session, Error> {
        self.state().sessions.get(id).cloned().ok_or_else(|| no_session(id))
    }

    /// Makes a session and arms its tracepoints.
    ///
    /// # Errors
    ///
    /// A location is not one, the broker is away.
    pub async fn create_session(&self, new: NewSession, who: &str) -> Result<Session, Error> {
        let session = session::make(new, who, ident::now_ns(), fresh)?;
        self.insert_session(&session).await?;
        Ok(session)
    }

    /// Lets a session's tracepoints be armed (`true`) or removed (`false`); its hits stay.
    ///
    /// # Errors
    ///
    /// There is no such session, the broker is away.
    pub async fn set_running(&self, id: &SessionId, running: bool) -> Result<Session, Error> {
        let now_ns = ident::now_ns();
        let edit = |session: &mut Session| {
            // A session that is started again lives as long as it was to live at first.
            if running && !session::is_running(session, now_ns) {
                let seconds = session.expires_ns.saturating_sub(session.created_ns) / 1_000_000_000;
                session.expires_ns = session::expiry(now_ns, seconds);
            }
            session.state = if running { SessionState::Running } else { SessionState::Stopped };
            Ok(())
        };
        let (session, ()) = self.edit_session(id, edit).await?;
        if running {
            self.release(id).await?;
        } else {
            self.tell(id, Live::Stopped);
        }
        Ok(session)
    }

    /// Removes a session and its tracepoints. Its hits are the store's.
    ///
    /// # Errors
    ///
    /// There is no such session, the broker is away.
    pub async fn delete_session(&self, id: &SessionId) -> Result<(), Error> {
        self.drop_session(id).await?;
        self.tell(id, Live::Stopped);
        Ok(())
    }

    /// Adds a tracepoint to a session.
    ///
    /// # Errors
    ///
    /// There is no such session, the location is none, the broker is away.
    pub async fn add_tracepoint(
        &self,
        id: &SessionId,
        new: NewTracepoint,
    ) -> Result<SessionTracepoint, Error> {
        let tracepoint = fresh("t")?;
        let edit = |session: &mut Session| session::add(session, new.clone(), tracepoint.clone());
        Ok(self.edit_session(id, edit).await?.1)
    }

    /// Changes a tracepoint of a session.
    ///
    /// # Errors
    ///
    /// There is none, the broker is away.
    pub async fn change_tracepoint(
        &self,
        id: &SessionId,
        tracepoint: &TracepointId,
        change: ChangeTracepoint,
    ) -> Result<SessionTracepoint, Error> {
        let edit = |session: &mut Session| session::change(session, tracepoint, change.clone());
        Ok(self.edit_session(id, edit).await?.1)
    }

    /// Removes a tracepoint from a session.
    ///
    /// # Errors
    ///
    /// There is none, the broker is away.
    pub async fn remove_tracepoint(&self, id: &SessionId, tracepoint: &TracepointId) -> Result<(), Error> {
        self.edit_session(id, |session| session::remove(session, tracepoint)).await?;
        Ok(())
    }

    /// Removes tracepoints at once, whoever set them.
    ///
    /// # Errors
    ///
    /// There is no such session or host, the broker is away.
    pub async fn kill(&self, what: &Kill) -> Result<Killed, Error> {
        self.kill_now(what).await
    }

    /// Asks a host's agent; long replies are put together from their pages.
    ///
    /// # Errors
    ///
    /// What the agent answered; or it did not.
    pub async fn request<Request: Serialize + Sync, Answer: DeserializeOwned>(
        &self,
        host: &str,
        endpoint: Endpoint,
        request: &Request,
    ) -> Result<Answer, Error> {
        let nats = self.nats()?;
        request::request(&nats.client, &nats.subjects, host, endpoint, request).await
    }

    /// What happens from now on, of all sessions.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(SessionId, Live)> {
        self.live.subscribe()
    }

    fn tell(&self, session: &SessionId, live: Live) {
        // Nobody listens: then nobody is told.
        drop(self.live.send((session.clone(), live)));
    }

    /// Tells the watermark to the readers of all running sessions.
    pub fn tell_watermark(&self, watermark_ns: u64) {
        if self.live.receiver_count() == 0 {
            return;
        }
        let sessions: Vec<SessionId> = self.state().sessions.keys().cloned().collect();
        for session in sessions {
            self.tell(&session, Live::Watermark { watermark_ns });
        }
    }
}

fn no_session(id: &SessionId) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no session {id}; list them for their ids"))
}

fn fresh(prefix: &str) -> Result<String, Error> {
    let failed = |error| Error::new(ErrorCode::Failed, format!("no id could be made: {error}"));
    ident::fresh(prefix).map_err(failed)
}
