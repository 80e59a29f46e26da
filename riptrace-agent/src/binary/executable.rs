//! One ELF executable, memory-mapped: what it is, how addresses map to its file, and what Go's linker left in it.
//!
//! Everything beyond the headers is looked up when it is first asked for. Addresses are link-time addresses.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use memmap2::Mmap;

use crate::{
    binary::{
        cache::CacheKey,
        elf::{Elf, ElfError, Symbol},
    },
    golang::{
        buildinfo::{self, BuildInfo},
        moduledata::{self, Itabs, Layout, ModuleData},
        pclntab::{self, Context, Pclntab, PclntabError},
        version::GoVersion,
    },
};

/// Where build info is searched when no section names it; the linker puts it near the start of the data segment.
const BUILD_INFO_SEARCH_BYTES: usize = 1 << 20;
/// An itab has five words before its methods; a list with more entries than this is taken for damaged.
const MAX_ITABS: u64 = 1 << 22;

const NT_GNU_BUILD_ID: u32 = 3;
const NT_GO_BUILD_ID: u32 = 4;

/// Why a program can't be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BinaryError {
    /// The file can't be opened.
    #[error("cannot open {}: {source}{}", path.display(), permission_hint(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// The file is not a program that RipTrace can work with.
    #[error("{}: {source}", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ElfError,
    },
    /// The program has no Go line table.
    #[error("{} has no Go line table: it is not a Go program, or one built by Go before 1.18", path.display())]
    NoLineTable {
        /// The file.
        path: PathBuf,
    },
    /// The program's Go line table can't be used.
    #[error("{}: {source}", path.display())]
    LineTable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PclntabError,
    },
}

pub(crate) fn permission_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; needs root, or CAP_SYS_PTRACE for other users' processes",
        _ => "",
    }
}

/// Names a file's contents as long as nothing rewrites it in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_ns: i128,
}

impl FileIdentity {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// An itab that the symbol table names: the link between a concrete type and an interface that it implements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Itab {
    /// Full name of the concrete type, as the linker writes it.
    pub concrete: String,
    /// Full name of the interface.
    pub interface: String,
    /// Where it lies.
    pub link_address: u64,
}

/// An ELF executable. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Executable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    identity: FileIdentity,
    elf: Elf,
    build_id: Option<String>,
    build_info: Option<BuildInfo>,
    line_table: OnceLock<Result<LineTable, BinaryError>>,
    pclntab: OnceLock<Result<Pclntab, BinaryError>>,
    module_data: OnceLock<Option<ModuleData>>,
    debug_key: OnceLock<CacheKey>,
}

/// Where the line table lies.
#[derive(Clone, Debug)]
struct LineTable {
    address: u64,
    bytes: Bytes,
}

impl Executable {
    /// Opens a program: a path, or `/proc/PID/exe`, `/proc/PID/map_files/…`, `/proc/PID/root/…`.
    pub fn open(path: &Path) -> Result<Self, BinaryError> {
        let open_error = |source| BinaryError::Open { path: path.to_owned(), source: Arc::new(source) };
        let file = File::open(path).map_err(open_error)?;
        Self::from_file(&file, path)
    }

