//! Finding a program's DWARF, wherever it is, and handing it out inflated; or saying why there is none.

use std::{
    env,
    fmt::Write,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use flate2::CrcReader;

use crate::{
    binary::{
        cache::{Cache, CacheKey, kind},
        debuginfod,
        elf::{Elf, Section},
        executable::{BinaryError, Executable},
        inflate::{self, Compressed, InflateError},
    },
    dwarf::Sections,
};

/// Where distributions put separate debug files.
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

/// The sections that `dwarf` reads, without `.debug_`.
const DEBUG_SECTIONS: [&str; 12] = [
    "info",
    "abbrev",
    "line",
    "line_str",
    "str",
    "str_offsets",
    "addr",
    "loc",
    "loclists",
    "ranges",
    "rnglists",
    "frame",
];

/// Where debug data is looked for, and where what is inflated is kept.
#[derive(Clone, Debug)]
pub struct DebugOptions {
    /// A separate debug file that the user named; nothing else is looked at.
    pub debug_file: Option<PathBuf>,
    /// Directories like `/usr/lib/debug`.
    pub debug_directories: Vec<PathBuf>,
    /// Where the program's file is when its path is not a place (`/proc/PID/exe`): separate debug files may lie there.
    pub found_at: Option<PathBuf>,
    /// Servers that are asked by build id.
    pub debuginfod_urls: Vec<String>,
    /// The cache.
    pub cache: Cache,
}

impl DebugOptions {
    /// The user's: `--debug-file`, the usual directories, `DEBUGINFOD_URLS`, the user's cache.
    pub fn from_environment(debug_file: Option<PathBuf>) -> Self {
        let urls = env::var("DEBUGINFOD_URLS").unwrap_or_default();
        Self {
            debug_file,
            debug_directories: vec![PathBuf::from(DEBUG_DIRECTORY)],
            found_at: None,
            debuginfod_urls: urls.split_whitespace().map(str::to_owned).collect(),
            cache: Cache::of_user(),
        }
    }
}

/// How far getting debug data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is done.
    pub stage: Stage,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all; 0: not known.
    pub total_bytes: u64,
}

/// A step of getting debug data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Fetching it from a server.
    Downloading,
    /// Inflating it into the cache.
    Inflating,
}

/// Why there is no debug data.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DebugMissing {
    /// The program has none, and no separate file was found.
    #[error(
        "{} {cause}: no DWARF; lines, functions and stacks still work, variables do not; {}",
        path.display(),
        cause.remedy()
    )]
    Absent {
        /// The program.
        path: PathBuf,
        /// What removed it.
        cause: Cause,
    },
    /// The file that the user named can't be read.
    #[error("debug file: {0}")]
    DebugFile(#[from] BinaryError),
    /// The file that the user named has none either.
    #[error("debug file {} has no DWARF", path.display())]
    DebugFileEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The file that the user named belongs to another build.
    #[error(
        "debug file {} belongs to another build: its build id is {its}, {} has {ours}; give the one made with this build",
        debug_file.display(),
        path.display()
    )]
    OtherBuild {
        /// The debug file.
        debug_file: PathBuf,
        /// Its build id.
        its: String,
        /// The program.
        path: PathBuf,
        /// The program's build id.
        ours: String,
    },
    /// It is there and can't be used.
    #[error("debug data of {} can't be used: {source}", path.display())]
    Unusable {
        /// The file that has it.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<InflateError>,
    },
}

/// What removed a program's debug data, by the traces that it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A flag that the build recorded, as it was given: `-ldflags=-w`, `-gcflags=all=-dwarf=false`.
    Flag(String),
    /// The symbol table is there: `-ldflags=-w`, or `strip --strip-debug`.
    LinkerWOrStripDebug,
    /// The symbol table is gone too: `-ldflags=-s`, or `strip`.
    LinkerSOrStrip,
    /// The build recorded that no flag removed it.
    Strip,
}

