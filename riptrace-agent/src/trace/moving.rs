//! A tracepoint at a branch that mostly goes elsewhere moves to its line's own instruction.

use std::{collections::BTreeMap, sync::Arc};

use riptrace_common::{
    abi::program::{Counters, TRACEPOINT_MOVED},
    wire::event::{ErrorEvent, Event, Moved, SiteInfo},
};

use super::{
    PlanFailure, SiteChoice, TracepointId, Tracer,
    budget::{Level, Settled},
    passages::{PassageRates, Passages},
    planning, shown_sites,
};
use crate::{
    plan::SitePlan,
    probe::{ProbeError, TrapCost},
};

/// Why a tracepoint stays where it is.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error(transparent)]
    Plan(#[from] PlanFailure),
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl Tracer {
    /// Lets those tracepoints move whose branches cost more than they save.
    pub(super) fn leave_branches(&mut self, at_ns: u64, counters: &BTreeMap<u32, Counters>) -> Vec<Event> {
        let cost = self.trap_cost.unwrap_or(TrapCost::ASSUMED);
        let due: Vec<(u32, PassageRates)> = counters
            .iter()
            .filter_map(|(&index, &Counters { hits, passed, .. })| {
                let armed = self.armed.get_mut(&index).filter(|armed| armed.until.is_none())?;
                let rates = armed.branch_watch.as_mut()?.look(at_ns, Passages { hits, passed }, cost)?;
                Some((index, rates))
            })
            .collect();
        due.into_iter().filter_map(|(index, rates)| self.leave_branch(index, rates)).collect()
    }

    fn leave_branch(&mut self, index: u32, rates: PassageRates) -> Option<Event> {
        let moved = self.move_to_own_instruction(index);
        let armed = self.armed.get_mut(&index)?;
        // What failed once is not tried every ten milliseconds.
        armed.branch_watch = None;
        let tracepoint = Arc::clone(&armed.id);
        Some(match moved {
            Ok(sites) => {
                let PassageRates { hits_per_second, passed_per_second } = rates;
                Event::Moved(Moved { tracepoint, passed_per_second, hits_per_second, sites })
            }
            Err(error) => {
                let message = format!(
                    "the branch that is armed for it goes elsewhere {:.0} times a second, and the line's own instruction \
                     can't be armed instead: {error}. Remove the tracepoint, or arm it with --at-line-start",
                    rates.passed_per_second
                );
                Event::Error(ErrorEvent { tracepoint: Some(tracepoint), message })
            }
        })
    }

    /// Arms what would have been armed without branches, and disarms what is.
    fn move_to_own_instruction(&mut self, index: u32) -> Result<Vec<SiteInfo>, Stays> {
        let unknown = || ProbeError::Unknown { what: "tracepoint", index: index.into() };
        let armed = self.armed.get(&index).ok_or_else(unknown)?;
        let known = self.images.get(armed.image.0).ok_or(PlanFailure::UnknownImage)?;
        let mut wanted = armed.wanted.clone();
        wanted.sites = SiteChoice::NoBranch;
        let plans = planning::plan(&mut self.registry, &known.image, known.index, &wanted)?.plans;
        let (image, path, scope) = (known.index, armed.attach_path.clone(), armed.scope);
        let (level, former_trap_ns) = (armed.level, self.trap_ns(armed));

        self.kernel.upload(&self.registry.take_upload())?;
        let handles = self.kernel.add_sites_to_move_to(index, image, &plans.iter().collect::<Vec<_>>())?;
        let attachment = match self.set_traps(&handles, &plans, &path, scope) {
            Ok(attachment) => attachment,
            Err(error) => {
                self.kernel.remove_sites(&handles)?;
                return Err(error.into());
            }
        };
        // From here on these sites' hits count, and not those of the former ones.
        if let Err(error) = self.kernel.change(index, |tracepoint| tracepoint.flags |= TRACEPOINT_MOVED) {
            self.kernel.detach(attachment)?;
            self.kernel.remove_sites(&handles)?;
            return Err(error.into());
        }
        let Some(armed) = self.armed.get_mut(&index) else { return Err(unknown().into()) };
        let former = armed.attachment.replace(attachment);
        armed.wanted = wanted;
        // The former sites are kept: records of theirs are on their way.
        armed.handles = handles;
        armed.is_stepped = plans.iter().any(SitePlan::is_stepped);
        if let Some(former) = former
            && let Err(error) = self.kernel.detach(former)
        {
            tracing::warn!(%error, "the traps of a branch that a tracepoint left stay, and are ignored");
        }
        let traps = self.kernel.counters(index).map(|counters| counters.hits.saturating_add(counters.passed));
        if let (Some(armed), Ok(traps)) = (self.armed.get_mut(&index), traps) {
            armed.settled = Settled { traps, cost_ns: traps.saturating_mul(former_trap_ns) };
        }
        if level == Level::Arguments
            && let Err(error) = self.lower(TracepointId(index), level)
        {
            tracing::warn!(%error, "a tracepoint that moved captures more than its budget's step");
        }
        Ok(shown_sites(&plans))
    }
}
