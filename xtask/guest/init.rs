//! Process 1 of the machines of `cargo xtask kernels`: mounts what the tests look at, runs them, says how it went in
//! one line, and switches the machine off. Compiled by `rustc` alone, static, without any dependency.

use std::{ffi::CString, fs, process::Command};

unsafe extern "C" {
    fn mount(source: *const i8, target: *const i8, kind: *const i8, flags: u64, data: *const i8) -> i32;
    fn reboot(how: i32) -> i32;
    fn sync();
}

/// `LINUX_REBOOT_CMD_POWER_OFF` (include/uapi/linux/reboot.h).
const POWER_OFF: i32 = 0x4321_fedc;

fn main() {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
        ("devtmpfs", "/dev"),
        ("securityfs", "/sys/kernel/security"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        let _ = fs::create_dir_all(target);
        if let (Ok(kind), Ok(target)) = (CString::new(kind), CString::new(target)) {
            // SAFETY: valid strings; a file system that this kernel lacks is an error that does not matter.
            unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
        }
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let filter = command_line.split_whitespace().filter_map(|word| word.strip_prefix("riptrace.filter="));
    let status = Command::new("/kernel-test")
        .arg("--test-threads=1")
        .args(filter)
        .env("CI", "true")
        .env("PATH", "/")
        .env("RIPTRACE_TEST_EMULATED", "1")
        .env("RIPTRACE_TEST_TARGETS", "/targets")
        .status();
    match status {
        Ok(status) if status.success() => println!("\nVERDICT {} passed", release.trim()),
        Ok(status) => println!("\nVERDICT {} failed: {status}", release.trim()),
        Err(error) => println!("\nVERDICT {} failed: {error}", release.trim()),
    }
    // SAFETY: no arguments that matter; this is process 1, and nothing else runs.
    unsafe {
        sync();
        reboot(POWER_OFF);
    }
}
