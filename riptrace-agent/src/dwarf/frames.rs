//! Where a function's frame is: the CFA from `.debug_frame`, which Go writes, or `.eh_frame`, which C compilers write.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, LittleEndian, UnwindContext, UnwindSection,
};

use super::{Sections, unit::Slice};

/// DWARF's number for RSP (System V ABI, AMD64 supplement, figure 3.36).
const RSP: gimli::Register = gimli::Register(7);

fn debug_frame(sections: &Sections) -> DebugFrame<Slice<'_>> {
    let mut frame = DebugFrame::new(&sections.debug_frame, LittleEndian);
    frame.set_address_size(8);
    frame
}

fn eh_frame(sections: &Sections) -> (EhFrame<Slice<'_>>, BaseAddresses) {
    let mut frame = EhFrame::new(&sections.eh_frame, LittleEndian);
    frame.set_address_size(8);
    (frame, BaseAddresses::default().set_eh_frame(sections.eh_frame_address))
}

/// Start address and offset of every frame description of `.debug_frame`.
pub(crate) fn scan(sections: &Sections) -> Vec<(u64, u32)> {
    descriptions(&debug_frame(sections), &BaseAddresses::default())
}

/// The same of `.eh_frame`. Only C code needs it, so it is made when first asked for.
pub(crate) fn scan_eh(sections: &Sections) -> Vec<(u64, u32)> {
    let (frame, bases) = eh_frame(sections);
    let mut all = descriptions(&frame, &bases);
    all.sort_unstable();
    all
}

fn descriptions<'a, S: UnwindSection<Slice<'a>>>(section: &S, bases: &BaseAddresses) -> Vec<(u64, u32)>
where
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut out = Vec::new();
    let mut entries = section.entries(bases);
    let mut last_cie: Option<(S::Offset, gimli::CommonInformationEntry<Slice<'a>>)> = None;
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(|section, bases, offset| match &last_cie {
            Some((known, cie)) if *known == offset => Ok(cie.clone()),
            _ => {
                let cie = section.cie_from_offset(bases, offset)?;
                last_cie = Some((offset, cie.clone()));
                Ok(cie)
            }
        });
        if let Ok(fde) = fde
            && let Ok(offset) = u32::try_from(fde.offset())
        {
            out.push((fde.initial_address(), offset));
        }
    }
    out
}

/// CFA minus SP at the address, from the frame description at `offset` of `.debug_frame`.
pub(crate) fn cfa_from_sp(sections: &Sections, offset: usize, address: u64) -> Option<i32> {
    rule(&debug_frame(sections), &BaseAddresses::default(), offset.into(), address)
}

/// The same from `.eh_frame`.
pub(crate) fn cfa_from_sp_eh(sections: &Sections, table: &[(u64, u32)], address: u64) -> Option<i32> {
    let at = table.partition_point(|(start, _)| *start <= address).checked_sub(1)?;
    let (frame, bases) = eh_frame(sections);
    rule(&frame, &bases, (table.get(at)?.1 as usize).into(), address)
}

fn rule<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    offset: S::Offset,
    address: u64,
) -> Option<i32> {
    let fde = section.fde_from_offset(bases, offset, S::cie_from_offset).ok()?;
    if !fde.contains(address) {
        return None;
    }
    let mut context = UnwindContext::new();
    let row = fde.unwind_info_for_address(section, bases, &mut context, address).ok()?;
    match row.cfa() {
        CfaRule::RegisterAndOffset { register: RSP, offset } => i32::try_from(*offset).ok(),
        _ => None,
    }
}
