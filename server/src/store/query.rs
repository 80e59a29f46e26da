//! Pages of a session's hits, in their order: first those whose place is final, then the others by time.

use std::collections::HashSet;

use riptrace_common::{
    id::SessionId,
    wire::{
        api::{Finality, HitPage, HitQuery, StoredHit},
        event::Hit,
    },
};

use super::{
    Store, StoreError, bloom,
    certificate::Chain,
    live::Cursor,
    names::Names,
    segment::{Entry, Place, goroutine_key, trace_key, trace_number},
    terms::Search,
    view::View,
};
use crate::order::Evidence;

/// Hits of a page at the most.
pub const MAX_PAGE_HITS: u32 = 2000;
/// Hits of a page when it is not said how many.
const PAGE_HITS: u32 = 200;
/// Entries that are looked at for one page. A filter that finds little among more gives a page that is not full, or
/// empty, and says where to go on.
pub const MAX_SCANNED_ENTRIES: usize = 2_000_000;
/// Hits that are unpacked for one page, to see whether they have what is searched for.
const MAX_OPENED_HITS: usize = 50_000;

/// Where a page goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Behind a final place; with the hit that was shown last, if it is another one.
    Final { place: Place, shown: Option<Place> },
    /// Behind a provisional hit.
    Provisional { time_ns: u64, arrival: u64 },
}

impl After {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let kind = parts.next()?;
        let numbers = parts.map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(match (kind, numbers.as_slice()) {
            ("f", [a, b, c]) => Self::Final { place: Place(*a, *b, *c), shown: None },
            ("f", [a, b, c, d, e, f]) => {
                Self::Final { place: Place(*a, *b, *c), shown: Some(Place(*d, *e, *f)) }
            }
            ("p", [time_ns, arrival]) => Self::Provisional { time_ns: *time_ns, arrival: *arrival },
            _ => return None,
        })
    }
}

impl std::fmt::Display for After {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Final { place: Place(a, b, c), shown } => {
                write!(formatter, "f.{a}.{b}.{c}")?;
                shown.map_or(Ok(()), |Place(a, b, c)| write!(formatter, ".{a}.{b}.{c}"))
            }
            Self::Provisional { time_ns, arrival } => write!(formatter, "p.{time_ns}.{arrival}"),
        }
    }
}

/// What hits are filtered by, in the store's numbers.
#[derive(Debug, Default)]
struct Filter {
    service: Option<u32>,
    host: Option<u32>,
    tracepoint: Option<u32>,
    files: Option<HashSet<u32>>,
    line: Option<u32>,
    goroutine: Option<u64>,
    trace: Option<u128>,
    trace_id: Option<String>,
    search: Search,
    /// Something is asked for that no hit has.
    nothing: bool,
    /// The blocks that may have what is searched for: first and last arrival, ascending.
    candidates: Option<Vec<(u64, u64)>>,
}

impl Filter {
    fn of(query: &HitQuery, names: &Names) -> Self {
        let mut nothing = false;
        let mut number = |text: &Option<String>| {
            let number = text.as_ref().map(|text| names.find(text));
            nothing |= number == Some(None);
            number.flatten()
        };
        let (service, host) = (number(&query.service), number(&query.host));
        let tracepoint = number(&query.tracepoint);
        let files = query.file.as_ref().map(|end| {
            let is_meant = |file: &str| {
                file.strip_suffix(end.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('/') || end.starts_with('/'))
            };
            (0..).zip(names.all()).filter(|(_, name)| is_meant(name)).map(|(number, _)| number).collect()
        });
        Self {
            service,
            host,
            tracepoint,
            files,
            line: query.line,
            goroutine: query.goroutine,
            trace: query.trace_id.as_deref().map(trace_number),
            trace_id: query.trace_id.clone(),
            search: Search {
                path: query.path.clone(),
                value: query.value.clone(),
                words: query.text.as_deref().map(Search::words_of).unwrap_or_default(),
            },
            nothing,
            candidates: None,
        }
    }

