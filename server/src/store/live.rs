//! A session's hits as they come, and as their places become final: what a reader that follows gets.

use riptrace_common::{
    id::SessionId,
    wire::api::{Finality, Live},
};

use super::{
    Store, StoreError,
    block::Block,
    segment::{Entry, Place},
    view::View,
};

/// Up to where a reader has followed a session: the last hit that came, the last place that became final, and how many
/// late hits got theirs. As text it is the id of a server-sent event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    arrival: u64,
    place: Place,
    lates: u64,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { arrival, place: Place(place_ns, fraction, rank), lates } = self;
        write!(formatter, "{arrival}.{place_ns}.{fraction}.{rank}.{lates}")
    }
}

impl Cursor {
    pub(super) fn now(view: &View<'_>) -> Result<Self, StoreError> {
        let sql = "SELECT max(last) FROM blocks WHERE session = ?";
        let last: Option<i64> =
            view.transaction.prepare_cached(sql)?.query_row([view.session], |row| row.get(0))?;
        let sql = "SELECT late FROM sessions WHERE id = ?";
        let lates =
            view.transaction.prepare_cached(sql)?.query_row([view.session], |row| row.get::<_, i64>(0));
        Ok(Self {
            arrival: last.unwrap_or(0) as u64,
            place: view.last_place()?,
            lates: lates.unwrap_or(0) as u64,
        })
    }
}

/// What a reader that follows is told next.
#[derive(Clone, Debug, Default)]
pub struct LiveEvents {
    /// Each with the cursor behind it.
    pub events: Vec<(Cursor, Live)>,
    /// There is more already.
    pub more: bool,
    /// Up to which coordinated time the order is final.
    pub watermark_ns: u64,
}

impl Store {
    /// The cursor of a reader that wants what comes from now on.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn live_from_now(&self, session: &SessionId) -> Result<Cursor, StoreError> {
        self.read(session, |_| Cursor::default(), |view| Cursor::now(view))
    }

    /// A cursor from its text: an event's id or a page's `live`; or an arrival alone, from which the places that became
    /// final before can't be told: those of hits that came later are, and all that become final from now on.
    ///
    /// # Errors
    ///
    /// It is none, or the file can't be read.
    pub fn live_cursor(&self, session: &SessionId, text: &str) -> Result<Cursor, StoreError> {
        let numbers: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([0]) => Ok(Cursor::default()),
            Some([arrival]) => self.read(
                session,
                |_| Cursor { arrival: *arrival, ..Cursor::default() },
                |view| {
                    let place = place_before(view, *arrival)?;
                    Ok(Cursor { arrival: *arrival, place, ..Cursor::now(view)? })
                },
            ),
            Some([arrival, place_ns, fraction, rank, lates]) => {
                Ok(Cursor { arrival: *arrival, place: Place(*place_ns, *fraction, *rank), lates: *lates })
            }
            _ => Err(StoreError::Cursor { cursor: text.to_owned() }),
        }
    }

    /// What happened to a session since a cursor, about `limit` events of it.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn live(&self, session: &SessionId, cursor: Cursor, limit: usize) -> Result<LiveEvents, StoreError> {
        let nothing = |watermark_ns| LiveEvents { watermark_ns, ..LiveEvents::default() };
        self.read(session, nothing, |view| {
            let mut found = Found { cursor, limit, events: Vec::new(), more: false };
            found.arrivals(view)?;
            found.finals(view)?;
            found.lates(view)?;
            Ok(LiveEvents { events: found.events, more: found.more, watermark_ns: view.watermark_ns })
        })
    }
}

/// The last final place before that of the first hit which came behind an arrival.
fn place_before(view: &View<'_>, arrival: u64) -> Result<Place, StoreError> {
    let sql = "SELECT first FROM segments WHERE session = ? AND newest > ? ORDER BY first LIMIT 1";
    let mut query = view.transaction.prepare_cached(sql)?;
    let mut rows = query.query((view.session, arrival as i64))?;
    let Some(row) = rows.next()? else { return view.last_place() };
    let first: [u8; 24] = row.get(0)?;
    let mut before = Place::default();
    view.segments_from(Place::from_bytes(first), |_, unpack| {
        let segment = unpack()?;
        let at = segment.entries.iter().position(|entry| entry.arrival > arrival).unwrap_or(0);
        before = match at.checked_sub(1) {
            Some(before) => segment.entries[before].place,
            None => Place(segment.first().0.saturating_sub(1), u64::MAX, u64::MAX),
        };
        Ok(false)
    })?;
    Ok(before)
}

