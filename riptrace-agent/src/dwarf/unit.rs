//! Opening units and entries of `.debug_info`. Everything here borrows from the sections; only abbreviations are kept.

use std::{cell::RefCell, ops::Range, sync::Arc};

use gimli::{
    Abbreviations, AttributeValue, DebugInfoOffset, DwAt, EndianSlice, EntriesRaw, LittleEndian, UnitHeader,
    UnitOffset,
};

use super::{DwarfError, Sections};
use crate::bounded_cache::BoundedCache;

/// Bytes of a section.
pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;
/// An opened unit.
pub(crate) type Unit<'a> = gimli::Unit<Slice<'a>>;
/// An attribute's value.
pub(crate) type Value<'a> = AttributeValue<Slice<'a>>;

/// `DW_AT_go_*` (cmd/internal/dwarf/dwarf.go).
pub(crate) mod go {
    use gimli::DwAt;

    pub(crate) const KIND: DwAt = DwAt(0x2900);
    pub(crate) const KEY: DwAt = DwAt(0x2901);
    pub(crate) const ELEM: DwAt = DwAt(0x2902);
    pub(crate) const EMBEDDED_FIELD: DwAt = DwAt(0x2903);
    pub(crate) const RUNTIME_TYPE: DwAt = DwAt(0x2904);
    pub(crate) const DICT_INDEX: DwAt = DwAt(0x2906);
    pub(crate) const CLOSURE_OFFSET: DwAt = DwAt(0x2907);
}

/// How deeply entries may be nested, and how long a chain of references may be, before it is taken for damage.
pub(crate) const MAX_DEPTH: usize = 200;

/// C units have an abbreviation table each.
const MAX_CACHED_TABLES: usize = 256;

/// The parsed abbreviation tables, by offset. Go's linker writes one for the whole program; each C file has its own.
pub(crate) type AbbreviationCache = BoundedCache<usize, Arc<Abbreviations>, MAX_CACHED_TABLES>;

/// The sections as gimli sees them, for the time of one request.
pub(crate) struct View<'a> {
    pub(crate) dwarf: gimli::Dwarf<Slice<'a>>,
    abbreviations: &'a AbbreviationCache,
    /// The unit that was opened last: what is asked for next is mostly in the same one (Go has all types in one).
    opened: RefCell<Option<(u64, Arc<Unit<'a>>)>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(sections: &'a Sections, abbreviations: &'a AbbreviationCache) -> Self {
        let slice = |bytes: &'a bytes::Bytes| Slice::new(bytes, LittleEndian);
        let dwarf = gimli::Dwarf {
            debug_abbrev: slice(&sections.debug_abbrev).into(),
            debug_addr: slice(&sections.debug_addr).into(),
            debug_info: slice(&sections.debug_info).into(),
            debug_line: slice(&sections.debug_line).into(),
            debug_line_str: slice(&sections.debug_line_str).into(),
            debug_str: slice(&sections.debug_str).into(),
            debug_str_offsets: slice(&sections.debug_str_offsets).into(),
            locations: gimli::LocationLists::new(
                slice(&sections.debug_loc).into(),
                slice(&sections.debug_loclists).into(),
            ),
            ranges: gimli::RangeLists::new(
                slice(&sections.debug_ranges).into(),
                slice(&sections.debug_rnglists).into(),
            ),
            ..gimli::Dwarf::default()
        };
        Self { dwarf, abbreviations, opened: RefCell::default() }
    }

    /// The unit whose header lies at the offset.
    pub(crate) fn unit(&self, header_offset: u64) -> Result<Arc<Unit<'a>>, DwarfError> {
        if let Some((offset, unit)) = &*self.opened.borrow()
            && *offset == header_offset
        {
            return Ok(Arc::clone(unit));
        }
        let broken = DwarfError::broken("unit header");
        let offset = usize::try_from(header_offset)
            .map_err(|_| DwarfError::BadOffset { what: "unit header", offset: header_offset })?;
        let header = self.dwarf.debug_info.header_from_offset(DebugInfoOffset(offset)).map_err(&broken)?;
        let abbreviations = self
            .abbreviations
            .get_or_try_insert(&header.debug_abbrev_offset().0, || {
                Ok(Arc::new(header.abbreviations(&self.dwarf.debug_abbrev)?))
            })
            .map_err(&broken)?;
        let unit = Arc::new(self.open(header, abbreviations).map_err(broken)?);
        self.opened.replace(Some((header_offset, Arc::clone(&unit))));
        Ok(unit)
    }

    /// As `gimli::Unit::new`, but it leaves the line program alone, whose header names every file of the unit.
    fn open(
        &self,
        header: UnitHeader<Slice<'a>>,
        abbreviations: Arc<Abbreviations>,
    ) -> Result<Unit<'a>, gimli::Error> {
        let encoding = header.encoding();
        let mut unit = Unit {
            header,
            abbreviations,
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: gimli::DebugStrOffsetsBase::default_for_encoding_and_file(
                encoding,
                gimli::DwarfFileType::Main,
            ),
            addr_base: gimli::DebugAddrBase(0),
            loclists_base: gimli::DebugLocListsBase::default_for_encoding_and_file(
                encoding,
                gimli::DwarfFileType::Main,
            ),
            rnglists_base: gimli::DebugRngListsBase::default_for_encoding_and_file(
                encoding,
                gimli::DwarfFileType::Main,
            ),
            line_program: None,
            dwo_id: None,
        };
        let root = unit.header.entry(&unit.abbreviations, unit.header.root_offset())?;
        let mut low_pc = None;
        for attribute in root.attrs() {
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_low_pc, value) => low_pc = Some(value),
                (gimli::DW_AT_comp_dir, value) => unit.comp_dir = self.dwarf.attr_string(&unit, value).ok(),
                (_, AttributeValue::DebugStrOffsetsBase(base)) => unit.str_offsets_base = base,
                (_, AttributeValue::DebugAddrBase(base)) => unit.addr_base = base,
                (_, AttributeValue::DebugLocListsBase(base)) => unit.loclists_base = base,
                (_, AttributeValue::DebugRngListsBase(base)) => unit.rnglists_base = base,
                _ => {}
            }
        }
        if let Some(value) = low_pc
            && let Some(address) = self.dwarf.attr_address(&unit, value)?
        {
            unit.low_pc = address;
        }
        Ok(unit)
    }

    /// A string attribute as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self, unit: &Unit<'a>, value: Value<'a>) -> Option<std::borrow::Cow<'a, str>> {
        self.dwarf.attr_string(unit, value).ok().map(|bytes| String::from_utf8_lossy(bytes.slice()))
    }

    /// Addresses from `DW_AT_low_pc`, `DW_AT_high_pc` and `DW_AT_ranges`, ascending, without empty ones. `budget`: how
    /// many ranges the entries that it is for may still have. All may name the same long list, which would be read and
    /// kept once for each.
    pub(crate) fn ranges(
        &self,
        unit: &Unit<'a>,
        attributes: &PcAttributes<'a>,
        budget: &mut usize,
    ) -> Vec<Range<u64>> {
        let mut out: Vec<Range<u64>> = Vec::new();
        if let Some(value) = attributes.ranges
            && let Ok(Some(mut ranges)) = self.dwarf.attr_ranges(unit, value)
        {
            while let Some(left) = budget.checked_sub(1)
                && let Ok(Some(range)) = ranges.next()
            {
                *budget = left;
                if range.begin < range.end {
                    out.push(range.begin..range.end);
                }
            }
        } else if let Some(low) = attributes.low
            && let Ok(Some(low)) = self.dwarf.attr_address(unit, low)
        {
            let high = match attributes.high {
                Some(AttributeValue::Addr(high)) => Some(high),
                Some(AttributeValue::DebugAddrIndex(index)) => self.dwarf.address(unit, index).ok(),
                Some(value) => value.udata_value().and_then(|bytes| low.checked_add(bytes)),
                None => None,
            };
            if let Some(high) = high.filter(|high| *high > low) {
                out.push(low..high);
            }
        }
        out.sort_unstable_by_key(|range| range.start);
        out.dedup_by(|next, before| {
            let touches = next.start <= before.end;
            if touches {
                before.end = before.end.max(next.end);
            }
            touches
        });
        out
    }
}