    /// Looks up which blocks may have what is searched for.
    fn find_candidates(&mut self, view: &View<'_>, full_text: bool) -> Result<(), StoreError> {
        if self.search.is_empty() {
            return Ok(());
        }
        let words = self.search.full_text().filter(|_| full_text);
        let sql = match words {
            Some(_) => {
                "SELECT first, last, keys FROM blocks WHERE session = ?1
                 AND (indexed = 0 OR id IN (SELECT rowid FROM words WHERE words MATCH ?2)) ORDER BY first"
            }
            None => "SELECT first, last, keys FROM blocks WHERE session = ?1 AND ?2 IS NULL ORDER BY first",
        };
        let key = self.search.key();
        let mut query = view.transaction.prepare_cached(sql)?;
        let mut rows = query.query((view.session, words))?;
        let mut candidates = Vec::new();
        while let Some(row) = rows.next()? {
            let keys = row.get_ref(2)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
            if let (Some(key), Some(keys)) = (key, keys)
                && !bloom::may_have(keys, key)
            {
                continue;
            }
            candidates.push((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64));
        }
        self.candidates = Some(candidates);
        Ok(())
    }

    /// Whether a segment with these keys may have such hits.
    fn may_be_in(&self, keys: &[u8]) -> bool {
        self.goroutine.is_none_or(|goroutine| bloom::may_have(keys, goroutine_key(goroutine)))
            && self.trace.is_none_or(|trace| bloom::may_have(keys, trace_key(trace)))
    }

    /// Whether a hit may be meant, by its entry.
    fn takes(&self, entry: &Entry) -> bool {
        let is = |wanted: Option<u32>, has: u32| wanted.is_none_or(|wanted| wanted == has);
        is(self.service, entry.service)
            && is(self.host, entry.host)
            && is(self.tracepoint, entry.tracepoint)
            && is(self.line, entry.line)
            && self.files.as_ref().is_none_or(|files| files.contains(&entry.file))
            && self.goroutine.is_none_or(|goroutine| entry.goroutine == Some(goroutine))
            && self.trace.is_none_or(|trace| entry.trace == trace)
            && self.candidates.as_ref().is_none_or(|blocks| {
                let at = blocks.partition_point(|(first, _)| *first <= entry.arrival);
                at > 0 && entry.arrival <= blocks[at - 1].1
            })
    }

    /// Whether a hit is meant, of those that [`Filter::takes`] let through.
    fn takes_hit(&self, hit: &Hit) -> bool {
        (self.trace_id.is_none() || self.trace_id.as_deref() == hit.trace_id.as_deref())
            && (self.search.is_empty() || self.search.matches(hit))
    }
}

/// A page as it is filled.
struct Page {
    limit: usize,
    hits: Vec<StoredHit>,
    chain: Chain,
    scanned: usize,
    opened: usize,
    /// Where the next page begins.
    next: Option<After>,
}

impl Page {
    fn is_full(&self) -> bool {
        self.hits.len() >= self.limit
    }

    fn is_tired(&self) -> bool {
        self.scanned >= MAX_SCANNED_ENTRIES || self.opened >= MAX_OPENED_HITS
    }

    /// Takes a hit if it is meant.
    fn look_at(
        &mut self,
        view: &mut View<'_>,
        filter: &Filter,
        entry: &Entry,
        evidence: Option<Evidence>,
        finality: Finality,
    ) -> Result<bool, StoreError> {
        self.scanned += 1;
        if !filter.takes(entry) {
            return Ok(false);
        }
        self.opened += 1;
        let Some((_, hit)) = view.hit(entry.arrival)?.filter(|(_, hit)| filter.takes_hit(hit)) else {
            return Ok(false);
        };
        let mut stored = view.stored(entry, hit, finality);
        self.chain.link(&mut stored.hit, evidence);
        self.hits.push(stored);
        Ok(true)
    }
}

impl Store {
    /// A page of a session's hits. Of one that has none, or that is not known, an empty one.
    ///
    /// # Errors
    ///
    /// `after` is no cursor, or the file can't be read.
    pub fn hits(&self, session: &SessionId, query: &HitQuery) -> Result<HitPage, StoreError> {
        let after = query
            .after
            .as_deref()
            .map(|text| After::parse(text).ok_or_else(|| StoreError::Cursor { cursor: text.to_owned() }));
        let after = after.transpose()?;
        let nothing = |watermark_ns| HitPage {
            watermark_ns,
            live: Some(Cursor::default().to_string()),
            ..HitPage::default()
        };
        self.read(session, nothing, |view| page(view, query, after, self.options().full_text))
    }
}

