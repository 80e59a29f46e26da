//! The cache on disk: inflated debug sections and the index over them, so that a second run inflates and scans nothing.
//!
//! A cache file is a header, a table of parts, and the parts; it is written under another name and renamed, and mapped
//! when it is used. Any of it can be deleted at any time. Where no directory can be written to, or others could write
//! to it too, an unnamed temporary file takes its place and nothing is kept.

use std::{
    env,
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::{
        fd::FromRawFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::binary::executable::map_file;

/// Environment variable that names the cache directory.
pub const DIRECTORY_VARIABLE: &str = "RIPTRACE_CACHE_DIR";
/// Bytes that all cache files may have together; the least recently used go first.
pub const MAX_CACHE_BYTES: u64 = 2 << 30;

/// Changes whenever the layout of a cache file or the meaning of a part does.
const MAGIC: &[u8; 8] = b"RIPTRC01";
const BOOT_ID_BYTES: usize = 40;
/// Magic, boot id, bytes of the key, number of parts.
const FIXED_BYTES: usize = MAGIC.len() + BOOT_ID_BYTES + 4 + 4;
/// Name (zero-padded), offset, bytes.
const PART_NAME_BYTES: usize = 24;
const PART_BYTES: usize = PART_NAME_BYTES + 8 + 8;
const PART_ALIGNMENT: u64 = 64;
const MAX_PARTS: usize = 64;
const TEMPORARY_PREFIX: &str = ".writing-";
/// A temporary file older than this was left by a run that was killed.
const TEMPORARY_LIFETIME: Duration = Duration::from_secs(3600);

/// What a cache file stands for: everything that its contents depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(pub String);

impl CacheKey {
    /// File names are hashes; the whole key is in the file and compared.
    fn file_name(&self, kind: &str) -> String {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("{:016x}.{kind}", hasher.finish())
    }
}

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: Option<PathBuf>,
    max_bytes: u64,
}

impl Cache {
    /// The user's cache: `$RIPTRACE_CACHE_DIR`, else `/var/cache/riptrace` for root, else `$XDG_CACHE_HOME/riptrace`
    /// or `~/.cache/riptrace`.
    pub fn of_user() -> Self {
        Self { directory: default_directory(), max_bytes: MAX_CACHE_BYTES }
    }

    /// A cache in this directory.
    pub fn at(directory: &Path) -> Self {
        Self { directory: Some(directory.to_owned()), max_bytes: MAX_CACHE_BYTES }
    }

    /// No cache: everything is made anew each time.
    pub fn none() -> Self {
        Self { directory: None, max_bytes: 0 }
    }

    /// The same with another bound on its size.
    #[must_use]
    pub fn bounded(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// The parts that were stored under this key, if they are all there.
    pub fn load(&self, key: &CacheKey, kind: &str) -> Option<Vec<(String, Bytes)>> {
        let path = self.directory.as_ref()?.join(key.file_name(kind));
        if !is_private(path.parent()?) {
            return None;
        }
        let file = File::open(&path).ok()?;
        let mapped = Bytes::from_owner(map_file(&file).ok()?);
        let parts = read_parts(&mapped, key)?;
        mark_used(&file, &path);
        Some(parts)
    }

    /// Makes a file of these parts: `fill` is given the file and each part's offset and must write all of it. What it
    /// wrote is mapped and, where possible, kept.
    pub fn store<E: From<io::Error>>(
        &self,
        key: &CacheKey,
        kind: &str,
        plan: &[(&str, u64)],
        fill: impl FnOnce(&File, &[u64]) -> Result<(), E>,
    ) -> Result<Vec<(String, Bytes)>, E> {
        let (header, offsets, total) = layout(key, plan)?;
        let target = Target::new(self.writable_directory())?;
        let file = target.file();
        file.set_len(total)?;
        fill(file, &offsets)?;
        file.write_all_at(&header, 0)?;
        let mapped = Bytes::from_owner(map_file(file)?);
        self.keep(target, key, kind);
        read_parts(&mapped, key)
            .ok_or_else(|| io::Error::other("a cache file changed while it was written").into())
    }

    /// A file that was stored under this key as it is.
    pub fn load_file(&self, key: &CacheKey, kind: &str) -> Option<File> {
        let path = self.directory.as_ref()?.join(key.file_name(kind));
        if !is_private(path.parent()?) {
            return None;
        }
        let file = File::open(&path).ok()?;
        mark_used(&file, &path);
        Some(file)
    }

    /// Keeps a file as it is: `fill` writes it. It is flushed to disk, since nothing in it tells whether it is whole.
    pub fn store_file(
        &self,
        key: &CacheKey,
        kind: &str,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        let target = Target::new(self.writable_directory())?;
        fill(target.file())?;
        let file = target.file().try_clone()?;
        if matches!(target, Target::Named(_)) {
            file.sync_all()?;
        }
        self.keep(target, key, kind);
        Ok(file)
    }

    /// Gives a written file its name, if it can have one, and makes room for it.
    fn keep(&self, target: Target, key: &CacheKey, kind: &str) {
        if let (Target::Named(temporary), Some(directory)) = (target, &self.directory) {
            let path = directory.join(key.file_name(kind));
            match temporary.persist(&path) {
                Ok(_) => self.shrink(directory, &path),
                Err(error) => tracing::debug!(path = %path.display(), %error, "cannot keep a cache file"),
            }
        }
    }

    /// The directory, made if need be; `None` if nothing can be kept.
    fn writable_directory(&self) -> Option<&Path> {
        let directory = self.directory.as_deref()?;
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(directory) {
            tracing::debug!(directory = %directory.display(), %error, "no cache directory");
            return None;
        }
        if !is_private(directory) {
            tracing::warn!(directory = %directory.display(), "others can write to the cache directory: not used");
            return None;
        }
        Some(directory)
    }

    /// Removes what was not used for longest until the rest fits; never `keep`, which was just written.
    fn shrink(&self, directory: &Path, keep: &Path) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let path = entry.path();
            let temporary = entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes());
            let abandoned = now.duration_since(used).is_ok_and(|age| age > TEMPORARY_LIFETIME);
            if temporary && abandoned {
                drop(fs::remove_file(&path));
            } else if !temporary && is_cache_file(&path) {
                files.push((used, metadata.blocks() * 512, path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.max_bytes {
                break;
            }
            if path != keep && fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
    }
}

/// The modification time says when a file was used last; it decides what goes when the cache is full.
fn mark_used(file: &File, path: &Path) {
    if let Err(error) = file.set_modified(SystemTime::now()) {
        tracing::debug!(path = %path.display(), %error, "cannot mark a cache file as used");
    }
}

/// Kinds of cache files: the extensions of their names.
pub mod kind {
    /// Inflated debug sections.
    pub const SECTIONS: &str = "sections";
    /// The index over debug sections.
    pub const INDEX: &str = "index";
    /// Debug files from servers.
    pub const DOWNLOAD: &str = "debug";

    /// What was found out of the running kernel.
    pub const FACTS: &str = "facts";

    /// All of them.
    pub(super) const ALL: [&str; 4] = [SECTIONS, INDEX, DOWNLOAD, FACTS];
}

fn is_cache_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| kind::ALL.iter().any(|kind| extension == *kind))
}

enum Target {
    Named(NamedTempFile),
    Unnamed(File),
}

impl Target {
    fn new(directory: Option<&Path>) -> io::Result<Self> {
        if let Some(directory) = directory {
            match tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(directory) {
                Ok(file) => return Ok(Self::Named(file)),
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "cannot write to the cache");
                }
            }
        }
        tempfile::tempfile().or_else(|_| memory_file()).map(Self::Unnamed)
    }

    fn file(&self) -> &File {
        match self {
            Self::Named(file) => file.as_file(),
            Self::Unnamed(file) => file,
        }
    }
}