impl Cause {
    fn remedy(&self) -> String {
        match self {
            Self::Flag(flag) if flag.starts_with("-ldflags=") => {
                format!("rebuild without {} or give --debug-file", flag.trim_start_matches("-ldflags="))
            }
            Self::Flag(flag) => format!("rebuild without {flag} or give --debug-file"),
            Self::LinkerWOrStripDebug => "rebuild without -w or give --debug-file".to_owned(),
            Self::LinkerSOrStrip => "rebuild without -s or give --debug-file".to_owned(),
            Self::Strip => "use the file from before strip, or give it with --debug-file".to_owned(),
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "was built with {flag}"),
            Self::LinkerWOrStripDebug => f.write_str("was built with -ldflags=-w, or stripped of debug data"),
            Self::LinkerSOrStrip => f.write_str("was built with -ldflags=-s, or stripped"),
            Self::Strip => f.write_str("was stripped"),
        }
    }
}

impl Executable {
    /// The program's debug sections, inflated; from the cache if they were inflated before.
    ///
    /// `progress` is called now and then while that takes time.
    pub fn debug(
        &self,
        options: &DebugOptions,
        progress: &dyn Fn(Progress),
    ) -> Result<Sections, DebugMissing> {
        let file = self.debug_file(options, progress)?;
        let key = cache_key(self, &file);
        let unusable =
            |source| DebugMissing::Unusable { path: file.path().to_owned(), source: Arc::new(source) };
        let mut sections = read_sections(file.elf(), &key, &options.cache, progress).map_err(unusable)?;
        if let Some(section) = self.elf().section(".eh_frame") {
            sections.eh_frame = self.elf().section_bytes(section).unwrap_or_default();
            sections.eh_frame_address = section.address;
        }
        sections.runtime_types_base = self.runtime_types().map(|(start, _)| start);
        sections.cached_index = options
            .cache
            .load(&key, kind::INDEX)
            .and_then(|parts| parts.into_iter().next())
            .map(|(_, index)| index);
        // The first caller's; every caller finds the same debug file.
        let _ = self.debug_key().set(key);
        Ok(sections)
    }

    /// Keeps `DebugInfo::index_bytes` for the next time that [`Self::debug`] is called for the same build.
    pub fn store_index(&self, options: &DebugOptions, index: &[u8]) {
        let Some(key) = self.debug_key().get() else { return };
        let plan = [("index", index.len() as u64)];
        let stored = options.cache.store(key, kind::INDEX, &plan, |file, offsets| {
            offsets.iter().try_for_each(|offset| file.write_all_at(index, *offset))
        });
        if let Err(error) = stored {
            tracing::debug!(%error, "cannot keep the index");
        }
    }

    /// Whether there is debug data and in which file, without inflating it or asking a server.
    pub fn debug_status(&self, options: &DebugOptions) -> Result<PathBuf, DebugMissing> {
        let local = DebugOptions { debuginfod_urls: Vec::new(), ..options.clone() };
        self.debug_file(&local, &|_| {}).map(|file| file.path().to_owned())
    }

    /// The file that has the program's DWARF.
    fn debug_file(&self, options: &DebugOptions, progress: &dyn Fn(Progress)) -> Result<Self, DebugMissing> {
        if let Some(path) = &options.debug_file {
            return self.named_debug_file(path);
        }
        if has_dwarf(self.elf()) {
            return Ok(self.clone());
        }
        self.by_build_id(options)
            .or_else(|| self.by_debug_link(options))
            .or_else(|| self.by_server(options, progress))
            .ok_or_else(|| DebugMissing::Absent { path: self.path().to_owned(), cause: self.cause() })
    }

    fn named_debug_file(&self, path: &Path) -> Result<Self, DebugMissing> {
        let file = Self::open(path)?;
        if let (Some(its), Some(ours)) = (file.build_id(), self.build_id())
            && its != ours
        {
            return Err(DebugMissing::OtherBuild {
                debug_file: path.to_owned(),
                its: its.to_owned(),
                path: self.path().to_owned(),
                ours: ours.to_owned(),
            });
        }
        if !has_dwarf(file.elf()) {
            return Err(DebugMissing::DebugFileEmpty { path: path.to_owned() });
        }
        Ok(file)
    }

