//! The sites of tracepoints: their entries in the kernel side's maps, from plans.

use riptrace_common::abi::{
    limits,
    program::{
        CALL_ENTRY, CALL_GOEXIT, CALL_NONE, CALL_RECOVERY, CALL_RETURN, NO_REDUCED_SITE, SITE_AFTER_MOVE,
        SITE_AT_BRANCH, SITE_BEHIND_FAULT, SITE_ENABLED, SITE_HAS_CFA, SITE_REDACTS, Site, Type,
    },
};

use super::{Kernel, ProbeError, SiteHandle, map, registry::SiteEntry, unknown};
use crate::plan::{CallRole, SitePlan, table::Tabled};

impl Kernel {
    /// Writes the sites of a tracepoint, in the order of `plans`. Their types must have been uploaded. They trap once
    /// they are attached.
    pub fn add_sites(
        &mut self,
        tracepoint: u32,
        image: u32,
        plans: &[&SitePlan],
    ) -> Result<Vec<SiteHandle>, ProbeError> {
        self.add_sites_with(tracepoint, image, plans, 0)
    }

    /// The same for sites whose hits count once the tracepoint says so (`TRACEPOINT_MOVED`), instead of those that it has.
    pub fn add_sites_to_move_to(
        &mut self,
        tracepoint: u32,
        image: u32,
        plans: &[&SitePlan],
    ) -> Result<Vec<SiteHandle>, ProbeError> {
        self.add_sites_with(tracepoint, image, plans, SITE_AFTER_MOVE)
    }

    fn add_sites_with(
        &mut self,
        tracepoint: u32,
        image: u32,
        plans: &[&SitePlan],
        flags: u32,
    ) -> Result<Vec<SiteHandle>, ProbeError> {
        if !self.tracepoint_entries.contains_key(&tracepoint) {
            return Err(unknown("tracepoint", tracepoint));
        }
        let mut handles = Vec::with_capacity(plans.len());
        let result = self
            .allocate_sites(tracepoint, plans, &mut handles)
            .and_then(|()| self.write_sites(tracepoint, image, plans, &handles, flags));
        if let Err(error) = result {
            for handle in handles {
                self.release_site(handle);
            }
            return Err(error);
        }
        if let Some(entry) = self.tracepoint_entries.get_mut(&tracepoint) {
            entry.sites.extend(&handles);
        }
        Ok(handles)
    }

    fn allocate_sites(
        &mut self,
        tracepoint: u32,
        plans: &[&SitePlan],
        handles: &mut Vec<SiteHandle>,
    ) -> Result<(), ProbeError> {
        for plan in plans {
            let (windows, slots) = plan_sizes(plan)?;
            let condition = self.registry.conditions.allocate(plan)?;
            let first_window = match self.registry.windows.allocate(windows) {
                Ok(first_window) => first_window,
                Err(error) => {
                    self.registry.conditions.release(condition);
                    return Err(error);
                }
            };
            let first_slot = match self.registry.root_slots.allocate(slots) {
                Ok(first_slot) => first_slot,
                Err(error) => {
                    self.registry.conditions.release(condition);
                    self.registry.windows.release(first_window, windows);
                    return Err(error);
                }
            };
            let index = match self.registry.sites.allocate() {
                Ok(index) => index,
                Err(error) => {
                    self.registry.conditions.release(condition);
                    self.registry.windows.release(first_window, windows);
                    self.registry.root_slots.release(first_slot, slots);
                    return Err(error);
                }
            };
            let entry = &mut self.registry.site_entries[index as usize];
            let generation = entry.generation.wrapping_add(1);
            *entry = SiteEntry {
                generation,
                tracepoint: Some(tracepoint),
                first_window,
                windows,
                first_slot,
                slots,
                condition,
                table: None,
                contexts: None,
            };
            handles.push(SiteHandle { index, generation });
        }
        Ok(())
    }

