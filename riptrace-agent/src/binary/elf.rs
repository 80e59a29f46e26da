//! The parts of an ELF file that RipTrace needs, checked once against the file's size: segments, sections, symbols,
//! notes, dynamic relocations. Every access after that is a bounded slice; a damaged file gives errors or nothing.

use std::ops::Range;

use bytes::Bytes;
use object::{
    LittleEndian,
    elf::{self, FileHeader64, ProgramHeader64, SectionHeader64},
    read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader, Sym},
};

/// More program headers than any linker writes; a file with more is taken for damaged.
const MAX_SEGMENTS: usize = 1024;
/// As with [`MAX_SEGMENTS`], for sections (`-ffunction-sections` objects are not executables).
const MAX_SECTIONS: usize = 16384;
/// What is kept of a section's name: damaged names may all run to the end of one large table.
const MAX_NAME_BYTES: usize = 256;
/// Places that are searched for a note.
const MAX_NOTES: usize = 64;

const ENDIAN: LittleEndian = LittleEndian;

type Header = FileHeader64<LittleEndian>;

/// Why a file can't be read as an x86-64 ELF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It does not begin with the ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// It is for another machine.
    #[error("built for {machine}; RipTrace works with x86-64 programs only")]
    OtherMachine {
        /// The machine's name, as far as it is known.
        machine: String,
    },
    /// A header is nonsense or points outside of the file.
    #[error("damaged or truncated ELF file ({what})")]
    Damaged {
        /// Which part.
        what: String,
    },
}

/// A `PT_LOAD` program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Link-time address of its first byte.
    pub address: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file (no more than the file has).
    pub file_bytes: u64,
    /// `PF_W`.
    pub writable: bool,
    /// `PF_X`.
    pub executable: bool,
}

/// A section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Name; empty where the string table has none.
    pub name: String,
    /// Link-time address; 0: not loaded.
    pub address: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes, as the header claims.
    pub bytes: u64,
    /// `SHF_COMPRESSED`.
    pub compressed: bool,
    /// `SHT_NOBITS`: has no bytes in the file.
    pub no_bits: bool,
}

/// The `PT_TLS` program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Bytes of the thread-local block.
    pub memory_bytes: u64,
    /// Its alignment, at least 1.
    pub align: u64,
}

/// A symbol of `.symtab`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Link-time address; for a thread-local symbol its offset in the thread-local block.
    pub value: u64,
    /// Bytes.
    pub bytes: u64,
    /// `STT_TLS`.
    pub thread_local: bool,
}

/// An ELF file's headers.
#[derive(Debug)]
pub struct Elf {
    bytes: Bytes,
    /// `ET_DYN`: loaded at an address of the kernel's choice.
    pub position_independent: bool,
    /// Link-time address of the entry point.
    pub entry: u64,
    /// The `PT_LOAD` segments.
    pub segments: Vec<Segment>,
    /// The sections; none if the section headers were removed.
    pub sections: Vec<Section>,
    /// The thread-local block.
    pub tls: Option<Tls>,
    /// Addresses that the dynamic loader makes read-only only after it has written to them (`PT_GNU_RELRO`).
    relro: Option<Range<u64>>,
    /// `PT_NOTE` segments' file ranges and alignments.
    notes: Vec<(Range<u64>, u64)>,
    /// `PT_DYNAMIC`'s file range.
    dynamic: Option<Range<u64>>,
}

fn damaged(what: impl Into<String>) -> ElfError {
    ElfError::Damaged { what: what.into() }
}

impl Elf {
    /// Reads the headers.
    pub fn parse(bytes: &Bytes) -> Result<Self, ElfError> {
        let data: &[u8] = bytes;
        if !data.starts_with(&elf::ELFMAG) {
            return Err(ElfError::NotElf);
        }
        check_machine(data)?;
        let header = Header::parse(data).map_err(|_| damaged("file header"))?;
        let programs = header.program_headers(ENDIAN, data).map_err(|_| damaged("program headers"))?;
        if programs.len() > MAX_SEGMENTS {
            return Err(damaged(format!("{} program headers", programs.len())));
        }
        let mut this = Self {
            bytes: bytes.clone(),
            position_independent: header.e_type(ENDIAN) == elf::ET_DYN,
            entry: header.e_entry(ENDIAN),
            segments: Vec::new(),
            sections: sections(header, data)?,
            tls: None,
            relro: None,
            notes: Vec::new(),
            dynamic: None,
        };
        for program in programs {
            this.add_program_header(program, data.len() as u64)?;
        }
        Ok(this)
    }

