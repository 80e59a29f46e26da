//! What a choice comes to: which addresses are armed, and why, in words.

use super::{Barrier, Branch, Candidate, Choice, Verdict, Way, ways};

impl Choice {
    /// What is armed is emulated.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        !self.ways.is_empty() || self.candidates.get(self.index).is_some_and(|one| one.fast)
    }

    /// What is armed is, or has among it, a branch that may trap without an execution of the line.
    #[must_use]
    pub fn leads_elsewhere(&self) -> bool {
        let branch = self.branch.filter(|_| self.ways.is_empty());
        branch.is_some_and(|branch| !branch.other_way_ends) || self.ways.iter().any(Way::leads_elsewhere)
    }

    /// The addresses that are armed.
    #[must_use]
    pub fn addresses(&self) -> Vec<u64> {
        let chosen = self.candidates.get(self.index).filter(|_| self.ways.is_empty());
        self.ways.iter().map(|way| &way.candidate).chain(chosen).map(|one| one.link_address).collect()
    }

    /// Nothing cheap was found, or less is readable, for want of a value's place.
    #[must_use]
    pub fn lacks_values(&self) -> bool {
        let lacks = |one: &Candidate| one.fast && matches!(one.verdict, Verdict::Lacks(_));
        !self.is_fast() && self.candidates.iter().any(lacks)
    }

    /// Why this instruction, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let readable = |index: usize| match self.candidates.get(index).map(|one| &one.verdict) {
            Some(Verdict::Allowed { readable }) => *readable,
            _ => 0,
        };
        let fast = |index: usize| self.candidates.get(index).is_some_and(|one| one.fast);
        let (entry, here) = (self.entry, self.index);
        if !self.ways.is_empty() {
            return ways::reason(&self.ways, readable(entry));
        }
        if here == entry {
            if fast(entry) || self.candidates.len() <= 1 && self.end == Barrier::End {
                return "the line's first instruction".to_owned();
            }
            let lost = self.candidates.iter().enumerate().find_map(|(index, one)| match &one.verdict {
                Verdict::Lacks(name) if fast(index) => Some(name),
                _ => None,
            });
            return match lost {
                Some(name) => format!("the line's first instruction: {name} is lost at the cheaper ones"),
                None => format!(
                    "the line's first instruction: nothing cheaper before the next {}",
                    self.end.text()
                ),
            };
        }
        let (distance, direction) =
            if here > entry { (here - entry, "behind") } else { (entry - here, "before") };
        let plural = if distance == 1 { "" } else { "s" };
        let mut gains = Vec::new();
        if fast(here) && !fast(entry) {
            gains.push("emulated".to_owned());
        }
        let more = readable(here).saturating_sub(readable(entry));
        if more > 0 {
            gains.push(format!("{more} more readable"));
        }
        let faults = match self.faults.len() {
            0 => String::new(),
            1 => "; a load on the way may fault, which is caught".to_owned(),
            count => format!("; {count} loads on the way may fault, which is caught"),
        };
        let branch = match self.branch {
            Some(Branch { other_way_ends: true, .. }) => "; a branch, whose other way is a panic's",
            Some(_) => "; a branch, which traps on its other way, too",
            None => "",
        };
        let gains = gains.join(", ");
        format!("{distance} instruction{plural} {direction} the line's first: {gains}{faults}{branch}")
    }
}