    /// `/usr/lib/debug/.build-id/ab/cdef….debug`.
    fn by_build_id(&self, options: &DebugOptions) -> Option<Self> {
        let id = self.hexadecimal_build_id()?;
        let (first, rest) = id.split_at_checked(2)?;
        let name = format!(".build-id/{first}/{rest}.debug");
        options.debug_directories.iter().find_map(|directory| {
            let file = self.candidate(&directory.join(&name))?;
            (file.build_id() == Some(id)).then_some(file)
        })
    }

    /// The file that `.gnu_debuglink` names, beside the program, in `.debug` beside it, or in a debug directory under
    /// the program's directory (GDB manual, "Debugging Information in Separate Files").
    fn by_debug_link(&self, options: &DebugOptions) -> Option<Self> {
        let section = self.elf().section(".gnu_debuglink")?;
        let link = self.elf().section_bytes(section)?;
        let name = link.split(|byte| *byte == 0).next()?;
        let checksum_at = (name.len() + 1).next_multiple_of(4);
        let checksum = link.get(checksum_at..)?.first_chunk().copied().map(u32::from_le_bytes)?;
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains('/'))?;
        let found_at = options.found_at.clone().or_else(|| std::fs::canonicalize(self.path()).ok())?;
        let directory = found_at.parent()?;
        let global = options
            .debug_directories
            .iter()
            .map(|root| root.join(directory.strip_prefix("/").unwrap_or(directory)).join(name));
        let mut candidates = vec![directory.join(name), directory.join(".debug").join(name)];
        candidates.extend(global);
        candidates.into_iter().find_map(|path| {
            let file = self.candidate(&path)?;
            let matches = crc32(&path) == Some(checksum);
            if !matches {
                tracing::warn!(path = %path.display(), "the checksum of a debug file is not the program's: not used");
            }
            matches.then_some(file)
        })
    }

    fn by_server(&self, options: &DebugOptions, progress: &dyn Fn(Progress)) -> Option<Self> {
        let id = self.hexadecimal_build_id()?;
        let name = PathBuf::from(format!("{id}.debug"));
        debuginfod::fetch(id, &options.debuginfod_urls, &options.cache, progress, |file| {
            let file = Self::from_file(file, &name).ok()?;
            (file.build_id() == Some(id) && has_dwarf(file.elf())).then_some(file)
        })
    }

    /// The GNU build id, by which debug files are stored; Go's own id has no place there.
    fn hexadecimal_build_id(&self) -> Option<&str> {
        self.build_id().filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// A debug file that might be the program's; `None` if it isn't there, has no DWARF or is of another build.
    fn candidate(&self, path: &Path) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        match Self::open(path) {
            Ok(file) if file.identity() == self.identity() || !has_dwarf(file.elf()) => None,
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(%error, "a debug file can't be used");
                None
            }
        }
    }

    /// What removed the debug data.
    fn cause(&self) -> Cause {
        let symbols = self.elf().has_symbols();
        let guess = if symbols { Cause::LinkerWOrStripDebug } else { Cause::LinkerSOrStrip };
        let Some(info) = self.build_info() else { return guess };
        if let Some(flags) = info.setting("-ldflags") {
            let given: Vec<&str> =
                flags.split_whitespace().filter(|flag| matches!(*flag, "-s" | "-w")).collect();
            if let Some(flag) = given.iter().find(|flag| **flag == "-w").or(given.first()) {
                return Cause::Flag(format!("-ldflags={flag}"));
            }
        }
        if let Some(flags) = info.setting("-gcflags").filter(|flags| flags.contains("-dwarf=false")) {
            return Cause::Flag(format!("-gcflags={flags}"));
        }
        // Without -trimpath the build records -ldflags, so their absence means that there were none.
        let recorded = !info.settings.is_empty() && info.setting("-trimpath").is_none();
        if recorded { Cause::Strip } else { guess }
    }
}

/// Whether the file has the section that everything starts from, with bytes.
fn has_dwarf(elf: &Elf) -> bool {
    [".debug_info", ".zdebug_info"]
        .iter()
        .filter_map(|name| elf.section(name))
        .any(|section| !section.no_bits && section.bytes > 0)
}

