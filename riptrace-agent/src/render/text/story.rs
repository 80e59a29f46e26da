//! A story: hits of many services in one order, and why they are in it.

use std::{collections::HashMap, fmt::Write as _};

use riptrace_common::wire::{
    api::{Finality, StoredHit},
    event::{Certificate, Hit, Variable},
};

use super::{TextOptions, escape::plain, events, value::value};
use crate::decode::time::local_clock;

const INDENT: &str = "      ";

/// Goroutines whose last hit is remembered, to mark what changed since; past it, all are forgotten.
const MAX_GOROUTINES: usize = 65_536;

/// Renders hits one after the other, and remembers of each goroutine what it saw last.
#[derive(Debug, Default)]
pub struct Story {
    seen: HashMap<(String, u32, u64), HashMap<String, String>>,
    begun: bool,
}

impl Story {
    /// A hit, with what stands between it and the one before.
    pub fn hit(&mut self, stored: &StoredHit, options: &TextOptions) -> String {
        let hit = &stored.hit;
        let mut out = String::with_capacity(512);
        // Writing to a string can't fail, so the results of `write!` carry nothing.
        if self.begun
            && let Some(certificate) = hit.certificate
        {
            let _ = writeln!(out, "{INDENT}{}", reason(certificate));
        }
        self.begun = true;
        let _ = match hit.order {
            Some(order) => write!(out, "{order:>5} "),
            None => write!(out, "    ? "),
        };
        let _ = write!(out, "{}", local_clock(hit.time_ns, options.utc_offset_seconds));
        if let Some(uncertainty_ns) = hit.uncertainty_ns {
            let _ = write!(out, " {}", uncertainty(uncertainty_ns));
        }
        let _ = write!(out, "  {}  {}", plain(&hit.host), plain(&stored.service));
        match hit.goroutine {
            Some(goroutine) => {
                let _ = write!(out, "  goroutine {goroutine}");
            }
            None => out.push_str("  no goroutine"),
        }
        let _ = write!(out, "  {}", events::what(hit, options));
        if hit.late {
            out.push_str("  (late)");
        }
        if stored.finality == Finality::Provisional {
            out.push_str("  (provisional)");
        }
        if let Some(message) = &hit.message {
            let _ = write!(out, ": {}", events::shortened(plain(message), options.max_value_chars));
        }
        out.push('\n');
        self.variables(hit, options, &mut out);
        out.push_str(&events::stack(hit));
        out
    }

    /// One variable a line; `*` marks those that are not what the goroutine's hit before showed.
    fn variables(&mut self, hit: &Hit, options: &TextOptions, out: &mut String) {
        if self.seen.len() >= MAX_GOROUTINES {
            self.seen.clear();
        }
        let key = hit.goroutine.map(|goroutine| (hit.boot_id.to_string(), hit.pid, goroutine));
        let before = key.as_ref().and_then(|key| self.seen.get(key));
        let mut now = HashMap::new();
        for Variable { name, value: shown, .. } in &hit.variables {
            let text = value(shown);
            let name = plain(name);
            let changed = before.and_then(|before| before.get(&name)).is_some_and(|before| *before != text);
            let mark = if changed { "*" } else { " " };
            let short = events::shortened(text.clone(), options.max_value_chars);
            let _ = writeln!(out, "{INDENT}{mark} {name} = {short}");
            now.insert(name, text);
        }
        if let Some(key) = key {
            self.seen.entry(key).or_default().extend(now);
        }
    }
}

/// `±0.12 ms`: rounded up, so that it promises nothing that is not so.
/// How far a time may be off: `±0.12 ms`, rounded up.
#[must_use]
pub fn uncertainty(nanoseconds: u64) -> String {
    let hundredths = nanoseconds.div_ceil(10_000);
    format!("±{}.{:02} ms", hundredths / 100, hundredths % 100)
}

/// Why the lower one of two stands below.
fn reason(certificate: Certificate) -> &'static str {
    match certificate {
        Certificate::SameGoroutine => "│ same goroutine",
        Certificate::GoroutineStart => "│ goroutine start: the upper one's goroutine started the lower one's",
        Certificate::SameHost => "│ same host: by its kernel's clock",
        Certificate::Message => "│ message: sent after the upper one, received before the lower one",
        Certificate::Reply => "│ reply: answered after the upper one, received before the lower one",
        Certificate::Clock => "│ clock: further apart than both times' uncertainty",
        Certificate::Ambiguous => "┆ ambiguous: nothing proves this order",
    }
}
