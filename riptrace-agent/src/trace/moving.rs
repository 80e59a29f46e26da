//! A tracepoint at a branch that mostly goes elsewhere moves to its line's own instruction.

use std::sync::Arc;

use riptrace_common::{
    abi::program::{Counters, TRACEPOINT_MOVED},
    wire::event::{ErrorEvent, Event, Moved, SiteInfo},
};

use super::{
    ArmedSite, PlanFailure, SiteChoice, TracepointId, Tracer,
    budget::{Level, Settled},
    host,
    passages::{PassageRates, Passages},
    planning,
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
    pub(super) fn leave_branches(&mut self) -> Vec<Event> {
        let at_ns = host::monotonic_ns();
        let cost = self.trap_cost.unwrap_or(TrapCost::ASSUMED);
        let mut due = Vec::new();
        for (&index, armed) in &mut self.armed {
            let Some(watch) = armed.branch_watch.as_mut().filter(|_| armed.until.is_none()) else { continue };
            // What can't be read now is read the next time.
            let Ok(Counters { hits, passed, .. }) = self.kernel.counters(index) else { continue };
            due.extend(watch.look(at_ns, Passages { hits, passed }, cost).map(|rates| (index, rates)));
        }
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
        let (image, level) = (known.index, armed.level);
        let (attach_path, scope) = (armed.attach_path.clone(), armed.scope);

        self.kernel.upload(&self.registry.take_upload())?;
        let handles = self.kernel.add_sites_to_move_to(index, image, &plans.iter().collect::<Vec<_>>())?;
        let points: Vec<_> = plans.iter().map(|plan| plan.file_offset).zip(handles.iter().copied()).collect();
        for (handle, plan) in handles.iter().zip(&plans) {
            self.sites.insert(handle.index, ArmedSite { generation: handle.generation, plan: plan.clone() });
        }
        let attachment = match self.kernel.attach(&attach_path, &points, scope) {
            Ok(attachment) => attachment,
            Err(error) => {
                self.kernel.remove_sites(&handles)?;
                return Err(error.into());
            }
        };

        let cost = self.trap_ns_of(index);
        let Some(armed) = self.armed.get_mut(&index) else { return Err(unknown().into()) };
        let former = armed.attachment.replace(attachment);
        armed.wanted = wanted;
        // The former sites are kept: records of theirs are on their way.
        armed.handles = handles;
        armed.is_stepped = plans.iter().any(SitePlan::is_stepped);
        if level == Level::Arguments && !self.reduce(index)? {
            self.lower(TracepointId(index), Level::Count)?;
        }
        self.kernel.change(index, |tracepoint| tracepoint.flags |= TRACEPOINT_MOVED)?;
        let counters = self.kernel.counters(index)?;
        if let Some(armed) = self.armed.get_mut(&index) {
            let traps = counters.hits.saturating_add(counters.passed);
            armed.settled = Settled { traps, cost_ns: traps.saturating_mul(cost) };
        }
        if let Some(former) = former {
            self.kernel.detach(former)?;
        }
        Ok(plans.iter().filter(|plan| !plan.is_internal()).map(|plan| plan.info.clone()).collect())
    }
}