    fn add_program_header(
        &mut self,
        program: &ProgramHeader64<LittleEndian>,
        file_bytes: u64,
    ) -> Result<(), ElfError> {
        let address = program.p_vaddr(ENDIAN);
        let (offset, bytes) = (program.p_offset(ENDIAN), program.p_filesz(ENDIAN));
        let memory_bytes = program.p_memsz(ENDIAN);
        let file_range = offset
            .checked_add(bytes)
            .filter(|end| *end <= file_bytes)
            .map(|end| offset..end)
            .ok_or_else(|| damaged("a segment lies outside of the file"));
        // Some linkers leave the size in memory of what is not loaded at zero; addresses count up to the larger one.
        let memory_end =
            address.checked_add(memory_bytes.max(bytes)).ok_or_else(|| damaged("a segment wraps around"));
        match program.p_type(ENDIAN) {
            elf::PT_LOAD => {
                let _: Range<u64> = file_range?;
                let _: u64 = memory_end?;
                let flags = program.p_flags(ENDIAN);
                self.segments.push(Segment {
                    address,
                    memory_bytes,
                    offset,
                    file_bytes: bytes,
                    writable: flags.contains(elf::PF_W),
                    executable: flags.contains(elf::PF_X),
                });
            }
            elf::PT_TLS => {
                self.tls = Some(Tls { memory_bytes, align: program.p_align(ENDIAN).max(1) });
            }
            elf::PT_GNU_RELRO => self.relro = Some(address..memory_end?),
            elf::PT_NOTE => self.notes.push((file_range?, program.p_align(ENDIAN))),
            elf::PT_DYNAMIC => self.dynamic = Some(file_range?),
            _ => {}
        }
        Ok(())
    }

    /// The whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A section's bytes as they are in the file; `None` if it has none there or claims more than the file has.
    pub fn section_bytes(&self, section: &Section) -> Option<Bytes> {
        if section.no_bits {
            return None;
        }
        self.slice(section.offset, section.bytes)
    }