/// The checksum that a debug link names, read through a small buffer: the file may be large.
fn crc32(path: &Path) -> Option<u32> {
    let mut reader = CrcReader::new(File::open(path).ok()?);
    io::copy(&mut reader, &mut io::sink()).ok()?;
    Some(reader.crc().sum())
}

/// The build and the place of every debug section: `strip` keeps the build id, so that alone does not name the data.
fn cache_key(program: &Executable, file: &Executable) -> CacheKey {
    let mut key = match program.build_id() {
        Some(id) => format!("build {id}"),
        None => format!("file {:?}", file.identity()),
    };
    for (name, section) in debug_sections(file.elf()) {
        // Writing to a string can't fail.
        let _ = write!(key, " {name} {} {} {}", section.offset, section.bytes, section.compressed);
    }
    CacheKey(key)
}

fn debug_sections(elf: &Elf) -> impl Iterator<Item = (&'static str, &Section)> {
    DEBUG_SECTIONS.iter().filter_map(|name| {
        let section = elf
            .section(&format!(".debug_{name}"))
            .or_else(|| elf.section(&format!(".zdebug_{name}")))
            .filter(|section| !section.no_bits && section.bytes > 0)?;
        Some((*name, section))
    })
}

fn read_sections(
    elf: &Elf,
    key: &CacheKey,
    cache: &Cache,
    progress: &dyn Fn(Progress),
) -> Result<Sections, InflateError> {
    let mut sections = Sections::default();
    let mut compressed: Vec<(&str, Compressed)> = Vec::new();
    for (name, section) in debug_sections(elf) {
        let outside = || InflateError::Damaged { section: section.name.clone() };
        let bytes = elf.section_bytes(section).ok_or_else(outside)?;
        if section.compressed {
            compressed.push((name, Compressed::from_elf(&section.name, &bytes)?));
        } else if section.name.starts_with(".zdebug") {
            compressed.push((name, Compressed::from_gnu(&section.name, &bytes)?));
        } else {
            put(&mut sections, name, bytes);
        }
    }
    if compressed.is_empty() {
        return Ok(sections);
    }
    let parts = match cache.load(key, kind::SECTIONS) {
        Some(parts) => parts,
        None => inflate(&compressed, key, cache, progress)?,
    };
    for (name, bytes) in parts {
        put(&mut sections, &name, bytes);
    }
    Ok(sections)
}

fn inflate(
    compressed: &[(&str, Compressed)],
    key: &CacheKey,
    cache: &Cache,
    progress: &dyn Fn(Progress),
) -> Result<Vec<(String, Bytes)>, InflateError> {
    let plan: Vec<(&str, u64)> =
        compressed.iter().map(|(name, section)| (*name, section.inflated_bytes)).collect();
    let total_bytes = plan.iter().map(|(_, bytes)| bytes).sum();
    cache.store(key, kind::SECTIONS, &plan, |file, offsets| {
        let sections: Vec<(Compressed, u64)> =
            compressed.iter().zip(offsets).map(|((_, section), offset)| (section.clone(), *offset)).collect();
        inflate::inflate_all(&sections, file, |done_bytes| {
            progress(Progress { stage: Stage::Inflating, done_bytes, total_bytes });
        })
    })
}

fn put(sections: &mut Sections, name: &str, bytes: Bytes) {
    let field = match name {
        "info" => &mut sections.debug_info,
        "abbrev" => &mut sections.debug_abbrev,
        "line" => &mut sections.debug_line,
        "line_str" => &mut sections.debug_line_str,
        "str" => &mut sections.debug_str,
        "str_offsets" => &mut sections.debug_str_offsets,
        "addr" => &mut sections.debug_addr,
        "loc" => &mut sections.debug_loc,
        "loclists" => &mut sections.debug_loclists,
        "ranges" => &mut sections.debug_ranges,
        "rnglists" => &mut sections.debug_rnglists,
        "frame" => &mut sections.debug_frame,
        _ => return,
    };
    *field = bytes;
}
