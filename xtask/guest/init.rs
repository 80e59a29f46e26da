//! Process 1 of the machines that `cargo xtask` boots: mounts what is looked at there, then either runs the kernel tests,
//! says how they went in one line and switches the machine off, or (where there is a file `/run`) makes a network and runs
//! the commands of that file, one a line, until the machine is ended from outside. It then also tells its clocks to who
//! asks. Compiled by `rustc` alone, static, without any dependency.

use std::{
    ffi::CString,
    fs, io,
    net::UdpSocket,
    os::{fd::AsRawFd, raw::c_long},
    process::Command,
};

unsafe extern "C" {
    fn mount(source: *const i8, target: *const i8, kind: *const i8, flags: u64, data: *const i8) -> i32;
    fn reboot(how: i32) -> i32;
    fn sync();
    fn socket(family: i32, kind: i32, protocol: i32) -> i32;
    fn ioctl(file: i32, request: i32, argument: *mut u8) -> i32;
    fn syscall(number: c_long, ...) -> c_long;
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
}

/// `LINUX_REBOOT_CMD_POWER_OFF` (include/uapi/linux/reboot.h).
const POWER_OFF: i32 = 0x4321_fedc;

/// `finit_module` on x86-64.
const SYS_FINIT_MODULE: c_long = 313;
/// `MODULE_INIT_COMPRESSED_FILE` (include/uapi/linux/module.h).
const COMPRESSED_FILE: i32 = 4;
const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
/// Where the machine tells its clocks.
const CLOCKS_PORT: u16 = 8079;
const AF_INET: u16 = 2;
const SOCK_DGRAM: i32 = 2;
/// Network interfaces (include/uapi/linux/sockios.h).
const SIOCSIFFLAGS: i32 = 0x8914;
const SIOCSIFADDR: i32 = 0x8916;
const SIOCSIFNETMASK: i32 = 0x891c;
const IFF_UP: u16 = 1;
/// `struct ifreq`: a name, then a union.
const IFREQ_BYTES: usize = 40;
const IFREQ_NAME_BYTES: usize = 16;
/// What QEMU's user-mode network gives its guest.
const GUEST_ADDRESS: [u8; 4] = [10, 0, 2, 15];

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
    match fs::read_to_string("/run") {
        Ok(commands) => run_commands(&commands),
        Err(_) => run_tests(),
    }
    // SAFETY: no arguments that matter; this is process 1, and nothing else runs.
    unsafe {
        sync();
        reboot(POWER_OFF);
    }
}

/// Runs the tests and says how they went.
fn run_tests() {
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
}

/// Runs the commands side by side; what they print goes to the machine's console. Does not return while one of them runs.
fn run_commands(commands: &str) {
    network().unwrap_or_else(|error| println!("no network: {error}"));
    std::thread::spawn(|| tell_clocks().unwrap_or_else(|error| println!("the clocks are not told: {error}")));
    let mut children = Vec::new();
    for line in commands.lines() {
        let mut words = line.split_whitespace();
        let Some(program) = words.next() else { continue };
        match Command::new(program).args(words).env("PATH", "/").env("HOME", "/tmp").spawn() {
            Ok(child) => children.push(child),
            Err(error) => println!("{line}: {error}"),
        }
    }
    for mut child in children {
        let status = child.wait();
        println!("a command ended: {status:?}");
    }
}

/// Answers each datagram with what it says, the monotonic clock when it came and now, and the real-time clock minus that.
fn tell_clocks() -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", CLOCKS_PORT))?;
    let mut question = [0; 64];
    loop {
        let (length, from) = socket.recv_from(&mut question)?;
        let came = clock_ns(CLOCK_MONOTONIC)?;
        let question = String::from_utf8_lossy(&question[..length]).into_owned();
        let realtime_minus_monotonic = {
            let before = clock_ns(CLOCK_MONOTONIC)?;
            let realtime = clock_ns(CLOCK_REALTIME)?;
            realtime - before - (clock_ns(CLOCK_MONOTONIC)? - before) / 2
        };
        let goes = clock_ns(CLOCK_MONOTONIC)?;
        socket.send_to(format!("{question} {came} {goes} {realtime_minus_monotonic}").as_bytes(), from)?;
    }
}

fn clock_ns(clock: i32) -> io::Result<i64> {
    let mut time = [0; 2];
    // SAFETY: `time` is a `struct timespec` of a 64-bit machine.
    check(unsafe { clock_gettime(clock, &raw mut time) }.into())?;
    Ok(time[0] * 1_000_000_000 + time[1])
}

/// Loads the network card's modules and gives `lo` and `eth0` their addresses.
fn network() -> io::Result<()> {
    for module in fs::read_to_string("/modules/order")?.lines() {
        let file = fs::File::open(format!("/modules/{module}"))?;
        let flags = if module.ends_with(".ko") { 0 } else { COMPRESSED_FILE };
        // SAFETY: an open file, an empty string of parameters, flags without arguments.
        check(unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), flags) })?;
    }
    // SAFETY: plain numbers.
    let socket = unsafe { socket(i32::from(AF_INET), SOCK_DGRAM, 0) };
    check(socket.into())?;
    for (name, address, mask) in
        [("lo", [127, 0, 0, 1], [255, 0, 0, 0]), ("eth0", GUEST_ADDRESS, [255, 255, 255, 0])]
    {
        for (request, value) in [(SIOCSIFADDR, address), (SIOCSIFNETMASK, mask)] {
            // `struct sockaddr_in`: family, port, address.
            let mut of_address = [0; 8];
            of_address[..2].copy_from_slice(&AF_INET.to_ne_bytes());
            of_address[4..].copy_from_slice(&value);
            configure(socket, name, request, &of_address)?;
        }
        configure(socket, name, SIOCSIFFLAGS, &IFF_UP.to_ne_bytes())?;
    }
    Ok(())
}

fn configure(socket: i32, name: &str, request: i32, value: &[u8]) -> io::Result<()> {
    let mut argument = [0; IFREQ_BYTES];
    argument[..name.len()].copy_from_slice(name.as_bytes());
    argument[IFREQ_NAME_BYTES..][..value.len()].copy_from_slice(value);
    // SAFETY: `argument` is a whole `struct ifreq`.
    check(unsafe { ioctl(socket, request, argument.as_mut_ptr()) }.into())
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
