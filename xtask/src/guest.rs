//! Machines with kernels of their own, booted in QEMU: Debian's kernels, and the initramfs that they run.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::sh;

/// What runs in a machine is static.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";

/// What a virtio network card needs, each behind what it builds on.
const NETWORK_MODULES: [&str; 8] = [
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// Installs what building for [`MUSL`] needs.
pub(crate) fn musl() -> Result<()> {
    sh::apt("musl-gcc", &["musl-tools"])?;
    let targets = sh::output(sh::command("rustup").args(["target", "list", "--installed"]))?;
    if !targets.lines().any(|line| line == MUSL) {
        sh::say(&format!("installing Rust's {MUSL} target"));
        sh::run(sh::command("rustup").args(["target", "add", MUSL]))?;
    }
    Ok(())
}

/// Builds process 1 of the machines.
pub(crate) fn init(work: &Path) -> Result<PathBuf> {
    let init = work.join("init");
    sh::run(
        sh::command("rustc")
            .args(["--edition", "2024", "--target", MUSL, "-O", "-C", "strip=symbols", "-o"])
            .arg(&init)
            .arg("xtask/guest/init.rs"),
    )?;
    Ok(init)
}

/// A kernel, and what it needs to have a network in QEMU.
pub(crate) struct Kernel {
    /// `vmlinuz`.
    pub(crate) image: PathBuf,
    /// Modules, in the order in which they are loaded.
    pub(crate) network_modules: Vec<PathBuf>,
}

/// The newest kernel of a series, downloaded once.
pub(crate) fn kernel(series: &str) -> Result<Option<Kernel>> {
    let folder = sh::tools().join("kernels").join(series);
    if let Some(found) = image(&folder)? {
        return Ok(Some(found));
    }
    let Some(package) = newest_package(series)? else { return Ok(None) };
    sh::say(&format!("downloading {package}"));
    fs::create_dir_all(&folder)?;
    sh::run(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&folder))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            // Of its modules only the network's: all else that the tests need is built in.
            let mut unpack =
                Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&path).stdout(Stdio::piped()).spawn()?;
            let tar = unpack.stdout.take().context("a pipe")?;
            sh::run(
                Command::new("tar")
                    .args(["-x", "--wildcards", "./boot/vmlinuz-*", "*/virtio*.ko", "*failover.ko"])
                    .current_dir(&folder)
                    .stdin(tar),
            )?;
            unpack.wait()?;
            fs::remove_file(path)?;
        }
    }
    image(&folder)
}

fn image(folder: &Path) -> Result<Option<Kernel>> {
    let Ok(entries) = fs::read_dir(folder.join("boot")) else { return Ok(None) };
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let Some(image) = paths.into_iter().max() else { return Ok(None) };
    let release = image.file_name().unwrap_or_default().to_string_lossy().replace("vmlinuz-", "");
    let modules = folder.join("lib/modules").join(release).join("kernel");
    let network_modules: Vec<PathBuf> = NETWORK_MODULES.iter().map(|name| modules.join(name)).collect();
    // A kernel of before they were kept is downloaded again.
    let complete = network_modules.iter().all(|module| module.is_file());
    Ok(complete.then_some(Kernel { image, network_modules }))
}

fn newest_package(series: &str) -> Result<Option<String>> {
    let pattern = format!("^linux-image-{}\\.[0-9][^ ]*-cloud-amd64$", series.replace('.', "\\."));
    let list = || sh::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]));
    let mut found = list()?;
    if found.is_empty() {
        sh::run(Command::new("apt-get").args(["update", "-qq"]))?;
        found = list()?;
    }
    let names = found.lines().filter_map(|line| line.split_whitespace().next());
    // 6.1.0-9 is older than 6.1.0-56: the numbers decide, not the text.
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    Ok(names.max_by_key(|name| numbers(name)).map(str::to_owned))
}

/// A `cpio` archive in the format that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
pub(crate) struct Archive {
    file: File,
    entries: u32,
}

impl Archive {
    /// Begins an archive.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: File::create(path)?, entries: 0 })
    }

    /// A file that is no program.
    pub(crate) fn text(&mut self, name: &str, content: &str) -> Result<()> {
        self.entry(name, 0o100_644, content.as_bytes())
    }

    pub(crate) fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    pub(crate) fn program(&mut self, name: &str, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        self.entry(name, 0o100_755, &content)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let (inode, links) = (self.entries, 1);
        let (size, name_size) = (content.len(), name.len() + 1);
        // inode, mode, uid, gid, links, mtime, size, device numbers (4), length of the name, checksum.
        write!(
            self.file,
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0
        )?;
        self.file.write_all(name.as_bytes())?;
        self.file.write_all(&[0])?;
        self.pad(110 + name_size)?;
        self.file.write_all(content)?;
        self.pad(size)
    }

    /// Names and contents end at multiples of four.
    fn pad(&mut self, written: usize) -> Result<()> {
        Ok(self.file.write_all(&[0; 3][..written.next_multiple_of(4) - written])?)
    }
}