    fn write_sites(
        &mut self,
        tracepoint: u32,
        image: u32,
        plans: &[&SitePlan],
        handles: &[SiteHandle],
        flags: u32,
    ) -> Result<(), ProbeError> {
        let mut windows = (Vec::new(), Vec::new());
        let mut slots = (Vec::new(), Vec::new());
        let mut types = (Vec::new(), Vec::new());
        let mut tables = (Vec::new(), Vec::new());
        let mut contexts = (Vec::new(), Vec::new());
        let mut sites = (Vec::new(), Vec::new());
        let max_depth =
            self.tracepoint_entries.get(&tracepoint).map_or(0, |entry| entry.tracepoint.max_depth);
        for (plan, handle) in plans.iter().zip(handles) {
            let entry = self.registry.site_entries[handle.index as usize];
            windows.0.extend(entry.first_window..entry.first_window + entry.windows);
            windows.1.extend_from_slice(&plan.windows);
            if let Some(condition) = &plan.condition {
                let (ops, blocks) = entry.condition.placed(condition);
                map::write(&self.constants, "CONSTANTS", &blocks, &condition.blocks)?;
                map::write(&self.conditions, "CONDITIONS", &ops.0, &ops.1)?;
            }
            slots.0.extend(entry.first_slot..entry.first_slot + entry.slots);
            let mut tabled = Tabled::walked(&plan.root_slots);
            let mut table = None;
            if self.use_tables {
                let with_table = Tabled::new(&plan.root_slots, &self.uploaded, max_depth);
                // More sites than there are tables: the others are walked, which gives the same records.
                if with_table.ops != 0
                    && let Ok(index) = self.registry.tables.allocate()
                {
                    self.registry.site_entries[handle.index as usize].table = Some(index);
                    tables.0.push(index);
                    tables.1.push(with_table.table);
                    table = Some(index);
                    tabled = with_table;
                } else if with_table.ops == 0 {
                    tabled = with_table;
                }
            }
            slots.1.extend_from_slice(&tabled.root_slots);
            let root_type = limits::FIRST_ROOT_TYPE + handle.index;
            types.0.push(root_type);
            types.1.push(Type {
                bytes: plan.root_bytes,
                first_slot: entry.first_slot,
                slots: entry.slots,
                flags: 0,
            });
            sites.0.push(handle.index);
            let call = match plan.call {
                CallRole::None => CALL_NONE,
                CallRole::Entry => CALL_ENTRY,
                CallRole::Return | CallRole::TailJump => CALL_RETURN,
                CallRole::Recovery => CALL_RECOVERY,
                CallRole::Goexit => CALL_GOEXIT,
            };
            let mut contexts_plus_one = 0;
            if let Some(chains) = plan.contexts {
                match self.registry.contexts.allocate() {
                    Ok(index) => {
                        self.registry.site_entries[handle.index as usize].contexts = Some(index);
                        contexts.0.push(index);
                        contexts.1.push(chains);
                        contexts_plus_one = index + 1;
                    }
                    // The hits are as good without.
                    Err(error) => {
                        tracing::warn!(%error, "spans are not looked for at {:#x}", plan.link_address);
                    }
                }
            }
            sites.1.push(Site {
                link_address: plan.link_address,
                tracepoint,
                image,
                flags: flags
                    | SITE_ENABLED
                    | if plan.cfa_from_sp.is_some() { SITE_HAS_CFA } else { 0 }
                    | if plan.redacts { SITE_REDACTS } else { 0 }
                    | if plan.above_fault().is_some() { SITE_BEHIND_FAULT } else { 0 }
                    | if plan.branch.is_some() { SITE_AT_BRANCH } else { 0 },
                generation: handle.generation,
                first_window: entry.first_window,
                windows: entry.windows,
                root_type,
                root_bytes: plan.root_bytes,
                cfa_from_sp: plan.cfa_from_sp.unwrap_or(0),
                condition: entry.condition.site_word(),
                call,
                needs_entry: plan.needs_entry.into(),
                cleared_registers: plan.cleared_registers,
                contexts_plus_one,
                table_plus_one: table.map_or(0, |index| index + 1),
                table_ops: if table.is_some() { tabled.ops } else { 0 },
                first_walked_slot: tabled.first_walked_slot,
                above_fault: plan.above_fault().unwrap_or(0),
                branch_condition: plan.branch.map_or(0, |branch| branch.condition),
            });
        }
        map::write(&self.tables, "TABLES", &tables.0, &tables.1)?;
        map::write(&self.contexts, "CONTEXTS", &contexts.0, &contexts.1)?;
        map::write(&self.windows, "WINDOWS", &windows.0, &windows.1)?;
        map::write(&self.slots, "SLOTS", &slots.0, &slots.1)?;
        map::write(&self.types, "TYPES", &types.0, &types.1)?;
        map::write(&self.sites, "SITES", &sites.0, &sites.1)
    }

