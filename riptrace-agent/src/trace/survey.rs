//! How many of a program's line entries can be armed cheaply, and what is in the way of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use super::{Image, Wanted, planning::choice_of};
use crate::plan::{
    fast::{Choice, Verdict},
    sites::{self, LocationRequest},
};

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Lines that were looked at.
    pub lines: usize,
    /// Their entries.
    pub entries: usize,
    /// Entries that the kernel emulates as they are.
    pub fast_at_start: usize,
    /// Entries for which an emulated instruction was chosen.
    pub fast: usize,
    /// Of these, those where it is no branch whose other way leads elsewhere.
    pub fast_without_branches: usize,
    /// Entries that are armed at their ways in, and how many addresses those are.
    pub at_ways: usize,
    /// See `at_ways`.
    pub ways: usize,
    /// Wanted variables that can be read whole at the entries, at the chosen instructions, and all.
    pub readable_at_start: usize,
    /// The same at the chosen instructions.
    pub readable: usize,
    /// All variables.
    pub variables: usize,
    /// Why the others are slow.
    pub reasons: BTreeMap<String, usize>,
    /// An example of each reason.
    pub examples: BTreeMap<String, String>,
    /// Time that finding and choosing took.
    pub time: Duration,
}

/// Looks at every `every`-th line with code.
#[must_use]
pub fn survey(image: &Image, every: usize) -> Survey {
    let mut survey = Survey::default();
    let Some(debug) = &image.debug else { return survey };
    let mut number = 0;
    for file in debug.files() {
        if file.ends_with(".s") {
            continue;
        }
        let Ok(lines) = sites::lines_with_code(debug.as_ref(), file) else { continue };
        for line in lines {
            number += 1;
            if number % every.max(1) == 0 {
                survey.add(image, LocationRequest::Line { file: file.to_owned(), line });
            }
        }
    }
    survey
}

impl Survey {
    fn add(&mut self, image: &Image, location: LocationRequest) {
        let Some(debug) = &image.debug else { return };
        let begin = Instant::now();
        let Ok(found) = sites::resolve(debug.as_ref(), image, &location) else { return };
        self.lines += 1;
        let name = location.to_string();
        let wanted = Wanted::at(location);
        let mut taken: BTreeSet<u64> = found.sites.iter().map(|site| site.link_address).collect();
        for site in &found.sites {
            if site.function.as_ref().is_none_or(|function| !function.is_go) {
                continue;
            }
            let Ok(Some(choice)) = choice_of(image, &wanted, site, &taken) else { continue };
            let readable = |index: usize| match choice.candidates.get(index).map(|one| &one.verdict) {
                Some(Verdict::Allowed { readable }) => *readable,
                _ => 0,
            };
            self.entries += 1;
            self.variables += choice.variables.len();
            self.readable_at_start += readable(site.stretch.entry);
            self.readable += readable(choice.index);
            self.fast_at_start += usize::from(site.fast);
            self.at_ways += usize::from(!choice.ways.is_empty());
            self.ways += choice.ways.len();
            taken.extend(choice.addresses());
            if choice.is_fast() {
                self.fast += 1;
                self.fast_without_branches += usize::from(!choice.leads_elsewhere());
            } else {
                let reason = reason(&choice);
                self.examples
                    .entry(reason.clone())
                    .or_insert_with(|| format!("{name} {:#x} {}", site.link_address, site.instruction));
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
        self.time += begin.elapsed();
    }
}

/// Why nothing cheaper was found.
fn reason(choice: &Choice) -> String {
    let fast = || choice.candidates.iter().filter(|candidate| candidate.fast);
    if fast().any(|candidate| matches!(candidate.verdict, Verdict::Allowed { .. })) {
        return "more is readable at a slow one".to_owned();
    }
    let verdict = |wanted: fn(&Verdict) -> bool| fast().any(|candidate| wanted(&candidate.verdict));
    if verdict(|verdict| matches!(verdict, Verdict::Taken)) {
        "the emulated one is another site".to_owned()
    } else if verdict(|verdict| matches!(verdict, Verdict::Lacks(_))) {
        "a variable is lost at the emulated ones".to_owned()
    } else if verdict(|verdict| matches!(verdict, Verdict::MayChange)) {
        "a store that pointers may lead to".to_owned()
    } else if verdict(|verdict| matches!(verdict, Verdict::OtherWay)) {
        "only a branch whose other way leads elsewhere".to_owned()
    } else if verdict(|verdict| matches!(verdict, Verdict::NoFrame)) {
        "frame not known".to_owned()
    } else {
        format!("none before: {}", choice.end.text())
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: usize, of: usize| part as f64 * 100.0 / of.max(1) as f64;
        writeln!(
            f,
            "{} entries of {} lines: {:.1} % emulated as they are, {:.1} % at the chosen instructions, \
             {:.1} % without branches that may lead elsewhere",
            self.entries,
            self.lines,
            percent(self.fast_at_start, self.entries),
            percent(self.fast, self.entries),
            percent(self.fast_without_branches, self.entries)
        )?;
        writeln!(
            f,
            "{} variables: {:.1} % readable whole at the entries, {:.1} % at the chosen instructions",
            self.variables,
            percent(self.readable_at_start, self.variables),
            percent(self.readable, self.variables)
        )?;
        writeln!(
            f,
            "{:.1} % of the entries are armed at their ways in, at {:.1} addresses each",
            percent(self.at_ways, self.entries),
            self.ways as f64 / self.at_ways.max(1) as f64
        )?;
        let mut reasons: Vec<(&String, &usize)> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons {
            let example = self.examples.get(reason).map_or("", String::as_str);
            writeln!(f, "{:>6.1} %  {reason} ({example})", percent(*count, self.entries))?;
        }
        write!(f, "{:.0} µs a line", self.time.as_secs_f64() * 1e6 / self.lines.max(1) as f64)
    }
}