fn page(
    view: &mut View<'_>,
    query: &HitQuery,
    after: Option<After>,
    full_text: bool,
) -> Result<HitPage, StoreError> {
    let mut filter = view.names(|names| Filter::of(query, names));
    let live = Some(Cursor::now(view)?.to_string());
    if filter.nothing {
        return Ok(HitPage { hits: Vec::new(), next: None, watermark_ns: view.watermark_ns, live });
    }
    filter.find_candidates(view, full_text)?;
    let mut page = Page {
        limit: query.limit.unwrap_or(PAGE_HITS).clamp(1, MAX_PAGE_HITS) as usize,
        hits: Vec::new(),
        chain: Chain::default(),
        scanned: 0,
        opened: 0,
        next: None,
    };
    match after {
        Some(After::Provisional { time_ns, arrival }) => {
            if let Some((_, hit)) = view.hit(arrival)? {
                page.chain = Chain::behind(hit, None);
            }
            provisional(view, &filter, &mut page, Some((time_ns, arrival)))?;
        }
        other => {
            let mut from = Place::default();
            if let Some(After::Final { place, shown }) = other {
                from = place;
                page.chain = view.chain_behind(shown.unwrap_or(place))?;
            }
            finals(view, &filter, &mut page, from)?;
            if page.next.is_none() {
                provisional(view, &filter, &mut page, None)?;
            }
        }
    }
    Ok(HitPage {
        hits: page.hits,
        next: page.next.map(|next| next.to_string()),
        watermark_ns: view.watermark_ns,
        live,
    })
}

/// Fills the page with final hits behind a place. If it is full before they end, it says where to go on.
fn finals(view: &mut View<'_>, filter: &Filter, page: &mut Page, from: Place) -> Result<(), StoreError> {
    let mut last = from;
    let mut shown: Option<Place> = None;
    loop {
        // A segment at a time: hits are unpacked with the same connection.
        let mut segment = None;
        view.segments_from(last, |keys, unpack| {
            if !filter.may_be_in(keys) {
                page.scanned += 1;
                return Ok(page.scanned < MAX_SCANNED_ENTRIES);
            }
            let unpacked = unpack()?;
            if unpacked.entries.last().is_none_or(|entry| entry.place <= last) {
                return Ok(true);
            }
            segment = Some(unpacked);
            Ok(false)
        })?;
        let Some(segment) = segment else {
            // What is provisional now may be final when the next page is asked for.
            if page.is_full() && !view.provisional.is_empty() {
                page.next = Some(After::Final { place: last, shown: shown.filter(|shown| *shown != last) });
            }
            return Ok(());
        };
        let start = segment.entries.partition_point(|entry| entry.place <= last);
        for entry in &segment.entries[start..] {
            if page.is_full() || page.is_tired() {
                page.next = Some(After::Final { place: last, shown: shown.filter(|shown| *shown != last) });
                return Ok(());
            }
            last = entry.place;
            if page.look_at(view, filter, entry, segment.evidence(entry), Finality::Final)? {
                shown = Some(last);
            }
        }
    }
}

/// Fills the page with hits whose place is not final, by their time.
fn provisional(
    view: &mut View<'_>,
    filter: &Filter,
    page: &mut Page,
    behind: Option<(u64, u64)>,
) -> Result<(), StoreError> {
    let entries = std::sync::Arc::clone(&view.provisional);
    let key = |entry: &Entry| (entry.time_ns, entry.arrival);
    let mut entries: Vec<&Entry> = entries
        .values()
        .filter(|entry| behind.is_none_or(|behind| key(entry) > behind) && filter.takes(entry))
        .collect();
    entries.sort_unstable_by_key(|entry| key(entry));
    let mut last = behind;
    for entry in entries {
        if page.is_full() || page.is_tired() {
            let (time_ns, arrival) = last.unwrap_or_default();
            page.next = Some(After::Provisional { time_ns, arrival });
            break;
        }
        page.look_at(view, filter, entry, None, Finality::Provisional)?;
        last = Some(key(entry));
    }
    Ok(())
}
