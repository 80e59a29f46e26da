//! The index: where in the sections things are, so that nothing has to be searched twice.
//!
//! It is one run of bytes, made by `scan` and kept on disk by whoever keeps the sections: sorted tables of `u32`, read
//! in place. A damaged or foreign one is refused as a whole ([`Index::from_bytes`]); since even a matching checksum
//! proves no good will, every access is bounds-checked and every entry is checked against what it points at.

use std::ops::Range;

use bytes::Bytes;

use super::Sections;

/// Bytes at the start; the digit changes with the layout.
const MAGIC: [u8; 8] = *b"RTDWIX01";
/// Magic, checksum, base address, fingerprint.
const FIXED_BYTES: usize = 8 + 8 + 8 + 8;

/// The tables, in the order in which they are written. Each is an array of records of so many `u32`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Table {
    /// Per unit: see [`UnitRecord`].
    Units,
    /// Per source file, by name: offset and length of the name in `Text`, first entry in `FileUnits`, how many.
    Files,
    /// Indexes of units.
    FileUnits,
    /// Per run of function code, by address: start (from the base address), length, entry.
    Functions,
    /// Per named function, out-of-line or abstract, by hash of its name's last segment: hash, entry.
    Names,
    /// Per abstract function: its entry, an out-of-line function that is an instance of it or has it inlined.
    Origins,
    /// By `DW_AT_go_runtime_type`: that, and the type's entry.
    RuntimeTypes,
    /// By hash of the type's name: hash, entry.
    TypeNames,
    /// Package variables by hash of the package's path: hash, entry.
    Globals,
    /// Named constants by type: the type's entry, the constant's entry.
    Constants,
    /// Frame descriptions by address: start (from the base address), offset in `.debug_frame`.
    Frames,
    /// Names, UTF-8.
    Text,
}

const TABLES: usize = Table::Text as usize + 1;
const HEADER_BYTES: usize = FIXED_BYTES + TABLES * 8;
/// Record sizes in `u32`; `Text` is bytes.
const RECORD_WORDS: [usize; TABLES] = [8, 4, 1, 3, 2, 2, 2, 2, 2, 2, 2, 1];

/// A unit as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitRecord {
    /// Its bytes in `.debug_info`, header included.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Its line program; `u32::MAX`: none.
    pub(crate) line_program: u32,
    /// Name and producer: offset and length in the text.
    pub(crate) name: (u32, u32),
    pub(crate) producer: (u32, u32),
    /// Written in Go.
    pub(crate) is_go: bool,
}

/// What `scan` collects; entries are offsets in `.debug_info`.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) units: Vec<UnitRecord>,
    /// Name in `text`, units.
    pub(crate) files: Vec<((u32, u32), Vec<u32>)>,
    /// Start, end, entry.
    pub(crate) functions: Vec<(u64, u64, u32)>,
    pub(crate) names: Vec<(u32, u32)>,
    pub(crate) origins: Vec<(u32, u32)>,
    pub(crate) runtime_types: Vec<(u32, u32)>,
    pub(crate) type_names: Vec<(u32, u32)>,
    pub(crate) globals: Vec<(u32, u32)>,
    pub(crate) constants: Vec<(u32, u32)>,
    /// Start, offset.
    pub(crate) frames: Vec<(u64, u32)>,
    pub(crate) text: Vec<u8>,
}

/// The index, in place.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    bytes: Bytes,
    tables: [Range<usize>; TABLES],
    base_address: u64,
}