/// A file that lies in memory, for a system without a writable directory.
fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string; the call has no other preconditions.
    let descriptor = unsafe { libc::memfd_create(c"riptrace".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn default_directory() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set(DIRECTORY_VARIABLE) {
        return Some(directory);
    }
    if effective_user() == 0 {
        return Some(PathBuf::from("/var/cache/riptrace"));
    }
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    caches.is_absolute().then(|| caches.join("riptrace"))
}

fn effective_user() -> u32 {
    // SAFETY: the call has no preconditions.
    unsafe { libc::geteuid() }
}

/// Whether nobody else could have put files there: what is in the cache is trusted as much as the program.
fn is_private(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| {
        let ours = metadata.uid() == effective_user() || metadata.uid() == 0;
        ours && metadata.mode() & 0o022 == 0
    })
}

/// Names the boot. Files are not flushed to disk, which would take longer than making them anew; so one that was
/// written before a crash may have holes, and a file of another boot is not believed.
fn boot_id() -> &'static [u8; BOOT_ID_BYTES] {
    static BOOT_ID: OnceLock<[u8; BOOT_ID_BYTES]> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        let text = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut id = [0; BOOT_ID_BYTES];
        for (to, from) in id.iter_mut().zip(text.trim_ascii()) {
            *to = *from;
        }
        id
    })
}

