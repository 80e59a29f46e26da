//! Long replies in pieces: kept for a while, and handed out one by one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use riptrace_common::wire::message::{Error, ErrorCode, Page, PageRequest, pages};

/// How long the pieces of a reply are kept.
const KEEP: Duration = Duration::from_secs(30);
/// Bytes that are kept at the most; the oldest replies go first.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
struct Kept {
    until: Instant,
    bytes: usize,
    pages: Vec<Page>,
}

/// The pieces of the replies of the last half minute.
#[derive(Debug, Default)]
pub struct Pages {
    kept: VecDeque<Kept>,
    bytes: usize,
    made: u64,
}

impl Pages {
    /// Cuts a reply's text, keeps the pieces, and gives the first one.
    pub fn cut(&mut self, prefix: &str, text: &str, max_bytes: usize, now: Instant) -> Option<Page> {
        self.forget(now);
        self.made += 1;
        let pages = pages(&format!("{prefix}.{}", self.made), text, max_bytes);
        let first = pages.first().cloned();
        self.bytes += text.len();
        self.kept.push_back(Kept { until: now + KEEP, bytes: text.len(), pages });
        while self.bytes > MAX_KEPT_BYTES && self.kept.len() > 1 {
            self.drop_oldest();
        }
        first
    }

    /// A piece of an earlier reply.
    ///
    /// # Errors
    ///
    /// It is not kept any more, or there is none with that number.
    pub fn page(&mut self, wanted: &PageRequest, now: Instant) -> Result<Page, Error> {
        self.forget(now);
        let PageRequest { id, index } = wanted;
        let found = self
            .kept
            .iter()
            .find(|kept| kept.pages.first().is_some_and(|page| page.id == *id))
            .and_then(|kept| kept.pages.get(usize::try_from(*index).ok()?));
        found.cloned().ok_or_else(|| {
            let seconds = KEEP.as_secs();
            let text = format!(
                "there is no page {index} of reply {id:?}; pages are kept for {seconds} seconds: ask anew"
            );
            Error::new(ErrorCode::NotFound, text)
        })
    }

    fn forget(&mut self, now: Instant) {
        while self.kept.front().is_some_and(|kept| kept.until <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes -= kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_out_for_a_while() {
        let now = Instant::now();
        let mut store = Pages::default();
        let first = store.cut("a", "0123456789", 4, now).unwrap();
        assert_eq!((first.index, first.count, first.text.as_str()), (0, 3, "0123"));
        let mut whole = first.text;
        for index in 1..first.count {
            whole += &store.page(&PageRequest { id: first.id.clone(), index }, now).unwrap().text;
        }
        assert_eq!(whole, "0123456789");
        let past = PageRequest { id: first.id.clone(), index: 3 };
        assert_eq!(store.page(&past, now).unwrap_err().code, ErrorCode::NotFound);
        let late = PageRequest { id: first.id, index: 1 };
        assert_eq!(store.page(&late, now + KEEP).unwrap_err().code, ErrorCode::NotFound);
        assert_eq!(store.bytes, 0);
    }

    #[test]
    fn the_oldest_pages_make_room() {
        let now = Instant::now();
        let mut store = Pages::default();
        let text = "x".repeat(MAX_KEPT_BYTES / 2 + 1);
        let first = store.cut("a", &text, 1 << 20, now).unwrap();
        let second = store.cut("a", &text, 1 << 20, now).unwrap();
        assert!(store.page(&PageRequest { id: first.id, index: 0 }, now).is_err());
        assert!(store.page(&PageRequest { id: second.id, index: 0 }, now).is_ok());
    }
}