impl Index {
    /// Lays out what a scan found.
    pub(crate) fn new(mut contents: Contents, sections: &Sections) -> Self {
        let base_address = contents
            .functions
            .iter()
            .map(|function| function.0)
            .chain(contents.frames.iter().map(|frame| frame.0))
            .min()
            .unwrap_or(0);
        let mut out = vec![0_u8; HEADER_BYTES];
        let mut lengths = [0_u64; TABLES];
        let mut put = |table: Table, words: &mut dyn Iterator<Item = u32>| {
            let before = out.len();
            words.for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            lengths[table as usize] = (out.len() - before) as u64;
        };
        put(
            Table::Units,
            &mut contents.units.iter().flat_map(|unit| {
                [
                    unit.start,
                    unit.end,
                    unit.line_program,
                    unit.name.0,
                    unit.name.1,
                    unit.producer.0,
                    unit.producer.1,
                    u32::from(unit.is_go),
                ]
            }),
        );
        let mut first = 0;
        put(
            Table::Files,
            &mut contents.files.iter().flat_map(|(name, units)| {
                let count = u32::try_from(units.len()).unwrap_or(0);
                let record = [name.0, name.1, first, count];
                first += count;
                record
            }),
        );
        put(Table::FileUnits, &mut contents.files.iter().flat_map(|(_, units)| units.iter().copied()));
        // A function further than 4 GiB from the first one is left out; no linker places one there.
        let relative = |address: u64| u32::try_from(address - base_address).ok();
        contents.functions.sort_unstable();
        put(
            Table::Functions,
            &mut contents
                .functions
                .iter()
                .filter_map(|&(start, end, die)| {
                    Some([relative(start)?, u32::try_from(end.checked_sub(start)?).ok()?, die])
                })
                .flatten(),
        );
        for (table, pairs) in [
            (Table::Names, &mut contents.names),
            (Table::Origins, &mut contents.origins),
            (Table::RuntimeTypes, &mut contents.runtime_types),
            (Table::TypeNames, &mut contents.type_names),
            (Table::Globals, &mut contents.globals),
            (Table::Constants, &mut contents.constants),
        ] {
            pairs.sort_unstable();
            pairs.dedup();
            put(table, &mut pairs.iter().flat_map(|&(key, value)| [key, value]));
        }
        contents.frames.sort_unstable();
        put(
            Table::Frames,
            &mut contents
                .frames
                .iter()
                .filter_map(|&(start, offset)| Some([relative(start)?, offset]))
                .flatten(),
        );
        out.extend_from_slice(&contents.text);
        lengths[Table::Text as usize] = contents.text.len() as u64;

        out[..8].copy_from_slice(&MAGIC);
        out[16..24].copy_from_slice(&base_address.to_le_bytes());
        out[24..32].copy_from_slice(&fingerprint(sections).to_le_bytes());
        for (table, length) in lengths.iter().enumerate() {
            out[FIXED_BYTES + table * 8..][..8].copy_from_slice(&length.to_le_bytes());
        }
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        let tables = table_ranges(&out).unwrap_or_else(|| std::array::from_fn(|_| 0..0));
        Self { bytes: Bytes::from(out), tables, base_address }
    }

    /// An index that was kept; `None` if it is not one, is damaged, or belongs to other sections.
    pub(crate) fn from_bytes(bytes: Bytes, sections: &Sections) -> Option<Self> {
        let word =
            |at: usize| -> Option<u64> { Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
        if bytes.get(..8)? != MAGIC
            || word(24)? != fingerprint(sections)
            || word(8)? != checksum(bytes.get(16..)?)
        {
            return None;
        }
        let base_address = word(16)?;
        let tables = table_ranges(&bytes)?;
        Some(Self { bytes, tables, base_address })
    }

    /// What [`Self::from_bytes`] takes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn table(&self, table: Table) -> Records<'_> {
        let bytes = self.bytes.get(self.tables[table as usize].clone()).unwrap_or(&[]);
        Records { bytes, words: RECORD_WORDS[table as usize] }
    }

    pub(crate) fn text(&self, (offset, length): (u32, u32)) -> &str {
        let text = self.bytes.get(self.tables[Table::Text as usize].clone()).unwrap_or(&[]);
        (offset as usize)
            .checked_add(length as usize)
            .and_then(|end| text.get(offset as usize..end))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }

    pub(crate) fn unit_count(&self) -> usize {
        self.table(Table::Units).len()
    }

    pub(crate) fn unit(&self, index: u32) -> Option<UnitRecord> {
        let units = self.table(Table::Units);
        let index = index as usize;
        if index >= units.len() {
            return None;
        }
        let word = |at| units.word(index, at);
        Some(UnitRecord {
            start: word(0),
            end: word(1),
            line_program: word(2),
            name: (word(3), word(4)),
            producer: (word(5), word(6)),
            is_go: word(7) != 0,
        })
    }

    /// The unit in which an entry lies.
    pub(crate) fn unit_of(&self, die: u64) -> Option<(u32, UnitRecord)> {
        let die = u32::try_from(die).ok()?;
        let units = self.table(Table::Units);
        let index = units.partition_point(|word| word <= die).checked_sub(1)?;
        let index = u32::try_from(index).ok()?;
        let unit = self.unit(index)?;
        (die < unit.end).then_some((index, unit))
    }

    pub(crate) fn file_count(&self) -> usize {
        self.table(Table::Files).len()
    }

    pub(crate) fn file_name(&self, file: usize) -> &str {
        let files = self.table(Table::Files);
        self.text((files.word(file, 0), files.word(file, 1)))
    }