    fn slice(&self, offset: u64, bytes: u64) -> Option<Bytes> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }

    /// File offset of a link-time address in an executable segment.
    pub fn file_offset(&self, link_address: u64) -> Option<u64> {
        let segment = self.segments.iter().filter(|segment| segment.executable);
        segment.filter_map(|segment| segment.offset_of(link_address, 1)).next()
    }

    /// Link-time address of a file offset in an executable segment.
    pub fn link_address(&self, file_offset: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.executable).find_map(|segment| {
            let within = file_offset.checked_sub(segment.offset)?;
            (within < segment.file_bytes).then(|| segment.address.checked_add(within))?
        })
    }

    /// The loaded bytes at a link-time address, as they are in the file.
    pub fn read(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        let offset =
            self.segments.iter().find_map(|segment| segment.offset_of(link_address, bytes as u64))?;
        let start = usize::try_from(offset).ok()?;
        self.bytes.get(start..start.checked_add(bytes)?)
    }

    /// All the loaded bytes from a link-time address to the end of its segment's part of the file.
    pub fn read_to_end(&self, link_address: u64) -> Option<Bytes> {
        self.segments.iter().find_map(|segment| {
            let offset = segment.offset_of(link_address, 1)?;
            self.slice(offset, segment.offset + segment.file_bytes - offset)
        })
    }

    /// As [`Self::read`], for bytes that nothing ever writes: the segment is not writable, and the dynamic loader does
    /// not relocate there.
    pub fn read_only(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        let mut holders =
            self.segments.iter().filter(|segment| segment.offset_of(link_address, bytes as u64).is_some());
        let segment = holders.next()?;
        let end = link_address.checked_add(bytes as u64)?;
        let relocated =
            self.relro.as_ref().is_some_and(|relro| relro.start < end && link_address < relro.end);
        if segment.writable || relocated || holders.next().is_some() {
            return None;
        }
        self.read(link_address, bytes)
    }

    /// Whether these bytes lie where the dynamic loader writes, and nothing else: it makes them read-only afterwards.
    pub fn is_relocated(&self, link_address: u64, bytes: usize) -> bool {
        let end = link_address.checked_add(bytes as u64);
        let within =
            |range: &Range<u64>| range.start <= link_address && end.is_some_and(|end| end <= range.end);
        // A section that the linker set apart even where it leaves out the segment that says so.
        let section = self
            .section(".data.rel.ro")
            .map(|section| section.address..section.address.saturating_add(section.bytes));
        self.relro.as_ref().is_some_and(within) || section.as_ref().is_some_and(within)
    }

    /// The descriptor of the first note with this owner and type.
    pub fn note(&self, owner: &[u8], kind: u32) -> Option<&[u8]> {
        let from_sections = self
            .sections
            .iter()
            .filter(|section| section.name.starts_with(".note"))
            .map(|section| (section.offset..section.offset.saturating_add(section.bytes), 4));
        let from_segments = self.notes.iter().cloned();
        from_segments.chain(from_sections).take(MAX_NOTES).find_map(|(range, align)| {
            let data =
                self.bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)?;
            let mut notes = NoteIterator::<Header>::new(ENDIAN, align, data).ok()?;
            while let Ok(Some(note)) = notes.next() {
                if note.name() == owner && note.n_type(ENDIAN).0 == kind {
                    return Some(note.desc());
                }
            }
            None
        })
    }

    /// Visits the defined symbols of `.symtab`, each with its name, until the visitor says `false`.
    pub fn for_each_symbol(&self, mut visit: impl FnMut(&[u8], Symbol) -> bool) {
        self.visit_symbols(|symbol, name| visit(name(), symbol));
    }

    /// As [`Self::for_each_symbol`], but a name is looked up only when the visitor asks for it: names are most of a
    /// symbol table's bytes.
    pub fn visit_symbols<'a>(&'a self, mut visit: impl FnMut(Symbol, &dyn Fn() -> &'a [u8]) -> bool) {
        let data: &'a [u8] = &self.bytes;
        let Ok(header) = Header::parse(data) else { return };
        let Ok(sections) = header.sections(ENDIAN, data) else { return };
        let Ok(symbols) = sections.symbols(ENDIAN, data, elf::SHT_SYMTAB) else { return };
        let strings = symbols.strings();
        for symbol in symbols.iter().filter(|symbol| !symbol.is_undefined(ENDIAN)) {
            let found = Symbol {
                value: symbol.st_value(ENDIAN),
                bytes: symbol.st_size(ENDIAN),
                thread_local: symbol.st_type() == elf::STT_TLS,
            };
            if !visit(found, &|| symbol.name(ENDIAN, strings).unwrap_or_default()) {
                return;
            }
        }
    }

    /// Visits the defined symbols of `.symtab` that are no functions and whose name begins with one of these, until the
    /// visitor says `false`. The ends of other names are not looked for: in a binary of a hundred thousand symbols that
    /// is most of the work.
    pub fn for_each_data_symbol_with(
        &self,
        prefixes: &[&[u8]],
        mut visit: impl FnMut(&[u8], Symbol) -> bool,
    ) {
        let data: &[u8] = &self.bytes;
        let Ok(header) = Header::parse(data) else { return };
        let Ok(sections) = header.sections(ENDIAN, data) else { return };
        let Ok(symbols) = sections.symbols(ENDIAN, data, elf::SHT_SYMTAB) else { return };
        let Ok(strings) = sections.section(symbols.string_section()) else { return };
        let Ok(strings) = strings.data(ENDIAN, data) else { return };
        for symbol in symbols.iter() {
            if symbol.st_type() == elf::STT_FUNC || symbol.is_undefined(ENDIAN) {
                continue;
            }
            let rest = usize::try_from(symbol.st_name(ENDIAN)).ok().and_then(|start| strings.get(start..));
            let Some(rest) = rest.filter(|rest| prefixes.iter().any(|prefix| rest.starts_with(prefix)))
            else {
                continue;
            };
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { continue };
            let (name, _) = rest.split_at(end);
            let found = Symbol {
                value: symbol.st_value(ENDIAN),
                bytes: symbol.st_size(ENDIAN),
                thread_local: symbol.st_type() == elf::STT_TLS,
            };
            if !visit(name, found) {
                return;
            }
        }
    }

    /// Whether there is a symbol table.
    pub fn has_symbols(&self) -> bool {
        self.section(".symtab").is_some_and(|section| section.bytes > 0)
    }

    /// Visits the `R_X86_64_RELATIVE` relocations: (link-time address that is written, link-time address that it will
    /// hold). A position-independent file has those where a fixed one has the addresses themselves.
    pub fn for_each_relative_relocation(&self, mut visit: impl FnMut(u64, u64)) {
        let Some((table, bytes)) = self.relocation_table() else { return };
        let Some(table) = self.read(table, bytes) else { return };
        // Elf64_Rela: offset, info (symbol and type), addend.
        for entry in table.as_chunks::<24>().0 {
            let [offset, info, addend] = entry.as_chunks().0 else { continue };
            if u64::from_le_bytes(*info) & 0xffff_ffff == u64::from(elf::R_X86_64_RELATIVE.0) {
                visit(u64::from_le_bytes(*offset), u64::from_le_bytes(*addend));
            }
        }
    }

    /// `DT_RELA` and `DT_RELASZ`.
    fn relocation_table(&self) -> Option<(u64, usize)> {
        let range = self.dynamic.clone()?;
        let entries = self.slice(range.start, range.end - range.start)?;
        let (mut table, mut bytes) = (None, None);
        for entry in entries.as_chunks::<16>().0 {
            let [tag, value] = entry.as_chunks().0 else { continue };
            let value = u64::from_le_bytes(*value);
            match elf::DynamicTag(i64::from_le_bytes(*tag)) {
                elf::DT_NULL => break,
                elf::DT_RELA => table = Some(value),
                elf::DT_RELASZ => bytes = usize::try_from(value).ok(),
                _ => {}
            }
        }
        Some((table?, bytes?))
    }
}

