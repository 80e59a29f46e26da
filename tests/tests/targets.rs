//! Where a target may be hidden: in a container, on the system stack, in a plugin.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use riptrace_tests::{
    fixture::{Fixture, probed_line},
    go::{self, Mode, Version},
    requirements,
    riptrace::{Finished, Running, run},
};

const TIMEOUT: Duration = Duration::from_secs(60);
const CONTAINER: &str = "3f4e0b6d8a5c2e1f90a7b6c5d4e3f2a1908070605040302010f0e0d0c0b0a0ff";

/// Where cgroups can be made: the only hierarchy, or one of version 1 that holds nobody to anything.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"];

/// A cgroup named like a container's; removed when this is dropped, when nothing may be in it any more.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Option<Self> {
        HIERARCHIES.iter().map(Path::new).find_map(|hierarchy| {
            let path = hierarchy.join(format!("docker-{CONTAINER}.scope"));
            let made = hierarchy.join("cgroup.procs").exists() && fs::create_dir(&path).is_ok();
            (made || path.join("cgroup.procs").exists()).then_some(Self(path))
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // What was killed leaves it a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A script that joins the cgroup and runs the program in a mount namespace of its own, in a folder that nobody else
/// sees. It is the same process throughout.
fn contained(cgroup: &Cgroup, folder: &Path, program: &Path) -> PathBuf {
    let hidden = folder.join("hidden");
    fs::create_dir(&hidden).unwrap();
    let script = folder.join("contained.sh");
    let text = format!(
        "#!/bin/sh\necho $$ > {}/cgroup.procs && exec unshare --mount sh -c 'mount -t tmpfs none {hidden} && \
         cp {} {hidden}/orders && exec {hidden}/orders \"$@\"' sh \"$@\"\n",
        cgroup.0.display(),
        program.display(),
        hidden = hidden.display(),
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[test]
fn a_process_in_a_container_is_found_by_the_container_and_traced_through_its_own_file_system() {
    if !requirements::bpf("a container") {
        return;
    }
    let Some(cgroup) = Cgroup::make() else {
        return requirements::leave_out("a container", "no cgroup can be made here");
    };
    let version = Version::local().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = contained(&cgroup, folder.path(), &go::build(&version, Mode::Optimised).unwrap());
    let Ok(mut fixture) = Fixture::start(&script, &["tick"]) else {
        return requirements::leave_out("a container", "`unshare --mount` or `mount` does not work here");
    };
    let location = probed_line(&version, "bad.tick").unwrap().location();
    let short = &CONTAINER[..12];
    let arguments = ["probe", "--json", "--container", short, "--limit", "3", "--timeout", "30s", &location];
    let mut running = Running::start(&arguments).unwrap();
    running.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    let finished = running.wait(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    let hidden = folder.path().join("hidden/orders");
    assert!(!hidden.exists(), "the program is to be seen in its own namespace only");
    let attached = finished.of_kind("attached").next().unwrap();
    assert_eq!(attached["executable"], hidden.to_str().unwrap());
    for hit in finished.of_kind("hit") {
        assert_eq!(hit["pid"], fixture.pid());
        assert_eq!(hit["container"], CONTAINER);
        assert_eq!(hit["variables"][0]["name"], "i");
        assert_eq!(hit["variables"][0]["value"]["kind"], "int");
    }
    run(&["probe", "--container", "0123456789ab", &location], TIMEOUT)
        .unwrap()
        .expect(3, &["container 0123456789ab", "riptrace ps"]);
    drop(fixture);
}

/// Hits of a function of the runtime while the fixture runs.
fn runtime_hits(function: &str) -> Finished {
    let version = Version::local().unwrap();
    let program = go::build(&version, Mode::Optimised).unwrap();
    let mut fixture = Fixture::start(&program, &["tick"]).unwrap();
    let options = ["--limit", "20", "--timeout", "30s"];
    let mut running = Running::probe(fixture.pid(), &[function.to_owned()], &options).unwrap();
    running.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    let finished = running.wait(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    assert!(fixture.is_running(), "the program did not survive");
    finished
}

#[test]
fn code_on_the_system_stack_has_the_goroutine_that_it_runs_for_or_none() {
    if !requirements::bpf("the system stack") {
        return;
    }
    // The scheduler looks for work on g0, for no goroutine.
    for hit in runtime_hits("runtime.findRunnable").of_kind("hit") {
        assert_eq!(
            (&hit["system_stack"], hit.get("goroutine").and_then(|id| id.as_u64())),
            (&true.into(), None)
        );
    }
    // A goroutine that waits is put aside on g0 while it is still the thread's current one, by `mcall`.
    for hit in runtime_hits("runtime.park_m").of_kind("hit") {
        assert_eq!(hit["system_stack"], true, "{hit}");
        assert!(hit["goroutine"].as_u64().is_some_and(|id| id > 0), "{hit}");
    }
    // The same runtime on a goroutine's own stack.
    for hit in runtime_hits("runtime.chansend1").of_kind("hit") {
        assert_ne!(hit["system_stack"], true, "{hit}");
        assert!(hit["goroutine"].as_u64().is_some_and(|id| id > 0), "{hit}");
    }
}

/// A program that loads a plugin and calls it once for each line of input.
const HOST: &str = r#"package main

import (
	"bufio"
	"fmt"
	"os"
	"plugin"
)

func main() {
	p, err := plugin.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	add, err := p.Lookup("Add")
	if err != nil {
		panic(err)
	}
	in := bufio.NewReader(os.Stdin)
	fmt.Println(`{"ready":1}`)
	for i := 0; ; i++ {
		if _, err := in.ReadString('\n'); err != nil {
			return
		}
		for j := 0; j < 100; j++ {
			add.(func(int) int)(j)
		}
	}
}
"#;
const PLUGIN: &str = "package main

var total int

//go:noinline
func Add(n int) int {
	total += n // probed
	return total
}
";

#[test]
fn lines_of_a_plugin_are_refused_with_the_reason() {
    if !requirements::bpf("a plugin") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, source: &str, mode: &str| {
        let package = folder.path().join(name);
        fs::create_dir(&package).unwrap();
        fs::write(package.join("go.mod"), format!("module {name}\n\ngo 1.21\n")).unwrap();
        fs::write(package.join(format!("{name}.go")), source).unwrap();
        let output = folder.path().join(format!("{name}.out"));
        let status = Command::new("go")
            .args(["build", "-buildmode", mode, "-o"])
            .arg(&output)
            .current_dir(&package)
            .env("CGO_ENABLED", "1")
            .env("GOFLAGS", "-buildvcs=false")
            .status();
        status.is_ok_and(|status| status.success()).then_some(output)
    };
    let (Some(host), Some(plugin)) = (build("host", HOST, "exe"), build("adder", PLUGIN, "plugin")) else {
        return requirements::leave_out("a plugin", "plugins need a C compiler");
    };
    let fixture = Fixture::start(&host, &[plugin.to_str().unwrap()]).unwrap();
    let pid = fixture.pid().to_string();
    let finished = run(&["probe", "--pid", &pid, "--timeout", "10s", "adder.go:7"], TIMEOUT).unwrap();
    finished.expect(3, &["adder.go", "plugin", "adder.out"]);
}