    /// As [`Self::open`], for a file that is open already.
    pub fn from_file(file: &File, path: &Path) -> Result<Self, BinaryError> {
        let open_error = |source| BinaryError::Open { path: path.to_owned(), source: Arc::new(source) };
        let metadata = file.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            return Err(open_error(io::Error::other("not a regular file")));
        }
        if metadata.len() == 0 {
            return Err(BinaryError::Elf { path: path.to_owned(), source: ElfError::NotElf });
        }
        let bytes = Bytes::from_owner(map_file(file).map_err(open_error)?);
        Self::with_identity(&bytes, path, FileIdentity::of(&metadata))
    }

    /// As [`Self::open`], for a program that is in memory; `path` is what messages call it.
    pub fn from_bytes(bytes: &Bytes, path: &Path) -> Result<Self, BinaryError> {
        let identity = FileIdentity { device: 0, inode: 0, bytes: bytes.len() as u64, modified_ns: 0 };
        Self::with_identity(bytes, path, identity)
    }

    fn with_identity(bytes: &Bytes, path: &Path, identity: FileIdentity) -> Result<Self, BinaryError> {
        let elf = Elf::parse(bytes).map_err(|source| BinaryError::Elf { path: path.to_owned(), source })?;
        let inner = Inner {
            path: path.to_owned(),
            identity,
            build_id: build_id(&elf),
            build_info: build_info(&elf),
            elf,
            line_table: OnceLock::new(),
            pclntab: OnceLock::new(),
            module_data: OnceLock::new(),
            debug_key: OnceLock::new(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Tells whether two paths led to the same file.
    pub fn identity(&self) -> FileIdentity {
        self.0.identity
    }

    /// The ELF headers.
    pub fn elf(&self) -> &Elf {
        &self.0.elf
    }

    /// The GNU build id in hex, else Go's build id.
    pub fn build_id(&self) -> Option<&str> {
        self.0.build_id.as_deref()
    }

    /// How it was built.
    pub fn build_info(&self) -> Option<&BuildInfo> {
        self.0.build_info.as_ref()
    }

    /// The release of Go that built it.
    pub fn go_version(&self) -> Option<GoVersion> {
        self.build_info().and_then(BuildInfo::version)
    }

    /// Whether Go built it.
    pub fn is_go(&self) -> bool {
        self.build_info().is_some()
            || LINE_TABLE_SECTIONS.iter().any(|name| self.elf().section(name).is_some())
    }

    /// Whether it is loaded at an address of the kernel's choice.
    pub fn is_pie(&self) -> bool {
        self.elf().position_independent
    }

    /// File offset of an address, in executable segments only: where a uprobe goes.
    pub fn file_offset(&self, link_address: u64) -> Option<u64> {
        self.elf().file_offset(link_address)
    }

    /// Address of a file offset in an executable segment.
    pub fn link_address(&self, file_offset: u64) -> Option<u64> {
        self.elf().link_address(file_offset)
    }

    /// The bytes at an address, as they are in the file.
    pub fn read(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        self.elf().read(link_address, bytes)
    }

    /// The bytes at an address of a segment that nothing writes, not even the dynamic loader.
    pub fn read_only(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        self.elf().read_only(link_address, bytes)
    }

    /// The machine code: address of its first byte, and the bytes. Empty if there is none.
    pub fn text(&self) -> (u64, &[u8]) {
        let elf = self.elf();
        let from_section = elf.section(".text").map(|section| (section.address, section.bytes));
        let from_segment = || {
            elf.segments
                .iter()
                .find(|segment| segment.executable)
                .map(|segment| (segment.address, segment.file_bytes))
        };
        from_section
            .or_else(from_segment)
            .and_then(|(address, bytes)| Some((address, self.read(address, usize::try_from(bytes).ok()?)?)))
            .unwrap_or((0, &[]))
    }

    /// The runtime's line table; also of a stripped program.
    pub fn pclntab(&self) -> Result<&Pclntab, BinaryError> {
        self.0.pclntab.get_or_init(|| self.read_line_table()).as_ref().map_err(Clone::clone)
    }

    /// What the runtime knows about the program's layout; `None` if it can't be found.
    pub fn module_data(&self) -> Option<&ModuleData> {
        self.0.module_data.get_or_init(|| self.find_module_data()).as_ref()
    }

    /// `moduledata.types` and `etypes`: where every `abi.Type` that the linker wrote lies.
    pub fn runtime_types(&self) -> Option<(u64, u64)> {
        self.module_data().map(|module| (module.types.start, module.types.end))
    }

    /// Where `g` is, relative to a thread's FS base (negative).
    pub fn tls_g_offset(&self) -> Option<i64> {
        let Some(tls) = self.elf().tls else {
            // Without a thread-local segment the runtime sets FS itself and keeps g just below it
            // (cmd/link/internal/ld/sym.go, `computeTLSOffset`).
            return self.is_go().then_some(-8);
        };
        if tls.memory_bytes == 8 {
            return Some(-8);
        }
        match self.tls_g_symbol() {
            Some(value) => variant_2_offset(value, tls.memory_bytes, tls.align),
            None => self.tls_g_in_code(),
        }
    }

    /// The itabs that the symbol table names; none in a stripped program (see [`Self::itab_addresses`]).
    pub fn itabs(&self) -> Vec<Itab> {
        let mut found = Vec::new();
        self.elf().for_each_symbol(|name, symbol| {
            found.extend(itab(name, symbol));
            true
        });
        found
    }

    /// Where the program's itabs lie, by the runtime's own list.
    pub fn itab_addresses(&self) -> Vec<u64> {
        match self.module_data().map(|module| module.itabs) {
            Some(Itabs::Links { address, len }) if len <= MAX_ITABS => self.words(address, len),
            Some(Itabs::Run { address, bytes }) => self.itabs_side_by_side(address, bytes / 8),
            _ => Vec::new(),
        }
    }

    /// Walks itabs that lie side by side; each has three words and one for each method of its interface, at least one
    /// (internal/abi/iface.go, `ITab.Size`).
    fn itabs_side_by_side(&self, address: u64, words: u64) -> Vec<u64> {
        let words = self.words(address, words);
        let mut found = Vec::new();
        let mut index = 0;
        while let Some([interface, _, _, first_method]) =
            words.get(index..).and_then(|rest| rest.first_chunk())
        {
            found.push(address + index as u64 * 8);
            // `abi.InterfaceType`: `Type` (48 bytes), `PkgPath`, then the slice of methods.
            let methods =
                interface.checked_add(64).and_then(|length| self.read(length, 8)?.first_chunk().copied());
            let methods = methods.map(u64::from_le_bytes);
            let methods = methods.and_then(|methods| usize::try_from(methods).ok()).unwrap_or(1).max(1);
            index =
                index.saturating_add(if *first_method == 0 { 4 } else { 3_usize.saturating_add(methods) });
        }
        found
    }

    /// The address and size of a symbol.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        let mut found = None;
        self.elf().for_each_symbol(|candidate, symbol| {
            if candidate == name.as_bytes() {
                found = Some(symbol);
            }
            found.is_none()
        });
        found
    }

    pub(crate) fn debug_key(&self) -> &OnceLock<CacheKey> {
        &self.0.debug_key
    }

    /// The thread-local symbol `runtime.tlsg`: an offset in the thread-local block.
    fn tls_g_symbol(&self) -> Option<u64> {
        let mut found = None;
        self.elf().visit_symbols(|symbol, name| {
            if symbol.thread_local && name() == b"runtime.tlsg" {
                found = Some(symbol.value);
            }
            found.is_none()
        });
        found
    }

    /// What the instructions say with which `runtime.morestack` loads `g`, in one of the two forms that Go's assembler
    /// and linkers leave (cmd/internal/obj/x86/obj6.go, `load_g`): `mov %fs:OFFSET, reg`, or `mov $OFFSET, reg` and
    /// `mov %fs:(reg), reg`.
    fn tls_g_in_code(&self) -> Option<i64> {
        let entry = self.pclntab().ok()?.function_named("runtime.morestack")?.entry;
        let code = self.read(entry, 16)?;
        let offset = match *code {
            [0x64, 0x48, 0x8b, mod_rm, 0x25, a, b, c, d, ..] if mod_rm & 0xc7 == 0x04 => [a, b, c, d],
            [0x48, 0xc7, 0xc0..=0xc7, a, b, c, d, 0x64, 0x48, 0x8b, ..] => [a, b, c, d],
            _ => return None,
        };
        Some(i64::from(i32::from_le_bytes(offset))).filter(|offset| *offset < 0)
    }

    fn line_table(&self) -> Result<&LineTable, BinaryError> {
        let found = self.0.line_table.get_or_init(|| {
            let elf = self.elf();
            let by_section = LINE_TABLE_SECTIONS.iter().find_map(|name| elf.section(name));
            let by_section = by_section.and_then(|section| {
                Some(LineTable { address: section.address, bytes: elf.section_bytes(section)? })
            });
            by_section
                .or_else(|| self.search_line_table())
                .ok_or_else(|| BinaryError::NoLineTable { path: self.0.path.clone() })
        });
        found.as_ref().map_err(Clone::clone)
    }

    /// Finds the line table of a program whose section headers were removed.
    fn search_line_table(&self) -> Option<LineTable> {
        let elf = self.elf();
        elf.segments.iter().filter(|segment| !segment.executable).find_map(|segment| {
            let bytes = elf.read_to_end(segment.address)?;
            let offset = bytes
                .chunks(pclntab::ALIGNMENT)
                .enumerate()
                .filter(|(_, chunk)| Pclntab::looks_like(chunk))
                .map(|(index, _)| index * pclntab::ALIGNMENT)
                .find(|offset| Pclntab::parse(bytes.slice(offset..), Context::default()).is_ok())?;
            Some(LineTable { address: segment.address + offset as u64, bytes: bytes.slice(offset..) })
        })
    }

    fn read_line_table(&self) -> Result<Pclntab, BinaryError> {
        let table = self.line_table()?;
        let module = self.module_data();
        let text_start = self.text_start(&table.bytes).unwrap_or_default();
        let gofunc = module.and_then(|module| self.elf().read_to_end(module.gofunc));
        let context = Context { text_start, gofunc, version: self.go_version() };
        Pclntab::parse(table.bytes.clone(), context)
            .map_err(|source| BinaryError::LineTable { path: self.0.path.clone(), source })
    }

    /// `runtime.text`: by moduledata, by symbol, by the table's header (Go ≤ 1.25, not PIE), by section.
    fn text_start(&self, table: &[u8]) -> Option<u64> {
        let executable = |address: &u64| self.file_offset(*address).is_some();
        self.module_data()
            .map(|module| module.text.start)
            .or_else(|| self.symbol("runtime.text").map(|symbol| symbol.value))
            .filter(executable)
            .or_else(|| Pclntab::header_text_start(table).filter(executable))
            .or_else(|| self.elf().section(".text").map(|section| section.address))
    }

    fn find_module_data(&self) -> Option<ModuleData> {
        let table = self.line_table().ok()?;
        let names = table.address.checked_add(Pclntab::header_names_offset(&table.bytes)?)?;
        let is_module = |address: u64| self.words(address, 2).as_slice() == [table.address, names];
        let address = self.first_pointer_to(table.address, is_module)?;
        let words = self.words(address, moduledata::BYTES / 8);
        let word = |offset: u64| words.get(usize::try_from(offset / 8).ok()?).copied();
        let layout = Layout::of(self.go_version());
        ModuleData::read(address, &layout, word).filter(|module| {
            self.file_offset(module.text.start).is_some() && self.read(module.types.start, 1).is_some()
        })
    }

    /// The words from an address on, as they are once the program is loaded at its link-time address; as many of them
    /// as the file has.
    fn words(&self, link_address: u64, count: u64) -> Vec<u64> {
        let Some(bytes) = self.elf().read_to_end(link_address) else { return Vec::new() };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut words: Vec<u64> =
            bytes.as_chunks().0.iter().take(count).map(|word| u64::from_le_bytes(*word)).collect();
        if self.is_pie() {
            self.elf().for_each_relative_relocation(|at, value| {
                let index = at.checked_sub(link_address).map(|offset| offset / 8);
                let index = index.and_then(|index| usize::try_from(index).ok());
                if let Some(word) = index.and_then(|index| words.get_mut(index)) {
                    *word = value;
                }
            });
        }
        words
    }

    /// Address of the first writable word that holds `target` once the program is loaded, of those that are `wanted`.
    fn first_pointer_to(&self, target: u64, wanted: impl Fn(u64) -> bool) -> Option<u64> {
        if self.is_pie() {
            let mut candidates = Vec::new();
            self.elf().for_each_relative_relocation(|at, value| {
                if value == target {
                    candidates.push(at);
                }
            });
            if let Some(found) = candidates.into_iter().find(|address| wanted(*address)) {
                return Some(found);
            }
        }
        let pattern = target.to_le_bytes();
        let elf = self.elf();
        // Go ≥ 1.26 has a section for it; else it is near the start of the data.
        let section = elf.section(".go.module").map(|section| section.address);
        let segments = elf.segments.iter().filter(|segment| segment.writable).map(|segment| segment.address);
        section.into_iter().chain(segments).find_map(|start| {
            let start = start.next_multiple_of(8);
            let bytes = elf.read_to_end(start)?;
            let words = bytes.as_chunks::<8>().0.iter().enumerate().filter(|(_, chunk)| **chunk == pattern);
            words.map(|(index, _)| start + index as u64 * 8).find(|address| wanted(*address))
        })
    }
}

/// Where Go's linker puts the line table, without and with `-buildmode=pie`.
const LINE_TABLE_SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];

