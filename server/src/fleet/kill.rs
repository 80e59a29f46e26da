//! The kill switch: tracepoints away at once, whoever set them, on every host that can be reached now and on the others
//! when they are heard of again.

use futures::StreamExt;
use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Kill, Killed, Live, SessionState},
        control::{RemoveTracepoints, Removed},
        message::{Error, ErrorCode},
        subject::Endpoint,
    },
};

use super::Fleet;
use crate::{ident, reconcile::Cleared, session};

/// Hosts that are told at once.
const AT_ONCE: usize = 64;

impl Fleet {
    pub(super) async fn kill_now(&self, what: &Kill) -> Result<Killed, Error> {
        let now = self.now();
        let alive = || -> Vec<String> {
            let state = self.state();
            state
                .hosts
                .iter()
                .filter(|(_, entry)| entry.is_alive(now))
                .map(|(name, _)| name.clone())
                .collect()
        };
        match what {
            Kill::Session(id) => {
                self.known(id)?;
                let sessions = self.stop_sessions(vec![id.clone()]).await?;
                let removal = RemoveTracepoints { session: Some(id.clone()), ..RemoveTracepoints::default() };
                let (hosts, unreachable) = self.remove_on(alive(), &removal).await;
                Ok(Killed { sessions, hosts, unreachable })
            }
            Kill::Host(host) => {
                if self.state().hosts.get(host).is_none() {
                    let text = format!("no host {host:?} was heard of; list the hosts for their names");
                    return Err(Error::new(ErrorCode::NotFound, text));
                }
                let (hosts, unreachable) = self.clear(vec![host.clone()]).await?;
                Ok(Killed { sessions: Vec::new(), hosts, unreachable })
            }
            Kill::All => {
                let now_ns = ident::now_ns();
                let (running, all): (Vec<SessionId>, Vec<String>) = {
                    let state = self.state();
                    let running = state.sessions.values().filter(|one| session::is_running(one, now_ns));
                    (
                        running.map(|one| one.id.clone()).collect(),
                        state.hosts.iter().map(|(name, _)| name.clone()).collect(),
                    )
                };
                // The hosts first: they must not wait for the broker's store.
                let (hosts, unreachable) = self.clear(all).await?;
                let sessions = self.stop_sessions(running).await?;
                Ok(Killed { sessions, hosts, unreachable })
            }
        }
    }

    async fn stop_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>, Error> {
        for id in &ids {
            let stop = |session: &mut riptrace_common::wire::api::Session| {
                session.state = SessionState::Stopped;
                Ok(())
            };
            match self.edit_session(id, stop).await {
                Ok(_) => self.tell(id, Live::Stopped),
                Err(error) if error.code == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ids)
    }

    /// Notes that hosts are cleared, so that no server arms there again what was there; and clears them.
    async fn clear(&self, hosts: Vec<String>) -> Result<(Vec<String>, Vec<String>), Error> {
        let cleared = Cleared { at_ns: ident::now_ns(), confirmed: false, released: Vec::new() };
        for host in &hosts {
            self.write_cleared(host, &cleared).await?;
        }
        let (done, unreachable) = self.remove_on(hosts, &RemoveTracepoints::default()).await;
        for host in &done {
            self.write_cleared(host, &Cleared { confirmed: true, ..cleared.clone() }).await?;
        }
        Ok((done, unreachable))
    }

    async fn remove_on(&self, hosts: Vec<String>, removal: &RemoveTracepoints) -> (Vec<String>, Vec<String>) {
        let asking = futures::stream::iter(hosts).map(|host| async move {
            let removed = self.request::<_, Removed>(&host, Endpoint::RemoveTracepoint, removal).await;
            (host, removed)
        });
        let (mut done, mut unreachable) = (Vec::new(), Vec::new());
        let mut answers = asking.buffer_unordered(AT_ONCE);
        while let Some((host, removed)) = answers.next().await {
            match removed {
                Ok(_) => done.push(host),
                Err(error) => {
                    tracing::warn!(host, %error, "the kill switch did not reach the host");
                    unreachable.push(host);
                }
            }
        }
        done.sort_unstable();
        unreachable.sort_unstable();
        (done, unreachable)
    }

    /// A session that is started again is armed on hosts that were cleared, too.
    pub(super) async fn release(&self, id: &SessionId) -> Result<(), Error> {
        let barred: Vec<(String, Cleared)> = {
            let state = self.state();
            let Some(session) = state.sessions.get(id) else { return Ok(()) };
            let bars = state.cleared.iter().filter(|(_, cleared)| cleared.bars(session));
            bars.map(|(host, cleared)| (host.clone(), cleared.clone())).collect()
        };
        for (host, mut cleared) in barred {
            cleared.released.push(id.clone());
            self.write_cleared(&host, &cleared).await?;
        }
        Ok(())
    }

    /// Clears hosts that could not be reached when they were to be cleared.
    pub(super) async fn clear_late(&self, host: &str) {
        let pending = self.state().cleared.get(host).filter(|cleared| !cleared.confirmed).cloned();
        let Some(cleared) = pending else { return };
        let (done, _) = self.remove_on(vec![host.to_owned()], &RemoveTracepoints::default()).await;
        if done.is_empty() {
            return;
        }
        if let Err(error) = self.write_cleared(host, &Cleared { confirmed: true, ..cleared }).await {
            tracing::warn!(host, %error, "the host is cleared, which could not be noted");
        }
    }
}
