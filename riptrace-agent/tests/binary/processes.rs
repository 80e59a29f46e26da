//! Running programs as `/proc` shows them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use riptrace_agent::binary::process::{self, Process};

use crate::build::{Builder, PLAIN, VARIANTS};

const NEWEST: &str = "go1.26.8";

/// A program that waits; it ends with the test.
struct Running {
    child: Child,
    /// Run-time address of `main.main`.
    main: u64,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut main = 0;
        for line in output.lines().map(Result::unwrap) {
            if let Some(address) = line.strip_prefix("main ") {
                main = u64::from_str_radix(address, 16).unwrap();
            }
            if line == "waiting" {
                break;
            }
        }
        assert!(main != 0);
        Self { child, main }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_boot_time_ns() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    (seconds * 1e9) as u64
}

#[test]
fn a_go_process_is_listed_with_its_facts() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let built = builder.build(&PLAIN).unwrap();
    let program = builder.directory().join("orders-service-with-a-long-name");
    fs::rename(built, &program).unwrap();
    let running = Running::start(Command::new(&program).arg("wait"));
    let (found, _) = process::all_go().unwrap();
    let (process, executable) = found.iter().find(|(process, _)| process.pid == running.pid()).unwrap();
    assert_eq!(process.name, "orders-service-with-a-long-name");
    assert_eq!(process.exe, program);
    assert_eq!(process.attach_path(), program);
    assert_eq!(process.found_at(), Some(program.clone()));
    assert_eq!(process.parent, std::process::id());
    assert_eq!(process.command_line, [program.to_str().unwrap(), "wait"]);
    assert!(!process.deleted && !process.has_ended());
    let age_ns = own_boot_time_ns().abs_diff(process.start_ns);
    assert!(age_ns < 60_000_000_000, "{age_ns}");
    assert_eq!(executable.build_info().unwrap().go_version, NEWEST);
    assert_eq!(executable.build_info().unwrap().main.as_ref().unwrap().path, "example.com/truth");
    assert!(found.iter().all(|(process, _)| process.pid != std::process::id()));
}

#[test]
fn a_position_independent_program_is_found_where_the_kernel_put_it() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    for variant in VARIANTS.iter().filter(|variant| !variant.stripped) {
        let Some(program) = builder.build(variant) else { continue };
        let running = Running::start(Command::new(&program).arg("wait"));
        let process = Process::open(running.pid()).unwrap();
        let executable = process.executable().unwrap();
        let bias = process::load_bias(process.pid, &executable).unwrap();
        let main = executable.pclntab().unwrap().function_named("main.main").unwrap().entry;
        assert_eq!(main + bias, running.main, "{}", variant.name);
        assert_eq!(bias != 0, executable.is_pie(), "{}", variant.name);
    }
}

#[test]
fn a_deleted_or_replaced_program_is_reached_through_the_process() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&PLAIN).unwrap();
    let running = Running::start(Command::new(&program).arg("wait"));
    let through = PathBuf::from(format!("/proc/{}/exe", running.pid()));

    let original = fs::read(&program).unwrap();
    fs::remove_file(&program).unwrap();
    let process = Process::open(running.pid()).unwrap();
    assert!(process.deleted);
    assert_eq!((process.name.as_str(), process.exe.as_path()), ("plain", program.as_path()));
    assert_eq!((process.attach_path(), process.found_at()), (through.clone(), None));
    assert!(process.executable().unwrap().is_go());

    fs::write(&program, original).unwrap();
    let process = Process::open(running.pid()).unwrap();
    assert_eq!((process.deleted, process.attach_path()), (true, through));
}

#[test]
fn a_program_in_another_mount_namespace_is_reached_through_the_process() {
    let Some(builder) = Builder::new(NEWEST) else { return };
    let program = builder.build(&PLAIN).unwrap();
    let hidden = builder.directory().join("hidden");
    fs::create_dir(&hidden).unwrap();
    let script = format!(
        "mount -t tmpfs none {hidden} && cp {program} {hidden}/orders && exec {hidden}/orders wait",
        hidden = hidden.display(),
        program = program.display()
    );
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c"]);
        unshare
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: mount namespaces can't be made here");
        return;
    }
    let running = Running::start(unshare().arg(script));
    let process = Process::open(running.pid()).unwrap();
    assert_eq!(process.exe, hidden.join("orders"));
    assert_eq!((process.name.as_str(), process.deleted), ("orders", false));
    assert_eq!(process.attach_path(), Path::new(&format!("/proc/{}/exe", running.pid())));
    let seen = process.found_at().unwrap();
    assert!(seen.starts_with(format!("/proc/{}/root", running.pid())) && seen.is_file());
    assert!(process.executable().unwrap().is_go());
}

#[test]
fn what_is_no_go_process_is_refused_by_name() {
    let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = sleep.id();
    let process = Process::open(pid).unwrap();
    assert_eq!(process.executable().unwrap_err().to_string(), format!("pid {pid} is not a Go program"));
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(process.has_ended());
    assert_eq!(
        process.executable().unwrap_err().to_string(),
        format!("process {pid} ended before it was armed")
    );
    assert_eq!(Process::open(pid).unwrap_err().to_string(), format!("no process {pid}"));
    // A kernel thread runs no program.
    if fs::read_link("/proc/2/exe").is_err() && Path::new("/proc/2").exists() {
        assert_eq!(Process::open(2).unwrap_err().to_string(), "pid 2 is not a Go program");
    }
}