/// Maps a file that is not written to in place: an executable that runs can't be (`ETXTBSY`), other files are replaced
/// rather than rewritten by the tools that make them.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only. A file that another process cuts short underneath raises SIGBUS;
    // there is no way to map a file that excludes it, and no tool reads debug data without this assumption.
    unsafe { Mmap::map(file) }
}

fn build_id(elf: &Elf) -> Option<String> {
    let gnu = elf.note(b"GNU", NT_GNU_BUILD_ID).filter(|id| !id.is_empty());
    gnu.map(hex).or_else(|| {
        let go = elf.note(b"Go", NT_GO_BUILD_ID)?;
        String::from_utf8(go.to_vec()).ok().filter(|id| !id.is_empty())
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn build_info(elf: &Elf) -> Option<BuildInfo> {
    if let Some(section) = elf.section(".go.buildinfo") {
        return BuildInfo::parse(&elf.section_bytes(section)?);
    }
    let segments = elf.segments.iter().filter(|segment| segment.writable);
    segments.filter_map(|segment| elf.read_to_end(segment.address)).find_map(|bytes| {
        let searched = bytes.get(..BUILD_INFO_SEARCH_BYTES.min(bytes.len()))?;
        let mut blocks = searched.chunks(buildinfo::ALIGNMENT);
        let at = blocks.position(|block| block.starts_with(buildinfo::MAGIC))?;
        BuildInfo::parse(bytes.get(at * buildinfo::ALIGNMENT..)?)
    })
}

/// x86-64 thread-local storage lies below the FS base, its end aligned to it (variant II of the TLS ABI).
fn variant_2_offset(value: u64, memory_bytes: u64, align: u64) -> Option<i64> {
    let block = memory_bytes.checked_next_multiple_of(align)?;
    i64::try_from(value).ok()?.checked_sub(i64::try_from(block).ok()?)
}

/// `go:itab.T,I` (`go.itab.T,I` before Go 1.20).
fn itab(name: &[u8], symbol: Symbol) -> Option<Itab> {
    let name = std::str::from_utf8(name).ok()?;
    let pair = name.strip_prefix("go:itab.").or_else(|| name.strip_prefix("go.itab."))?;
    let (concrete, interface) = split_at_comma(pair)?;
    Some(Itab { concrete: concrete.to_owned(), interface: interface.to_owned(), link_address: symbol.value })
}

/// Splits at the comma that is outside of brackets, braces and parentheses (type arguments have commas of their own).
fn split_at_comma(pair: &str) -> Option<(&str, &str)> {
    let mut depth = 0_i32;
    for (at, c) in pair.char_indices() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth -= 1,
            ',' if depth == 0 => return Some((pair.get(..at)?, pair.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}
