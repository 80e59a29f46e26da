//! Create, remove and list tracepoints: checked here, carried out by the owner.

use std::{collections::HashSet, sync::Arc, time::Duration};

use riptrace_common::{
    id::Owner as OwnerId,
    wire::{
        control::{CreateTracepoint, RemoveTracepoints, Removed, TracepointList, TracepointState},
        message::Error,
        profile::GoProcess,
    },
};

use super::{
    super::{
        catalogue::{Known, Snapshot},
        options,
        shared::Command,
    },
    Endpoints,
};

/// How long a request for a tracepoint waits for programs that are being read. The tracepoint is armed when they are ready
/// in any case; the reply then says that they are not.
const INDEX_WITHIN: Duration = Duration::from_secs(2);

impl Endpoints {
    pub(super) async fn create(
        self: Arc<Self>,
        CreateTracepoint { spec }: CreateTracepoint,
    ) -> Result<TracepointState, Error> {
        options::check_names(&spec)?;
        let wanted = Box::new(options::wanted(&spec.location, &spec.options)?);
        let snapshot = self.look_for_processes().await;
        let reading = self.read_programs(&snapshot, |process| spec.matches(process));
        if tokio::time::timeout(INDEX_WITHIN, reading).await.is_err() {
            tracing::info!(tracepoint = %spec.id, "programs are still being read");
        }
        let spec = Box::new(spec);
        self.shared.ask(|reply| Command::Create { spec, wanted, reply }).await?
    }

    /// Waits until the programs of the processes that are meant are ready.
    async fn read_programs(&self, snapshot: &Snapshot, is_meant: impl Fn(&GoProcess) -> bool) {
        for known in distinct(snapshot, is_meant) {
            // What can't be read is told where it is needed.
            let _ = self.builds.ready(&known).await;
        }
    }

    pub(super) async fn remove(self: Arc<Self>, which: RemoveTracepoints) -> Result<Removed, Error> {
        let tracepoints = self.shared.ask(|reply| Command::Remove { which, reply }).await?;
        Ok(Removed { tracepoints })
    }

    pub(super) async fn list(self: Arc<Self>, owner: Option<OwnerId>) -> Result<TracepointList, Error> {
        let tracepoints = self.shared.ask(|reply| Command::List { owner, reply }).await?;
        Ok(TracepointList { tracepoints })
    }
}

/// One process of each program that may be traced.
pub(super) fn distinct(snapshot: &Snapshot, is_meant: impl Fn(&GoProcess) -> bool) -> Vec<Arc<Known>> {
    let mut files = HashSet::new();
    snapshot
        .iter()
        .filter(|known| is_meant(&known.facts))
        .filter(|known| known.forbidden.is_none() && files.insert(known.file()))
        .cloned()
        .collect()
}
