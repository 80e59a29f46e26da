//! What a reader sees: the file as of one commit, and what was in memory then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Finality, StoredHit},
        event::Hit,
    },
};
use rusqlite::{OptionalExtension, Transaction};

use super::{
    Store, StoreError,
    block::Block,
    certificate::Chain,
    names::Names,
    segment::{Entry, Place, Segment},
};
use crate::order::Evidence;

/// Blocks that a reader keeps unpacked.
const KEPT_BLOCKS: usize = 64;

/// A session as of one commit.
pub(crate) struct View<'a> {
    pub(crate) transaction: &'a Transaction<'a>,
    pub(crate) session: u32,
    pub(crate) provisional: Arc<BTreeMap<u64, Entry>>,
    pub(crate) watermark_ns: u64,
    store: &'a Store,
    blocks: HashMap<i64, (u64, u64, Arc<Block>)>,
}

impl Store {
    /// Reads a session; `nothing` is the answer for one that has no hits.
    pub(super) fn read<T>(
        &self,
        session: &SessionId,
        nothing: impl FnOnce(u64) -> T,
        read: impl FnOnce(&mut View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let reader = self.0.readers.get()?;
        let shared = self.shared();
        let Some(number) = shared.names.find(session.as_str()) else {
            return Ok(nothing(shared.watermark_ns));
        };
        let provisional = shared.provisional.get(&number).cloned().unwrap_or_default();
        let watermark_ns = shared.watermark_ns;
        // The file as it is now: a transaction sees what was there at its first read.
        let transaction = reader.unchecked_transaction()?;
        transaction.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
        drop(shared);
        let mut view = View {
            transaction: &transaction,
            session: number,
            provisional,
            watermark_ns,
            store: self,
            blocks: HashMap::new(),
        };
        read(&mut view)
    }
}

impl View<'_> {
    pub(crate) fn names<T>(&self, read: impl FnOnce(&Names) -> T) -> T {
        read(&self.store.shared().names)
    }

    /// The segments from the one that a place is in or behind.
    pub(crate) fn segments_from(
        &self,
        place: Place,
        mut each: impl FnMut(&[u8], &mut dyn FnMut() -> Result<Segment, StoreError>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let sql = "SELECT first FROM segments WHERE session = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";
        let first: Option<[u8; 24]> = self
            .transaction
            .prepare_cached(sql)?
            .query_row((self.session, place.to_bytes()), |row| row.get(0))
            .optional()?;
        let sql = "SELECT keys, data FROM segments WHERE session = ?1 AND first >= ?2 ORDER BY first";
        let mut query = self.transaction.prepare_cached(sql)?;
        let mut rows = query.query((self.session, first.unwrap_or_default()))?;
        while let Some(row) = rows.next()? {
            let keys = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            let mut unpack = || Segment::unpack(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?);
            if !each(keys, &mut unpack)? {
                break;
            }
        }
        Ok(())
    }

    /// The entry at a place, with its evidence.
    pub(crate) fn entry_at(&self, place: Place) -> Result<Option<(Entry, Option<Evidence>)>, StoreError> {
        let mut found = None;
        self.segments_from(place, |_, unpack| {
            let segment = unpack()?;
            if let Ok(at) = segment.entries.binary_search_by_key(&place, |entry| entry.place) {
                let entry = segment.entries[at];
                found = Some((entry, segment.evidence(&entry)));
            }
            Ok(false)
        })?;
        Ok(found)
    }

    /// The chain of hits behind the one at a place.
    pub(crate) fn chain_behind(&mut self, place: Place) -> Result<Chain, StoreError> {
        let Some((entry, evidence)) = self.entry_at(place)? else { return Ok(Chain::default()) };
        let hit = self.hit(entry.arrival)?;
        Ok(hit.map(|(_, hit)| Chain::behind(hit, evidence)).unwrap_or_default())
    }

    /// The last place of the session that is final and not a late hit's.
    pub(crate) fn last_place(&self) -> Result<Place, StoreError> {
        let sql = "SELECT data FROM segments WHERE session = ? ORDER BY first DESC LIMIT 1";
        let last: Option<Vec<u8>> =
            self.transaction.prepare_cached(sql)?.query_row([self.session], |row| row.get(0)).optional()?;
        let Some(last) = last else { return Ok(Place::default()) };
        let segment = Segment::unpack(&last)?;
        let last = segment.entries.iter().rev().find(|entry| !entry.late).or(segment.entries.first());
        Ok(last.map(|entry| entry.place).unwrap_or_default())
    }

    /// A hit as it was stored, and its service; `None`: it was removed.
    pub(crate) fn hit(&mut self, arrival: u64) -> Result<Option<(u32, Hit)>, StoreError> {
        let Some(block) = self.block(arrival)? else { return Ok(None) };
        let Some((service, text)) = block.get(arrival) else { return Ok(None) };
        Ok(Some((service, serde_json::from_slice(text)?)))
    }

    fn block(&mut self, arrival: u64) -> Result<Option<Arc<Block>>, StoreError> {
        let known = self.blocks.values().find(|(first, last, _)| (*first..=*last).contains(&arrival));
        if let Some((_, _, block)) = known {
            return Ok(Some(Arc::clone(block)));
        }
        let sql = "SELECT id, first, last, data FROM blocks WHERE session = ?1 AND first <= ?2
                   ORDER BY first DESC LIMIT 1";
        let row = self
            .transaction
            .prepare_cached(sql)?
            .query_row((self.session, arrival as i64), |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?))
            })
            .optional()?;
        let Some((id, first, last, data)) = row.filter(|row| row.2 as u64 >= arrival) else {
            return Ok(None);
        };
        let block = Block::unpack(&data)?;
        if self.blocks.len() >= KEPT_BLOCKS {
            self.blocks.clear();
        }
        self.blocks.insert(id, (first as u64, last as u64, Arc::clone(&block)));
        Ok(Some(block))
    }

    /// A hit as readers get it.
    pub(crate) fn stored(&self, entry: &Entry, mut hit: Hit, finality: Finality) -> StoredHit {
        hit.order = (finality == Finality::Final).then_some(entry.order);
        hit.late = entry.late;
        hit.certificate = None;
        let service = self.names(|names| names.text(entry.service)).to_string();
        StoredHit { service, finality, arrival: entry.arrival, hit }
    }
}