    /// The units whose line tables name the file.
    pub(crate) fn units_of_file(&self, name: &str) -> Vec<u32> {
        let files = self.table(Table::Files);
        let (mut low, mut high) = (0, files.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.file_name(middle) < name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low >= files.len() || self.file_name(low) != name {
            return Vec::new();
        }
        let units = self.table(Table::FileUnits);
        let first = files.word(low, 2) as usize;
        let end = first.saturating_add(files.word(low, 3) as usize).min(units.len());
        (first..end).map(|at| units.word(at, 0)).collect()
    }

    /// The entry of the function whose code covers the address.
    pub(crate) fn function_at(&self, address: u64) -> Option<u64> {
        let relative = u32::try_from(address.checked_sub(self.base_address)?).ok()?;
        let functions = self.table(Table::Functions);
        let at = functions.partition_point(|start| start <= relative).checked_sub(1)?;
        let inside = relative - functions.word(at, 0) < functions.word(at, 1);
        inside.then(|| u64::from(functions.word(at, 2)))
    }

    /// The entries of the functions with a run of code inside `start..end` of `.debug_info`, in address order.
    pub(crate) fn functions_in(&self, entries: Range<u32>) -> Vec<u64> {
        let functions = self.table(Table::Functions);
        let mut out: Vec<u64> = (0..functions.len())
            .map(|at| functions.word(at, 2))
            .filter(|die| entries.contains(die))
            .map(u64::from)
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// The offset in `.debug_frame` of the frame description for the address, if there is one that starts at or
    /// before it.
    pub(crate) fn frame_at(&self, address: u64) -> Option<usize> {
        let relative = u32::try_from(address.checked_sub(self.base_address)?).ok()?;
        let frames = self.table(Table::Frames);
        let at = frames.partition_point(|start| start <= relative).checked_sub(1)?;
        Some(frames.word(at, 1) as usize)
    }

    /// The second words of all records whose first word is `key`.
    pub(crate) fn lookup(&self, table: Table, key: u32) -> impl Iterator<Item = u64> {
        let records = self.table(table);
        let first = if records.words == 2 { records.partition_point(|word| word < key) } else { usize::MAX };
        (first..records.len())
            .take_while(move |&at| records.word(at, 0) == key)
            .map(move |at| u64::from(records.word(at, 1)))
    }

    /// How many records a table has.
    pub(crate) fn len(&self, table: Table) -> usize {
        self.table(table).len()
    }

    /// The two words of a record.
    pub(crate) fn pair(&self, table: Table, at: usize) -> (u32, u32) {
        let records = self.table(table);
        (records.word(at, 0), records.word(at, 1))
    }
}

/// A table: records of `words` little-endian `u32` each, sorted by the first.
#[derive(Clone, Copy)]
struct Records<'a> {
    bytes: &'a [u8],
    words: usize,
}

impl Records<'_> {
    fn len(&self) -> usize {
        self.bytes.len() / (self.words * 4)
    }

    /// Zero past the end.
    fn word(&self, record: usize, word: usize) -> u32 {
        let at = record.saturating_mul(self.words).saturating_add(word).saturating_mul(4);
        at.checked_add(4)
            .and_then(|end| self.bytes.get(at..end))
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    }

