//! Sessions in the broker's key-value bucket: every server reads and writes them there, and watches what others write.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, UpdateErrorKind};
use futures::{StreamExt, TryStreamExt};
use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Live, Session, SessionState},
        message::{Error, ErrorCode},
    },
};

use super::{Fleet, no_session};
use crate::reconcile::Cleared;

/// Others may write the same session at the same time; after so many attempts it is given up.
const ATTEMPTS: u32 = 8;

/// Pause before the bucket is watched again.
const PAUSE: Duration = Duration::from_secs(1);

/// What keys of hosts that were cleared begin with; the rest is the host's name in hexadecimal digits.
const CLEARED: &str = "cleared.";

/// Sessions at the most.
const MAX_SESSIONS: usize = 10_000;

fn broker(what: &str, error: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Unreachable, format!("{what}: the broker says: {error}"))
}

fn key_of_host(host: &str) -> String {
    let digits: String = host.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{CLEARED}{digits}")
}

fn host_of_key(key: &str) -> Option<String> {
    let digits = key.strip_prefix(CLEARED)?;
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// Whether an id can be that of a session: it is part of a subject.
fn is_key(id: &SessionId) -> bool {
    id.is_valid() && id.as_str().starts_with("s_") && !id.as_str().contains(['.', ':'])
}

fn text(value: &impl serde::Serialize) -> Result<bytes::Bytes, Error> {
    let text = serde_json::to_vec(value);
    text.map(Into::into)
        .map_err(|error| Error::new(ErrorCode::Failed, format!("it can't be written: {error}")))
}

impl Fleet {
    pub(super) async fn insert_session(&self, session: &Session) -> Result<(), Error> {
        let nats = self.nats()?;
        if self.state().sessions.len() >= MAX_SESSIONS {
            let text = format!("there are {MAX_SESSIONS} sessions; delete some");
            return Err(Error::new(ErrorCode::Limit, text));
        }
        let created = nats.state.create(session.id.as_str(), text(session)?).await;
        created.map_err(|error| broker("the session could not be kept", error))?;
        self.take_session(session.clone());
        Ok(())
    }

    /// Reads, changes and writes a session; again, when another server wrote it meanwhile.
    pub(super) async fn edit_session<T>(
        &self,
        id: &SessionId,
        mut edit: impl FnMut(&mut Session) -> Result<T, Error>,
    ) -> Result<(Session, T), Error> {
        let nats = self.nats()?;
        if !is_key(id) {
            return Err(no_session(id));
        }
        for _ in 0..ATTEMPTS {
            let entry = nats.state.entry(id.as_str()).await;
            let entry = entry.map_err(|error| broker("the session could not be read", error))?;
            let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
                return Err(no_session(id));
            };
            let mut session: Session = serde_json::from_slice(&entry.value).map_err(|error| {
                Error::new(ErrorCode::Failed, format!("what is kept of session {id} can't be read: {error}"))
            })?;
            let result = edit(&mut session)?;
            match nats.state.update(id.as_str(), text(&session)?, entry.revision).await {
                Ok(_) => {
                    self.take_session(session.clone());
                    return Ok((session, result));
                }
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(broker("the session could not be changed", error)),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("session {id} is being changed by others; try again")))
    }

    pub(super) async fn drop_session(&self, id: &SessionId) -> Result<(), Error> {
        let nats = self.nats()?;
        self.known(id)?;
        let deleted = nats.state.purge(id.as_str()).await;
        deleted.map_err(|error| broker("the session could not be deleted", error))?;
        self.forget_session(id);
        Ok(())
    }

    /// Notes that a host was cleared, for all servers.
    pub(super) async fn write_cleared(&self, host: &str, cleared: &Cleared) -> Result<(), Error> {
        let written = self.nats()?.state.put(key_of_host(host), text(cleared)?).await;
        written.map_err(|error| broker("it could not be noted that the host is cleared", error))?;
        self.state().cleared.insert(host.to_owned(), cleared.clone());
        self.wake.notify_one();
        Ok(())
    }

    /// Takes a session as it is in the bucket.
    pub(crate) fn take_session(&self, session: Session) {
        self.state().sessions.insert(session.id.clone(), session);
        self.wake.notify_one();
    }

    /// Forgets a session that is not in the bucket any more.
    pub(crate) fn forget_session(&self, id: &SessionId) {
        let was = self.state().sessions.remove(id);
        if was.is_some_and(|session| session.state == SessionState::Running) {
            self.tell(id, Live::Stopped);
        }
        self.wake.notify_one();
    }

    /// Takes what a server wrote.
    fn take_entry(&self, entry: &Entry) {
        let is_put = entry.operation == Operation::Put;
        if let Some(host) = host_of_key(&entry.key) {
            let cleared = is_put.then(|| serde_json::from_slice::<Cleared>(&entry.value));
            match cleared {
                Some(Ok(cleared)) => drop(self.state().cleared.insert(host, cleared)),
                Some(Err(error)) => tracing::warn!(key = entry.key, %error, "what is kept can't be read"),
                None => drop(self.state().cleared.remove(&host)),
            }
            self.wake.notify_one();
            return;
        }
        let id = SessionId::from(entry.key.as_str());
        if !is_put {
            self.forget_session(&id);
            return;
        }
        match serde_json::from_slice::<Session>(&entry.value) {
            Ok(session) if session.id == id => {
                let before = self.state().sessions.get(&id).map(|session| session.state);
                let now = session.state;
                self.take_session(session);
                if before == Some(SessionState::Running) && now == SessionState::Stopped {
                    self.tell(&id, Live::Stopped);
                }
            }
            Ok(session) => tracing::warn!(key = entry.key, id = %session.id, "a session under another's key"),
            Err(error) => tracing::warn!(key = entry.key, %error, "a session can't be read"),
        }
    }
}

/// Mirrors the bucket, for ever.
pub async fn watch(fleet: Arc<Fleet>) {
    loop {
        if let Err(error) = watch_once(&fleet).await {
            tracing::warn!(%error, "the sessions can't be watched; trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch_once(fleet: &Fleet) -> anyhow::Result<()> {
    let nats = fleet.nats()?;
    // The watch begins before the keys are listed, so that nothing falls between the two.
    let mut changes = nats.state.watch_with_history(">").await?;
    let keys: BTreeSet<String> = nats.state.keys().await?.try_collect().await?;
    let gone: Vec<SessionId> = {
        let mut state = fleet.state();
        state.cleared.retain(|host, _| keys.contains(&key_of_host(host)));
        state.sessions.keys().filter(|id| !keys.contains(id.as_str())).cloned().collect()
    };
    for id in gone {
        fleet.forget_session(&id);
    }
    while let Some(entry) = changes.next().await {
        fleet.take_entry(&entry?);
    }
    anyhow::bail!("the watch ended")
}

/// Whether somebody else made the key first.
pub(crate) fn is_taken(kind: CreateErrorKind) -> bool {
    kind == CreateErrorKind::AlreadyExists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_hosts_are_read_back_and_are_no_sessions() {
        for host in ["node-a", "a.b", "größe", "*", " "] {
            assert_eq!(host_of_key(&key_of_host(host)).as_deref(), Some(host));
        }
        for key in ["cleared.x", "cleared.0", "s_1", "cleared.ff"] {
            assert_eq!(host_of_key(key), None, "{key}");
        }
        assert!(is_key(&SessionId::from("s_01abc")));
        for id in ["", "x", "s_.", "s_ *", "s_>", "cleared.00", "s_a:b"] {
            assert!(!is_key(&SessionId::from(id)), "{id}");
        }
    }
}
