//! The addresses that are armed for a site, and what is read at each.

use super::{Image, PlanFailure};
use crate::{
    dwarf::{VariableLocation, VisibleVariable},
    golang::types::TypeSource,
    plan::{
        CaptureLimits,
        captures::SiteContext,
        fast::{Choice, Way},
        sites::Site,
    },
};

/// An address that is armed for a site, and what is read there.
pub(super) struct ArmedAddress {
    pub(super) site: Site,
    file_offset: u64,
    pub(super) fault_address: Option<u64>,
    pub(super) cfa_from_sp: Option<i32>,
    pub(super) variables: Vec<VisibleVariable>,
    /// Of these, those that may lead to a span; see [`SiteContext::contexts`].
    pub(super) contexts: Vec<VisibleVariable>,
    dictionary: Option<VariableLocation>,
}

impl ArmedAddress {
    /// What its plan is made of. `exact`: see [`SiteContext::exact`].
    pub(super) fn context<'a>(
        &'a self,
        image: u32,
        types: &'a dyn TypeSource,
        exact: bool,
        limits: CaptureLimits,
    ) -> SiteContext<'a> {
        SiteContext {
            image,
            types,
            exact,
            site: &self.site,
            file_offset: self.file_offset,
            cfa_from_sp: self.cfa_from_sp,
            dictionary: self.dictionary.as_ref(),
            limits,
            contexts: &self.contexts,
        }
    }
}

/// The addresses that are armed for a site: the chosen one, and where the runtime goes on behind the faults on the way; or
/// one on each of several ways in.
pub(super) fn armed(
    image: &Image,
    site: &Site,
    choice: Choice,
    cfa_from_sp: &dyn Fn(u64) -> Option<i32>,
) -> Result<Vec<ArmedAddress>, PlanFailure> {
    /// The faulting instruction's address lies on top of the frame, as if it had made a call.
    const RETURN_ADDRESS_BYTES: i32 = 8;
    let file_offset =
        |address| image.executable.file_offset(address).ok_or(PlanFailure::NotInFile { address });
    if !choice.ways.is_empty() {
        let at_way = |way: &Way| {
            let site = site.at_way(&choice, way);
            Ok(ArmedAddress {
                file_offset: file_offset(site.link_address)?,
                fault_address: None,
                cfa_from_sp: cfa_from_sp(site.link_address),
                variables: way.variables.clone(),
                contexts: Vec::new(),
                dictionary: way.dictionary.clone(),
                site,
            })
        };
        return choice.ways.iter().map(at_way).collect();
    }
    let site = site.moved(&choice);
    let mut armed = Vec::with_capacity(1 + choice.faults.len());
    for fault in choice.faults {
        let Some(behind) = image.behind_faults() else { continue };
        armed.push(ArmedAddress {
            site: Site { link_address: behind, fast: false, branch: None, ..site.clone() },
            file_offset: file_offset(behind)?,
            fault_address: Some(fault.link_address),
            cfa_from_sp: cfa_from_sp(fault.link_address)
                .and_then(|cfa| cfa.checked_add(RETURN_ADDRESS_BYTES)),
            variables: fault.variables,
            contexts: Vec::new(),
            dictionary: fault.dictionary,
        });
    }
    let chosen = ArmedAddress {
        file_offset: file_offset(site.link_address)?,
        fault_address: None,
        cfa_from_sp: cfa_from_sp(site.link_address),
        variables: choice.variables,
        contexts: Vec::new(),
        dictionary: choice.dictionary,
        site,
    };
    armed.insert(0, chosen);
    Ok(armed)
}
