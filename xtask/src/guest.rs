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

/// What a virtio network card needs, each behind what it builds on. What a kernel has no module for is built in.
const NETWORK_MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    NETWORK_CARD,
];
/// The card's own module, which no series builds in.
const NETWORK_CARD: &str = "drivers/net/virtio_net.ko";
/// What Debian's modules end with.
const MODULE_FORMS: [&str; 2] = ["", ".xz"];

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

/// The agent as it runs in a machine: the tests of its kernel side, and itself.
pub(crate) struct Binaries {
    pub(crate) kernel_test: PathBuf,
    pub(crate) riptrace: PathBuf,
}

/// Builds the agent as static binaries. One command for both: the tests need the program anyway, and what cargo builds
/// without tests has other dependencies' features, so it would be built twice.
pub(crate) fn binaries() -> Result<Binaries> {
    musl()?;
    sh::say("building the agent and its tests as static binaries");
    let messages = sh::output(
        sh::command("cargo")
            .args(["test", "--no-run", "--package", "riptrace-agent", "--test", "kernel", "--target", MUSL])
            .arg("--message-format=json-render-diagnostics"),
    )?;
    let messages: Vec<serde_json::Value> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let executable = |name: &str, kind: &str| {
        messages
            .iter()
            .filter(|message| message["target"]["name"] == name && message["target"]["kind"][0] == kind)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo built no {kind} `{name}`"))
    };
    Ok(Binaries { kernel_test: executable("kernel", "test")?, riptrace: executable("riptrace", "bin")? })
}

/// A copy of a program for a machine's memory: its debug data would only make the archive larger.
pub(crate) fn stripped(program: &Path, copy: PathBuf) -> Result<PathBuf> {
    sh::run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program))?;
    Ok(copy)
}

/// A kernel, and what it needs to have a network in QEMU.
pub(crate) struct Kernel {
    /// `vmlinuz`.
    pub(crate) image: PathBuf,
    /// Modules, in the order in which they are loaded.
    pub(crate) network_modules: Vec<PathBuf>,
}

impl Kernel {
    /// `uname -r`.
    pub(crate) fn release(&self) -> String {
        release(&self.image)
    }
}

fn release(image: &Path) -> String {
    image.file_name().unwrap_or_default().to_string_lossy().replace("vmlinuz-", "")
}

/// QEMU and the newest kernel of a series, installed and downloaded where they are missing.
pub(crate) fn obtain(series: &str) -> Result<Kernel> {
    sh::apt("qemu-system-x86_64", &["qemu-system-x86"])?;
    kernel(series)?
        .with_context(|| format!("no package linux-image-{series}…-cloud-amd64 within apt's reach"))
}

/// A machine that prints to its standard output. TCG and not KVM: nested KVM hangs on some hosts. Its clock is the HPET,
/// which QEMU keeps: the TSC is measured against it while it boots, and on a busy host that is wrong by any factor.
pub(crate) fn machine(kernel: &Kernel, initramfs: &Path, parameters: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 oops=panic clocksource=hpet {parameters}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// The newest kernel of a series, downloaded once.
fn kernel(series: &str) -> Result<Option<Kernel>> {
    let folder = sh::tools().join("kernels").join(series);
    if let Some(found) = image(&folder)? {
        return Ok(Some(found));
    }
    let Some(package) = newest_package(series)? else { return Ok(None) };
    sh::say(&format!("downloading {package}"));
    let _ = fs::remove_dir_all(&folder);
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
                    .args(["-x", "--wildcards", "./boot/vmlinuz-*", "*/virtio*.ko*", "*failover.ko*"])
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
    let modules = folder.join("lib/modules").join(release(&image)).join("kernel");
    let found = |name: &&str| {
        let mut forms = MODULE_FORMS.iter().map(|form| modules.join(format!("{name}{form}")));
        forms.find(|path| path.is_file())
    };
    // A kernel of before they were kept is downloaded again.
    if found(&NETWORK_CARD).is_none() {
        return Ok(None);
    }
    Ok(Some(Kernel { image, network_modules: NETWORK_MODULES.iter().filter_map(found).collect() }))
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