/// The attributes that say which addresses an entry covers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PcAttributes<'a> {
    pub(crate) low: Option<Value<'a>>,
    pub(crate) high: Option<Value<'a>>,
    pub(crate) ranges: Option<Value<'a>>,
}

impl<'a> PcAttributes<'a> {
    /// Keeps the attribute if it is one of the three.
    pub(crate) fn take(&mut self, name: DwAt, value: Value<'a>) {
        match name {
            gimli::DW_AT_low_pc => self.low = Some(value),
            gimli::DW_AT_high_pc => self.high = Some(value),
            gimli::DW_AT_ranges => self.ranges = Some(value),
            _ => {}
        }
    }

    pub(crate) fn is_some(&self) -> bool {
        self.low.is_some() || self.ranges.is_some()
    }
}

/// The section offset that a reference attribute leads to.
pub(crate) fn reference(unit: &Unit<'_>, value: &Value<'_>) -> Option<u64> {
    match value {
        AttributeValue::DebugInfoRef(offset) => Some(offset.0 as u64),
        AttributeValue::UnitRef(offset) => {
            offset.to_debug_info_offset(&unit.header).map(|offset| offset.0 as u64)
        }
        _ => None,
    }
}

/// The section offset of an entry of the unit.
pub(crate) fn section_offset(unit: &Unit<'_>, offset: UnitOffset) -> u64 {
    unit.header.debug_info_offset().map_or(0, |header| header.0 as u64) + offset.0 as u64
}

/// The entry's offset from the start of its unit.
pub(crate) fn unit_offset(unit: &Unit<'_>, die: u64) -> Option<UnitOffset> {
    let header = unit.header.debug_info_offset()?.0 as u64;
    let offset = UnitOffset(usize::try_from(die.checked_sub(header)?).ok()?);
    (offset.0 >= unit.header.root_offset().0).then_some(offset)
}

/// Entries from `die` on.
pub(crate) fn entries_at<'u, 'a>(
    unit: &'u Unit<'a>,
    die: u64,
    what: &'static str,
) -> Result<EntriesRaw<'u, Slice<'a>>, DwarfError> {
    let offset = unit_offset(unit, die).ok_or(DwarfError::BadOffset { what, offset: die })?;
    unit.entries_raw(Some(offset)).map_err(DwarfError::broken(what))
}