    /// Says which sites have the reduced plans of which (`TRACEPOINT_REDUCED`).
    pub fn set_reduced(&mut self, pairs: &[(SiteHandle, SiteHandle)]) -> Result<(), ProbeError> {
        let (keys, values): (Vec<u32>, Vec<u32>) =
            pairs.iter().map(|(whole, reduced)| (whole.index, reduced.index + 1)).unzip();
        map::write(&self.reduced, "REDUCED", &keys, &values)
    }

    /// Forgets sites. Detach them first: what still traps there is ignored, but costs.
    pub fn remove_sites(&mut self, handles: &[SiteHandle]) -> Result<(), ProbeError> {
        let owned: Vec<SiteHandle> = handles
            .iter()
            .copied()
            .filter(|handle| {
                self.registry
                    .site_entries
                    .get(handle.index as usize)
                    .is_some_and(|entry| entry.generation == handle.generation && entry.tracepoint.is_some())
            })
            .collect();
        let keys: Vec<u32> = owned.iter().map(|handle| handle.index).collect();
        map::write(&self.sites, "SITES", &keys, &vec![Site::default(); keys.len()])?;
        map::write(&self.reduced, "REDUCED", &keys, &vec![NO_REDUCED_SITE; keys.len()])?;
        for handle in owned {
            self.release_site(handle);
        }
        Ok(())
    }

    fn release_site(&mut self, handle: SiteHandle) {
        let entry = &mut self.registry.site_entries[handle.index as usize];
        let Some(tracepoint) = entry.tracepoint.take() else { return };
        self.registry.conditions.release(entry.condition);
        self.registry.windows.release(entry.first_window, entry.windows);
        self.registry.root_slots.release(entry.first_slot, entry.slots);
        if let Some(table) = entry.table.take() {
            self.registry.tables.release(table);
        }
        if let Some(contexts) = entry.contexts.take() {
            self.registry.contexts.release(contexts);
        }
        self.registry.sites.release(handle.index);
        if let Some(entry) = self.tracepoint_entries.get_mut(&tracepoint) {
            entry.sites.retain(|site| *site != handle);
        }
    }
}

/// The kernel side walks windows and root slots with these bounds; a plan beyond them would be cut silently.
fn plan_sizes(plan: &SitePlan) -> Result<(u32, u32), ProbeError> {
    let within = |what, found: u64, limit: u32| {
        if found <= u64::from(limit) {
            Ok(found as u32)
        } else {
            let link_address = plan.link_address;
            Err(ProbeError::PlanTooLarge { link_address, what, found, limit: limit.into() })
        }
    };
    within("bytes of stack and register data", plan.root_bytes.into(), limits::MAX_ROOT_BYTES)?;
    let windows = within("stack windows", plan.windows.len() as u64, limits::MAX_WINDOWS_PER_SITE)?;
    let slots = within("root slots", plan.root_slots.len() as u64, limits::MAX_SLOTS_PER_TYPE)?;
    Ok((windows, slots))
}
