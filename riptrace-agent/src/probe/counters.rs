//! What the kernel side counted.

use aya::maps::PerCpuValues;
use riptrace_common::abi::{
    names::Name,
    program::{COST_BUCKETS, CallState, Costs, Counters, State},
};

use super::{Kernel, ProbeError, features, map, map_error, unknown};

/// How often captures took how long, over all CPUs, by `abi::program::cost_bucket`.
pub type CostHistogram = [u64; COST_BUCKETS];

impl Kernel {
    /// Begins to count from zero.
    pub(super) fn write_state(&mut self, index: u32) -> Result<(), ProbeError> {
        map::write(&self.states, "STATES", &[index], &[State::default()])?;
        map::write(&self.call_states, "CALL_STATES", &[index], &[CallState::default()])?;
        let cpus = features::possible_cpus().unwrap_or(1) as usize;
        let zeros = PerCpuValues::try_from(vec![Counters::default(); cpus])
            .map_err(|source| ProbeError::Map { operation: "clearing", map: "COUNTERS", source })?;
        self.counters.set(index, zeros, 0).map_err(|error| map_error("clearing", "COUNTERS", &error))?;
        let zeros = PerCpuValues::try_from(vec![Costs::default(); cpus])
            .map_err(|source| ProbeError::Map { operation: "clearing", map: "COSTS", source })?;
        self.costs.set(index, zeros, 0).map_err(|error| map_error("clearing", "COSTS", &error))
    }

    /// The tracepoint's counters, summed over the CPUs. Exact when no hit is running.
    pub fn counters(&self, index: u32) -> Result<Counters, ProbeError> {
        if !self.tracepoint_entries.contains_key(&index) {
            return Err(unknown("tracepoint", index));
        }
        let per_cpu =
            self.counters.get(&index, 0).map_err(|error| map_error("reading", "COUNTERS", &error))?;
        Ok(sum(&per_cpu))
    }

    /// Names a tracepoint, for whoever reads the counters if this process is killed. Without effect if they are not pinned.
    pub fn name_tracepoint(&mut self, index: u32, id: &str) -> Result<(), ProbeError> {
        self.write_name(index, Name::new(id))
    }

    pub(super) fn write_name(&mut self, index: u32, name: Name) -> Result<(), ProbeError> {
        if self.pinned.is_none() {
            return Ok(());
        }
        map::write(&self.names, "NAMES", &[index], &[name])
    }

    /// How often a capture of the tracepoint took how long.
    pub fn costs(&self, index: u32) -> Result<CostHistogram, ProbeError> {
        let per_cpu = self.costs.get(&index, 0).map_err(|error| map_error("reading", "COSTS", &error))?;
        let mut sum = CostHistogram::default();
        for one in per_cpu.iter() {
            for (sum, hits) in sum.iter_mut().zip(one.hits) {
                *sum += u64::from(hits);
            }
        }
        Ok(sum)
    }

    /// What became of the calls that began at the tracepoint.
    pub fn call_state(&self, index: u32) -> Result<CallState, ProbeError> {
        self.call_states.get(&index, 0).map_err(|error| map_error("reading", "CALL_STATES", &error))
    }

    /// What the kernel side keeps of the tracepoint across hits.
    pub fn state(&self, index: u32) -> Result<State, ProbeError> {
        self.states.get(&index, 0).map_err(|error| map_error("reading", "STATES", &error))
    }
}

/// Over all CPUs.
pub(super) fn sum(per_cpu: &PerCpuValues<Counters>) -> Counters {
    per_cpu.iter().fold(Counters::default(), |sum, one| Counters {
        hits: sum.hits + one.hits,
        emitted: sum.emitted + one.emitted,
        filtered: sum.filtered + one.filtered,
        throttled: sum.throttled + one.throttled,
        dropped: sum.dropped + one.dropped,
        failed: sum.failed + one.failed,
        run_ns: sum.run_ns + one.run_ns,
        would_capture: sum.would_capture + one.would_capture,
        passed: sum.passed + one.passed,
    })
}