impl Segment {
    fn offset_of(&self, link_address: u64, bytes: u64) -> Option<u64> {
        let within = link_address.checked_sub(self.address)?;
        let end = within.checked_add(bytes)?;
        (end <= self.file_bytes).then(|| self.offset.checked_add(within))?
    }
}

fn check_machine(data: &[u8]) -> Result<(), ElfError> {
    let class = data.get(4).copied().unwrap_or_default();
    let order = data.get(5).copied().unwrap_or_default();
    let machine: [u8; 2] =
        data.get(18..20).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| damaged("file header"))?;
    let machine =
        if order == elf::ELFDATA2MSB.0 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    if machine == elf::EM_X86_64.0 && class == elf::ELFCLASS64.0 && order == elf::ELFDATA2LSB.0 {
        return Ok(());
    }
    let machine = match elf::Machine(machine) {
        elf::EM_X86_64 => "x86-64 with 32-bit pointers".to_owned(),
        elf::EM_386 => "32-bit x86".to_owned(),
        elf::EM_AARCH64 => "arm64".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_PPC64 => "ppc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_MIPS => "mips".to_owned(),
        elf::EM_LOONGARCH => "loong64".to_owned(),
        other => format!("machine {}", other.0),
    };
    Err(ElfError::OtherMachine { machine })
}

fn sections(header: &Header, data: &[u8]) -> Result<Vec<Section>, ElfError> {
    let headers: &[SectionHeader64<LittleEndian>] =
        header.section_headers(ENDIAN, data).map_err(|_| damaged("section headers"))?;
    if headers.is_empty() {
        return Ok(Vec::new());
    }
    if headers.len() > MAX_SECTIONS {
        return Err(damaged(format!("{} sections", headers.len())));
    }
    let names = header.section_strings(ENDIAN, data, headers).map_err(|_| damaged("section names"))?;
    Ok(headers
        .iter()
        .map(|section| Section {
            name: section
                .name(ENDIAN, names)
                .map(|name| String::from_utf8_lossy(name.get(..MAX_NAME_BYTES).unwrap_or(name)).into_owned())
                .unwrap_or_default(),
            address: section.sh_addr(ENDIAN),
            offset: section.sh_offset(ENDIAN),
            bytes: section.sh_size(ENDIAN),
            compressed: section.sh_flags(ENDIAN).contains(elf::SHF_COMPRESSED),
            no_bits: section.sh_type(ENDIAN) == elf::SHT_NOBITS,
        })
        .collect())
}
