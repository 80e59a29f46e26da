//! All hits of a session, in their order, as of one commit.

use std::{ops::ControlFlow, sync::Arc};

use riptrace_common::{
    id::SessionId,
    wire::api::{Finality, StoredHit},
};

use super::{
    Store, StoreError,
    certificate::Chain,
    segment::{Entry, Place},
    view::View,
};

impl Store {
    /// Gives how many hits there are, and then each of them in its order, until the receiver has enough.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn export(
        &self,
        session: &SessionId,
        begin: impl FnOnce(u64) -> ControlFlow<()>,
        mut each: impl FnMut(StoredHit) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut begin = Some(begin);
        let mut tell = |count| begin.take().map_or(ControlFlow::Break(()), |begin| begin(count));
        let is_known = self.read(
            session,
            |_| false,
            |view| {
                let sql = "SELECT ifnull(sum(hits), 0) FROM blocks WHERE session = ?";
                let count: i64 =
                    view.transaction.prepare_cached(sql)?.query_row([view.session], |row| row.get(0))?;
                if tell(count as u64).is_continue() {
                    let _ = all(view, &mut each)?;
                }
                Ok(true)
            },
        )?;
        if !is_known {
            let _ = tell(0);
        }
        Ok(())
    }
}

fn all(
    view: &mut View<'_>,
    each: &mut impl FnMut(StoredHit) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    let mut chain = Chain::default();
    let mut give = |view: &mut View<'_>, entry: &Entry, evidence, finality| {
        let Some((_, hit)) = view.hit(entry.arrival)? else { return Ok(ControlFlow::Continue(())) };
        let mut stored = view.stored(entry, hit, finality);
        chain.link(&mut stored.hit, evidence);
        Ok::<_, StoreError>(each(stored))
    };
    let mut last: Option<Place> = None;
    loop {
        let mut next = None;
        view.segments_from(last.unwrap_or_default(), |_, unpack| {
            let segment = unpack()?;
            if segment.entries.last().is_some_and(|entry| last.is_none_or(|last| entry.place > last)) {
                next = Some(segment);
                return Ok(false);
            }
            Ok(true)
        })?;
        let Some(segment) = next else { break };
        for entry in segment.entries.iter().filter(|entry| last.is_none_or(|last| entry.place > last)) {
            if give(view, entry, segment.evidence(entry), Finality::Final)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        last = segment.entries.last().map(|entry| entry.place);
    }
    let provisional = Arc::clone(&view.provisional);
    let mut provisional: Vec<&Entry> = provisional.values().collect();
    provisional.sort_unstable_by_key(|entry| (entry.time_ns, entry.arrival));
    for entry in provisional {
        if give(view, entry, None, Finality::Provisional)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