    fn partition_point(&self, mut below: impl FnMut(u32) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if below(self.word(middle, 0)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Where the tables lie; `None` if they don't fill the bytes exactly.
fn table_ranges(bytes: &[u8]) -> Option<[Range<usize>; TABLES]> {
    let mut ranges = std::array::from_fn(|_| 0..0);
    let mut at = HEADER_BYTES;
    for (table, range) in ranges.iter_mut().enumerate() {
        let field = bytes.get(FIXED_BYTES + table * 8..)?.get(..8)?;
        let length = usize::try_from(u64::from_le_bytes(field.try_into().ok()?)).ok()?;
        let end = at.checked_add(length)?;
        *range = at..end;
        at = end;
    }
    (at == bytes.len()).then_some(ranges)
}

/// Tells other sections from these, without reading all of them: lengths, and the ends of the largest.
fn fingerprint(sections: &Sections) -> u64 {
    let all = [
        &sections.debug_info,
        &sections.debug_abbrev,
        &sections.debug_line,
        &sections.debug_line_str,
        &sections.debug_str,
        &sections.debug_str_offsets,
        &sections.debug_addr,
        &sections.debug_loc,
        &sections.debug_loclists,
        &sections.debug_ranges,
        &sections.debug_rnglists,
        &sections.debug_frame,
        &sections.eh_frame,
    ];
    let mut hash = 0;
    for section in all {
        let sample = section.len().min(512);
        let ends = [
            checksum(&section[..sample]),
            checksum(&section[section.len() - sample..]),
            section.len() as u64,
        ];
        for word in ends {
            hash = mix(hash, word);
        }
    }
    hash
}

/// Four lanes, so that a check of a few megabytes takes well under a millisecond. Finds damage, not malice.
fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes = [1_u64, 2, 3, 4];
    let (words, rest) = bytes.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<4>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut sum = bytes.len() as u64;
    for &word in words {
        sum = mix(sum, u64::from_le_bytes(word));
    }
    for &byte in rest {
        sum = mix(sum, u64::from(byte));
    }
    lanes.iter().fold(sum, |sum, &lane| mix(sum, lane))
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Index {
        let contents = Contents {
            units: vec![
                UnitRecord {
                    start: 0,
                    end: 10,
                    line_program: 0,
                    name: (0, 2),
                    producer: (0, 0),
                    is_go: true,
                },
                UnitRecord {
                    start: 10,
                    end: 30,
                    line_program: 9,
                    name: (2, 2),
                    producer: (0, 0),
                    is_go: false,
                },
            ],
            files: vec![((0, 2), vec![0, 1]), ((2, 2), vec![1])],
            functions: vec![(0x2000, 0x2010, 12), (0x1000, 0x1010, 5)],
            names: vec![(7, 5), (7, 12), (3, 1)],
            frames: vec![(0x1000, 4)],
            text: b"aabb".to_vec(),
            ..Contents::default()
        };
        Index::new(contents, &Sections::default())
    }

    #[test]
    fn what_was_put_in_is_found_after_a_round_trip() {
        let index = Index::from_bytes(sample().bytes().clone(), &Sections::default()).unwrap();
        assert_eq!(index.unit_of(11).unwrap().0, 1);
        assert!(index.unit_of(30).is_none());
        assert_eq!(index.units_of_file("aa"), [0, 1]);
        assert_eq!(index.units_of_file("bb"), [1]);
        assert!(index.units_of_file("cc").is_empty());
        assert_eq!(index.function_at(0x100f), Some(5));
        assert_eq!(index.function_at(0x1010), None);
        assert_eq!(index.function_at(0x2000), Some(12));
        assert_eq!(index.lookup(Table::Names, 7).collect::<Vec<_>>(), [5, 12]);
        assert_eq!(index.lookup(Table::Names, 4).count(), 0);
        assert_eq!(index.frame_at(0x1234), Some(4));
    }

    #[test]
    fn an_index_of_other_sections_is_refused() {
        let other = Sections { debug_info: Bytes::from_static(b"x"), ..Sections::default() };
        assert!(Index::from_bytes(sample().bytes().clone(), &other).is_none());
    }

    proptest! {
        #[test]
        fn a_damaged_index_is_refused(at in 0_usize..1000, flip in 1_u8..) {
            let mut bytes = sample().bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(Index::from_bytes(Bytes::from(bytes), &Sections::default()).is_none());
        }

        #[test]
        fn any_bytes_behind_a_right_checksum_are_read_without_a_panic(
            body in prop::collection::vec(any::<u8>(), 0..400),
            lengths in prop::collection::vec(0_u64..64, TABLES),
        ) {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[24..32].copy_from_slice(&fingerprint(&Sections::default()).to_le_bytes());
            for (table, length) in lengths.iter().enumerate() {
                bytes[FIXED_BYTES + table * 8..][..8].copy_from_slice(&length.to_le_bytes());
            }
            bytes.extend(body.iter().copied().cycle().take(if body.is_empty() { 0 } else {
                usize::try_from(lengths.iter().sum::<u64>()).unwrap()
            }));
            let sum = checksum(&bytes[16..]);
            bytes[8..16].copy_from_slice(&sum.to_le_bytes());
            if let Some(index) = Index::from_bytes(Bytes::from(bytes), &Sections::default()) {
                for at in [0, 1, 0x1000, u64::MAX] {
                    let _ = (index.unit_of(at), index.function_at(at), index.frame_at(at));
                }
                for file in 0..index.file_count() {
                    let name = index.file_name(file).to_owned();
                    let _ = index.units_of_file(&name);
                }
                let _ = index.lookup(Table::Functions, 3).count();
                let _ = index.lookup(Table::Names, 3).count();
            }
        }
    }
}
