//! Counters that outlive the agent: an agent that was killed accounts for its last run when it starts again.
//!
//! Only the map of counters, and the names of its entries, are pinned in a BPF file system; no program, no trap: those end with
//! the process, however it ends. A run's pins lie in a folder of its own, which goes when [`super::Kernel`] is dropped. What
//! is left there is of runs that had no time for that.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use riptrace_common::abi::{ABI_VERSION, names::Name, program::Counters};

use super::counters;

/// The names of the pins. A file name there must not contain a dot.
const COUNTERS: &str = "counters_v";
const NAMES: &str = "names_v";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i128 = 0xcafe_4a11;
/// Where systems mount one.
const USUAL: &str = "/sys/fs/bpf";

/// Why counters can't be pinned or read. What the last run counted is then unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinsError {
    /// There is no BPF file system at the folder, and none could be mounted.
    #[error(
        "{} is in no BPF file system, and none can be mounted there; run `mount -t bpf bpf {USUAL}`", folder.display()
    )]
    NoFileSystem {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name that can't be one there.
    #[error("{name:?} can't name a run's pins: letters, digits, `_` and `-` only")]
    BadName {
        /// The name.
        name: String,
    },
    /// A file or folder.
    #[error("{operation} {} failed", path.display())]
    Path {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
}

/// Where a run's counters are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    folder: PathBuf,
}

/// What a run counted that ended without taking its pins away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousRun {
    /// Its name.
    pub run: String,
    /// Its tracepoints by id, those that it had not removed. `Err`: its pins can't be read (another version of RipTrace wrote
    /// them), so that what it counted is unknown.
    pub counters: Result<Vec<(String, Counters)>, String>,
}

/// Where the agent with this state folder pins its counters: a folder of its own in the usual BPF file system.
///
/// # Errors
///
/// The state folder can't be looked at.
pub fn folder_of(state: &Path) -> io::Result<PathBuf> {
    let of_state = fs::metadata(state)?;
    Ok(Path::new(USUAL).join(format!("riptrace-{:x}-{:x}", of_state.dev(), of_state.ino())))
}

/// Makes sure that there is a BPF file system at `folder`, which must be this agent's own, for a run of this name.
///
/// # Errors
///
/// There is none; the agent works without, and what is lost when it is killed is unknown.
pub fn prepare(folder: &Path, run: &str) -> Result<Pins, PinsError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if run.is_empty() || !run.chars().all(is_plain) {
        return Err(PinsError::BadName { name: run.to_owned() });
    }
    if folder.starts_with(USUAL) && !is_bpf(Path::new(USUAL)) {
        mount(Path::new(USUAL))?;
    }
    make_folder(folder)?;
    if !is_bpf(folder) {
        mount(folder)?;
    }
    Ok(Pins { folder: folder.join(run) })
}

/// What earlier runs left in this folder; their pins are gone afterwards. No other agent may be using the folder.
///
/// # Errors
///
/// The folder can't be read. One that is not there holds nothing.
pub fn previous_runs(folder: &Path) -> Result<Vec<PreviousRun>, PinsError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("reading", folder, source)),
    };
    let mut runs = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| failed("reading", folder, source))?.path();
        if !path.is_dir() || !is_bpf(&path) {
            continue;
        }
        let run = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        runs.push(PreviousRun { run, counters: read(&path) });
        Pins { folder: path }.remove();
    }
    runs.sort_by(|a, b| a.run.cmp(&b.run));
    Ok(runs)
}

impl Pins {
    /// Pins the maps. They stay until the guard is dropped.
    pub(super) fn pin(&self, counters: &Map, names: &Map) -> Result<Pinned, PinsError> {
        make_folder(&self.folder)?;
        let pinned = Pinned(self.clone());
        for (map, name) in [(counters, COUNTERS), (names, NAMES)] {
            let path = self.path(name);
            map.pin(&path).map_err(|error| failed("pinning a map at", &path, io::Error::other(error)))?;
        }
        Ok(pinned)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{ABI_VERSION}"))
    }

    fn remove(&self) {
        // Those of other versions too. What can't be removed now is tried again at the next start.
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_dir(&self.folder);
        // The agent's own folder too, unless there is something in it.
        if let Some(own) = self.folder.parent() {
            let _ = fs::remove_dir(own);
        }
    }
}

/// Takes the pins away when it is dropped.
#[derive(Debug)]
pub(super) struct Pinned(Pins);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.remove();
    }
}

fn read(folder: &Path) -> Result<Vec<(String, Counters)>, String> {
    let pins = Pins { folder: folder.to_owned() };
    let map = |name| MapData::from_pin(pins.path(name)).map_err(|error| error.to_string());
    let names = Array::<_, Name>::try_from(Map::Array(map(NAMES)?)).map_err(|error| error.to_string())?;
    let counters = PerCpuArray::<_, Counters>::try_from(Map::PerCpuArray(map(COUNTERS)?))
        .map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for index in 0..names.len().min(counters.len()) {
        let name = names.get(&index, 0).map_err(|error| error.to_string())?;
        let Some(id) = name.text() else { continue };
        let per_cpu = counters.get(&index, 0).map_err(|error| error.to_string())?;
        found.push((id.to_owned(), counters::sum(&per_cpu)));
    }
    Ok(found)
}

fn make_folder(folder: &Path) -> Result<(), PinsError> {
    fs::create_dir_all(folder).map_err(|source| failed("making the folder", folder, source))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> PinsError {
    PinsError::Path { operation, path: path.to_owned(), source }
}

fn is_bpf(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut of = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends with a zero byte, and there is room for the answer, of which every bit pattern is valid.
    let of = unsafe {
        if libc::statfs(path.as_ptr(), of.as_mut_ptr()) != 0 {
            return false;
        }
        of.assume_init()
    };
    // Signed or not: that depends on the C library.
    i128::from(of.f_type) == BPF_FS_MAGIC
}

fn mount(at: &Path) -> Result<(), PinsError> {
    let no_system = |source| PinsError::NoFileSystem { folder: at.to_owned(), source };
    let path = CString::new(at.as_os_str().as_bytes()).map_err(|error| no_system(error.into()))?;
    // SAFETY: four strings that end with a zero byte.
    let mounted = unsafe {
        libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast())
    };
    if mounted == 0 { Ok(()) } else { Err(no_system(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_s_name_is_a_plain_word() {
        for run in ["", "a.b", "a/b", "..", "a b"] {
            assert!(matches!(prepare(Path::new("/nowhere"), run), Err(PinsError::BadName { .. })), "{run}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nothing() {
        assert_eq!(previous_runs(Path::new("/nowhere/at/all")).unwrap(), []);
    }

    #[test]
    fn folders_of_another_file_system_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("run");
        fs::create_dir(&inner).unwrap();
        assert_eq!(previous_runs(folder.path()).unwrap(), []);
        assert!(inner.is_dir());
    }
}
