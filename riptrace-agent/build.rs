//! Builds the kernel side (`riptrace-ebpf`) and puts its two objects where `probe` includes them from: that of the
//! tracepoints, and that which watches processes.
//!
//! The BPF target has no prebuilt `core`, so it is built from `rust-src` with `-Z build-std` on the pinned stable
//! compiler; `RUSTC_BOOTSTRAP=1` is set for that one build only. `RIPTRACE_EBPF_OBJECT` names an object that was built
//! before, for build machines that have no bpf-linker; the other one lies beside it, its name ending in `-watch`. `RIPTRACE_SKIP_EBPF=1` leaves it out, for builds that load nothing
//! into a kernel (the fuzz targets): such a `riptrace` says so when it is to load it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

const TARGET: &str = "bpfel-unknown-none";
/// What is behind the name of the built binary, and the name under which `probe` includes it.
const OBJECTS: [(&str, &str); 2] = [("", "riptrace-ebpf.o"), ("-watch", "riptrace-watch.o")];

fn main() -> Result<()> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let agent = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let workspace = agent.parent().context("riptrace-agent lies in no workspace")?;
    let objects = OBJECTS.map(|(_, name)| out_dir.join(name));

    let target_arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    if target_arch != "x86_64" {
        bail!("RipTrace reads x86-64 registers and instructions; it can't be built for {target_arch} yet");
    }

    println!("cargo::rerun-if-env-changed=RIPTRACE_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=RIPTRACE_SKIP_EBPF");
    println!("cargo::rerun-if-env-changed=PATH");
    for input in [
        "riptrace-ebpf",
        "riptrace-common/src/abi",
        "riptrace-common/src/condition.rs",
        "riptrace-common/Cargo.toml",
        "rust-toolchain.toml",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }

    if let Some(built) = env::var_os("RIPTRACE_EBPF_OBJECT") {
        let built = PathBuf::from(built);
        for (suffix, _) in OBJECTS {
            println!("cargo::rerun-if-changed={}", with_suffix(&built, suffix).display());
        }
        return copy(&built, &objects);
    }

    if env::var_os("RIPTRACE_SKIP_EBPF").is_some_and(|value| value == "1") {
        for object in &objects {
            fs::write(object, []).with_context(|| format!("writing {}", object.display()))?;
        }
        return Ok(());
    }

    let linker = find_linker(workspace, &out_dir)?;
    println!("cargo::rerun-if-changed={}", linker.display());
    let built = build(workspace, &out_dir.join("ebpf"), &linker, &target_arch)?;
    copy(&built, &objects)
}

/// Copies the built objects, the first of which is `built`.
fn copy(built: &Path, objects: &[PathBuf; 2]) -> Result<()> {
    for ((suffix, _), object) in OBJECTS.iter().zip(objects) {
        let built = with_suffix(built, suffix);
        let bytes = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
        let stripped = without_dwarf(&bytes).with_context(|| format!("stripping {}", built.display()))?;
        fs::write(object, stripped).with_context(|| format!("writing {}", object.display()))?;
    }
    Ok(())
}

/// The object without its DWARF, of which BTF was made: nobody reads it from here on, but the loader goes through the
/// relocations of all sections at every start.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections among those of symbols; the builder wants them apart, as they are in an object that
    // was stripped before.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = elf::SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// `dir/name.o` → `dir/name-watch.o`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Builds the object with `bpf-linker` at `linker`, into its own target directory (the outer cargo holds the lock of
/// the usual one).
fn build(workspace: &Path, target_dir: &Path, linker: &Path, target_arch: &str) -> Result<PathBuf> {
    let toolchain = pinned_toolchain(workspace)?;
    let mut command = match env::var_os("RUSTUP_HOME").is_some() || find_in_path("rustup").is_some() {
        true => {
            let mut command = Command::new("rustup");
            command.args(["run", &toolchain, "cargo"]);
            command
        }
        false => Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))),
    };
    let rust_flags = [
        format!("--cfg=bpf_target_arch=\"{target_arch}\""),
        // BTF (function and line information) is made from debug information.
        String::from("-Cdebuginfo=2"),
        // Atomic operations with a result (cmpxchg, fetch_add) need the third version of the instruction set.
        String::from("-Ctarget-cpu=v3"),
        format!("-Clinker={}", linker.display()),
        String::from("-Clink-arg=--btf"),
    ];
    command
        .current_dir(workspace)
        .args(["build", "--package", "riptrace-ebpf", "--bins", "--release", "--target", TARGET])
        .args(["-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    // What cargo sets for this script belongs to the outer build: another compiler, clippy's driver, another target.
    for variable in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(variable);
    }
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "building the kernel side failed ({}); if `core` or the toolchain is missing, run `make setup`\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(target_dir.join(TARGET).join("release/riptrace"))
}

/// The channel that `rust-toolchain.toml` names.
fn pinned_toolchain(workspace: &Path) -> Result<String> {
    let path = workspace.join("rust-toolchain.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("channel")?.trim().strip_prefix('=').map(str::trim))
        .map(|channel| channel.trim_matches('"').to_owned())
        .with_context(|| format!("{} names no channel", path.display()))
}

/// bpf-linker: where `make setup` puts it (`tools/bin` of the target directory), else in `PATH`.
fn find_linker(workspace: &Path, out_dir: &Path) -> Result<PathBuf> {
    let mut target_dirs = vec![workspace.join("target")];
    // OUT_DIR is <target>/[<triple>/]<profile>/build/<package>/out.
    target_dirs.extend(out_dir.ancestors().skip(3).take(3).map(Path::to_owned));
    // A linked worktree shares the tools of the main checkout: `.git` names <main>/.git/worktrees/<name>.
    if let Ok(link) = fs::read_to_string(workspace.join(".git"))
        && let Some(git_dir) = link.strip_prefix("gitdir:")
        && let Some(main) = Path::new(git_dir.trim()).ancestors().nth(3)
    {
        target_dirs.push(main.join("target"));
    }
    target_dirs
        .iter()
        .map(|target_dir| target_dir.join("tools/bin/bpf-linker"))
        .find(|candidate| candidate.is_file())
        .or_else(|| find_in_path("bpf-linker"))
        .with_context(|| {
            format!(
                "bpf-linker is neither in {} nor in PATH; run `make setup`, or set RIPTRACE_EBPF_OBJECT to an object \
                 that was built elsewhere",
                workspace.join("target/tools/bin").display()
            )
        })
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
