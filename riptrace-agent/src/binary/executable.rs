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
        moduledata::ModuleData,
        pclntab::{self, Context, Pclntab, PclntabError},
        version::GoVersion,
    },
};

/// Where build info is searched when no section names it; the linker puts it near the start of the data segment.
const BUILD_INFO_SEARCH_BYTES: usize = 1 << 20;

/// Places that look like the start of a line table and are checked from there on.
const MAX_LINE_TABLES: usize = 16;

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
pub(super) struct LineTable {
    pub(super) address: u64,
    pub(super) bytes: Bytes,
}

impl Executable {
    /// Opens a program: a path, or `/proc/PID/exe`, `/proc/PID/map_files/…`, `/proc/PID/root/…`.
    pub fn open(path: &Path) -> Result<Self, BinaryError> {
        let open_error = |source| BinaryError::Open { path: path.to_owned(), source: Arc::new(source) };
        let file = File::open(path).map_err(open_error)?;
        Self::from_file(&file, path)
    }

    /// As [`Self::open`], but [`Self::path`], and with it what is shown, is `shown`: `/proc/PID/exe` tells nobody which
    /// program that is.
    pub fn open_as(path: &Path, shown: &Path) -> Result<Self, BinaryError> {
        let open_error = |source| BinaryError::Open { path: path.to_owned(), source: Arc::new(source) };
        let file = File::open(path).map_err(open_error)?;
        Self::from_file(&file, shown)
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

    /// The path that it was opened by, or as which it is known: for people, not for opening.
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

    /// Filled by [`Self::module_data`].
    pub(super) fn module_data_cell(&self) -> &OnceLock<Option<ModuleData>> {
        &self.0.module_data
    }

    pub(super) fn debug_key(&self) -> &OnceLock<CacheKey> {
        &self.0.debug_key
    }

    /// Where the line table lies.
    pub(super) fn line_table(&self) -> Result<&LineTable, BinaryError> {
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
                .take(MAX_LINE_TABLES)
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
