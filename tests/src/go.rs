//! Builds Go programs for a version of Go and a way of building, once: the result is kept under `target/fixtures`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};

/// The versions that are covered beside the machine's own.
pub const VERSIONS: [&str; 6] = ["1.21.13", "1.22.12", "1.23.12", "1.24.13", "1.25.5", "1.27.0"];

/// A way of building.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// As everybody builds.
    Optimised,
    /// `-gcflags=all=-N -l`: no optimisation, no inlining.
    Debug,
    /// Position-independent executable.
    Pie,
    /// Source paths without their directories.
    Trimpath,
    /// `-ldflags=-w`: without DWARF.
    NoDwarf,
    /// `-ldflags=-s`: without DWARF and symbol table.
    Stripped,
    /// With a package that uses cgo, linked by the system's linker.
    Cgo,
}

impl Mode {
    /// Name in reports and paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimised => "optimised",
            Self::Debug => "debug",
            Self::Pie => "pie",
            Self::Trimpath => "trimpath",
            Self::NoDwarf => "w",
            Self::Stripped => "s",
            Self::Cgo => "cgo",
        }
    }

    /// Whether the compiler keeps every variable in memory, so that nothing excuses a missing one.
    #[must_use]
    pub fn keeps_everything(self) -> bool {
        self == Self::Debug
    }

    /// Whether the executable has DWARF.
    #[must_use]
    pub fn has_dwarf(self) -> bool {
        !matches!(self, Self::NoDwarf | Self::Stripped)
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Optimised => &[],
            Self::Debug => &["-gcflags=all=-N -l"],
            Self::Pie => &["-buildmode=pie"],
            Self::Trimpath => &["-trimpath"],
            Self::NoDwarf => &["-ldflags=-w"],
            Self::Stripped => &["-ldflags=-s"],
            Self::Cgo => &["-tags=fixture_cgo", "-ldflags=-linkmode=external"],
        }
    }
}

/// A version of Go, as `1.26.8`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub String);

impl Version {
    /// The machine's own.
    pub fn local() -> Result<Self> {
        static LOCAL: OnceLock<Option<String>> = OnceLock::new();
        let version = LOCAL.get_or_init(|| {
            let output =
                Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            Some(text.trim().strip_prefix("go")?.to_owned())
        });
        version.clone().map(Self).context("no `go` on this machine")
    }

    /// The middle number: 26 of 1.26.8.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.0.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
    }

    /// Whether it can be run here: it is the machine's own, or was fetched before, or can be fetched.
    #[must_use]
    pub fn is_available(&self) -> bool {
        command(self).arg("version").output().is_ok_and(|output| output.status.success())
    }
}

/// `cargo`'s target directory, which this very test lies in.
pub fn target_dir() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let deps = test.parent().context("the test has no directory")?;
    let target = deps.ancestors().nth(2).context("the test is not in a target directory")?;
    Ok(target.to_owned())
}

/// The directory of the Go programs.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The executable of `fixtures/`, built if it is not there yet.
pub fn build(version: &Version, mode: Mode) -> Result<PathBuf> {
    build_in(&sources(), version, mode)
}

/// The executable of the main package in `directory`, built if it is not there yet.
pub fn build_in(directory: &Path, version: &Version, mode: Mode) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (version, mode, directory).hash(&mut hasher);
    let mut youngest = SystemTime::UNIX_EPOCH;
    for (path, text) in go_files(directory)? {
        youngest = youngest.max(fs::metadata(directory.join(&path))?.modified()?);
        (path, text).hash(&mut hasher);
    }
    let folder = target_dir()?.join("fixtures").join(format!("go{}-{}", version.0, mode.name()));
    fs::create_dir_all(&folder)?;
    // Only what replaces an older build of the same program removes it.
    let mut of_directory = DefaultHasher::new();
    directory.hash(&mut of_directory);
    let prefix = format!("{:08x}-", of_directory.finish() as u32);
    let executable = folder.join(format!("{prefix}{:016x}", hasher.finish()));

    // Test processes and threads want the same executable at the same time: one builds, the others wait.
    let lock = File::create(folder.join("lock"))?;
    // SAFETY: the descriptor is open for as long as `lock` lives.
    let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) };
    ensure!(locked == 0, "failed to lock {}: {}", folder.display(), std::io::Error::last_os_error());
    if executable.exists() {
        // Its name says that the sources are still these. A checkout may have given them later times, and RipTrace does not
        // quote a source that is younger than the program.
        let file = File::open(&executable)?;
        if file.metadata()?.modified()? < youngest {
            file.set_modified(youngest)?;
        }
        return Ok(executable);
    }
    let unfinished = folder.join("unfinished");
    let output = command(version)
        .arg("build")
        .args(mode.arguments())
        .arg("-o")
        .arg(&unfinished)
        .arg(".")
        .current_dir(directory)
        .env("CGO_ENABLED", if mode == Mode::Cgo { "1" } else { "0" })
        .env("GOFLAGS", "-buildvcs=false")
        .output()
        .context("failed to run go")?;
    if !output.status.success() {
        bail!("go {} {} build failed:\n{}", version.0, mode.name(), String::from_utf8_lossy(&output.stderr));
    }
    for old in fs::read_dir(&folder)?.flatten() {
        if old.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_file(old.path())?;
        }
    }
    fs::rename(&unfinished, &executable)?;
    Ok(executable)
}

fn command(version: &Version) -> Command {
    let mut go = Command::new("go");
    let local = Version::local().is_ok_and(|local| local == *version);
    go.env("GOTOOLCHAIN", if local { "local".to_owned() } else { format!("go{}", version.0) });
    go
}

/// Every `.go` and `.s` file and `go.mod` below the directory, by its path relative to it.
pub fn go_files(directory: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "go" || extension == "mod" || extension == "s")
            {
                files.insert(path.strip_prefix(directory)?.to_owned(), fs::read_to_string(&path)?);
            }
        }
    }
    Ok(files)
}

/// A test for each version and way of building: `versions! { body: name: version, mode; … }` calls `body(&version, mode)`.
#[macro_export]
macro_rules! versions {
    ($body:ident: $($name:ident: $version:expr, $mode:ident;)*) => {
        $(
            #[test]
            fn $name() {
                $body(&$version, $crate::go::Mode::$mode);
            }
        )*
    };
}