/// Header, each part's offset, and bytes of the whole file.
fn layout(key: &CacheKey, plan: &[(&str, u64)]) -> io::Result<(Vec<u8>, Vec<u64>, u64)> {
    let too_large = || io::Error::other("debug data is too large for a cache file");
    let key_bytes = u32::try_from(key.0.len()).map_err(|_| too_large())?;
    let mut header = Vec::new();
    header.extend(MAGIC);
    header.extend(boot_id());
    header.extend(key_bytes.to_le_bytes());
    header.extend((plan.len() as u32).to_le_bytes());
    header.extend(key.0.as_bytes());
    let mut end = (header.len() + plan.len() * PART_BYTES) as u64;
    let mut offsets = Vec::with_capacity(plan.len());
    for (name, bytes) in plan {
        let offset = end.next_multiple_of(PART_ALIGNMENT);
        end = offset.checked_add(*bytes).ok_or_else(too_large)?;
        let mut padded = [0; PART_NAME_BYTES];
        for (to, from) in padded.iter_mut().zip(name.as_bytes()) {
            *to = *from;
        }
        header.extend(padded);
        header.extend(offset.to_le_bytes());
        header.extend(bytes.to_le_bytes());
        offsets.push(offset);
    }
    Ok((header, offsets, end))
}

fn read_parts(file: &Bytes, key: &CacheKey) -> Option<Vec<(String, Bytes)>> {
    let fixed = file.get(..FIXED_BYTES)?;
    let rest = fixed.strip_prefix(MAGIC)?.strip_prefix(boot_id())?;
    let number = |bytes: &[u8]| bytes.first_chunk().copied().map(|bytes| u32::from_le_bytes(bytes) as usize);
    let (key_bytes, parts) = (number(rest)?, number(rest.get(4..)?)?);
    let table = FIXED_BYTES.checked_add(key_bytes)?;
    if file.get(FIXED_BYTES..table)? != key.0.as_bytes() || parts > MAX_PARTS {
        return None;
    }
    let entries = file.get(table..table.checked_add(parts * PART_BYTES)?)?;
    entries
        .as_chunks::<PART_BYTES>()
        .0
        .iter()
        .map(|entry| {
            let (name, range) = entry.split_at_checked(PART_NAME_BYTES)?;
            let name = name.split(|byte| *byte == 0).next()?;
            let word = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_le_bytes);
            let start = usize::try_from(word(range)?).ok()?;
            let end = start.checked_add(usize::try_from(word(range.get(8..)?)?).ok()?)?;
            (end <= file.len()).then(|| (String::from_utf8_lossy(name).into_owned(), file.slice(start..end)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(key: &CacheKey) -> Vec<u8> {
        let (header, offsets, total) = layout(key, &[("info", 5), ("line", 0), ("str", 3)]).unwrap();
        let mut bytes = vec![0; total as usize];
        bytes[..header.len()].copy_from_slice(&header);
        for (offset, content) in offsets.iter().zip([b"hello".as_slice(), b"", b"abc"]) {
            bytes[*offset as usize..][..content.len()].copy_from_slice(content);
        }
        bytes
    }

    #[test]
    fn parts_come_back_under_their_names_and_only_for_their_key() {
        let key = CacheKey("a key".to_owned());
        let bytes = Bytes::from(file(&key));
        let parts = read_parts(&bytes, &key).unwrap();
        let parts: Vec<(&str, &[u8])> = parts.iter().map(|(name, part)| (name.as_str(), &part[..])).collect();
        assert_eq!(parts, [("info", b"hello".as_slice()), ("line", b""), ("str", b"abc")]);
        assert_eq!(read_parts(&bytes, &CacheKey("b key".to_owned())), None);
    }

    #[test]
    fn a_file_of_another_boot_is_not_believed() {
        let key = CacheKey("a key".to_owned());
        let mut bytes = file(&key);
        bytes[MAGIC.len()] ^= 1;
        assert_eq!(read_parts(&Bytes::from(bytes), &key), None);
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at: usize, value: u8, cut in 0_usize..400) {
            let key = CacheKey("a key".to_owned());
            let mut bytes = file(&key);
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(cut);
            let _ = read_parts(&Bytes::from(bytes), &key);
        }
    }
}