struct Found {
    cursor: Cursor,
    limit: usize,
    events: Vec<(Cursor, Live)>,
    more: bool,
}

impl Found {
    fn is_full(&mut self) -> bool {
        let is_full = self.events.len() >= self.limit;
        self.more |= is_full;
        is_full
    }

    /// Hits that came.
    fn arrivals(&mut self, view: &View<'_>) -> Result<(), StoreError> {
        let sql =
            "SELECT data FROM blocks WHERE session = ?1 AND first > ifnull((SELECT max(first) FROM blocks
                   WHERE session = ?1 AND first <= ?2), -1) - 1 AND last > ?2 ORDER BY first";
        let mut query = view.transaction.prepare_cached(sql)?;
        let mut rows = query.query((view.session, self.cursor.arrival as i64))?;
        while let Some(row) = rows.next()? {
            let block = Block::unpack(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
            let arrivals: Vec<u64> =
                block.arrivals().filter(|arrival| *arrival > self.cursor.arrival).collect();
            for arrival in arrivals {
                if self.is_full() {
                    return Ok(());
                }
                let Some((service, text)) = block.get(arrival) else { continue };
                let hit = serde_json::from_slice(text)?;
                let entry = Entry { service, arrival, ..Entry::default() };
                self.cursor.arrival = arrival;
                let stored = view.stored(&entry, hit, Finality::Provisional);
                self.events.push((self.cursor, Live::Hit(Box::new(stored))));
            }
        }
        Ok(())
    }

    /// Hits whose places became final.
    fn finals(&mut self, view: &mut View<'_>) -> Result<(), StoreError> {
        let mut chain = view.chain_behind(self.cursor.place)?;
        loop {
            let mut segment = None;
            view.segments_from(self.cursor.place, |_, unpack| {
                let unpacked = unpack()?;
                if unpacked.entries.iter().all(|entry| entry.late || entry.place <= self.cursor.place) {
                    return Ok(true);
                }
                segment = Some(unpacked);
                Ok(false)
            })?;
            let Some(segment) = segment else { return Ok(()) };
            let start = segment.entries.partition_point(|entry| entry.place <= self.cursor.place);
            for entry in segment.entries[start..].iter().filter(|entry| !entry.late) {
                // Not before the reader was told of the hit.
                if self.is_full() || entry.arrival > self.cursor.arrival {
                    return Ok(());
                }
                self.cursor.place = entry.place;
                let Some((_, hit)) = view.hit(entry.arrival)? else { continue };
                let mut stored = view.stored(entry, hit, Finality::Final);
                chain.link(&mut stored.hit, segment.evidence(entry));
                self.events.push((self.cursor, Live::Final(Box::new(stored))));
            }
        }
    }

    /// Late hits that got their places.
    fn lates(&mut self, view: &mut View<'_>) -> Result<(), StoreError> {
        let sql = "SELECT number, place FROM lates WHERE session = ? AND number >= ? ORDER BY number LIMIT ?";
        let places = {
            let mut query = view.transaction.prepare_cached(sql)?;
            let rows = query
                .query_map((view.session, self.cursor.lates as i64, self.limit as i64), |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 24]>(1)?))
                })?;
            rows.collect::<Result<Vec<_>, _>>()?
        };
        for (number, place) in places {
            if self.is_full() {
                return Ok(());
            }
            let entry = view.entry_at(Place::from_bytes(place))?;
            if entry.as_ref().is_some_and(|(entry, _)| entry.arrival > self.cursor.arrival) {
                return Ok(());
            }
            self.cursor.lates = number as u64 + 1;
            let Some((entry, _)) = entry else { continue };
            let Some((_, hit)) = view.hit(entry.arrival)? else { continue };
            let stored = view.stored(&entry, hit, Finality::Final);
            self.events.push((self.cursor, Live::Final(Box::new(stored))));
        }
        Ok(())
    }
}
