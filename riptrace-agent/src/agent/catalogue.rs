//! The Go processes of this host, as far as the agent is to look at them: from `/proc`, kept so that looking again costs
//! little.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
};

use riptrace_common::wire::profile::GoProcess;

use super::{policy::Policy, processes::Heard, settings::Settings};
use crate::binary::{
    DebugOptions, Executable, FileIdentity, Process, cache::Cache, container::pod_of, process::ProcessError,
};

/// Files that are remembered as no Go programs.
const MAX_NOT_GO: usize = 8192;
/// Bytes of a process's environment that are looked at.
const MAX_ENVIRONMENT_BYTES: u64 = 1 << 20;

/// A Go process.
#[derive(Debug)]
pub struct Known {
    /// Facts of the process.
    pub process: Process,
    /// Its program.
    pub executable: Executable,
    /// What others are told of it.
    pub facts: GoProcess,
    /// Why the host's own rules forbid tracing it.
    pub forbidden: Option<String>,
    /// When its program began, by the kernel's clock, if the kernel told.
    pub began_ns: Option<u64>,
}

impl Known {
    /// Names its program's file: what uprobes are attached to.
    #[must_use]
    pub fn file(&self) -> FileIdentity {
        self.executable.identity()
    }
}

/// The processes at a moment.
pub type Snapshot = Arc<[Arc<Known>]>;

/// Which processes are looked at, and what is said of them.
#[derive(Clone, Debug)]
struct Rules {
    only_services: Vec<String>,
    only_executables: Vec<String>,
    policy: Policy,
    cache: Cache,
}

/// All of them, and what was found out about programs.
#[derive(Debug)]
pub struct Catalogue {
    rules: Rules,
    by_pid: BTreeMap<u32, Arc<Known>>,
    /// Processes that are not Go programs, or not to be looked at, by the file that they ran then.
    others: HashMap<u32, (u64, u64)>,
    /// Programs that some process runs, and what is wrong with their debug data.
    programs: HashMap<FileIdentity, Program>,
    /// Files that are no Go programs: a shell script starts the same few again and again.
    not_go: HashSet<FileIdentity>,
    unreadable: u64,
    revision: u64,
    snapshot: Snapshot,
}

#[derive(Clone, Debug)]
struct Program {
    executable: Executable,
    problem: Option<String>,
}

impl Catalogue {
    /// An empty one.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            rules: Rules {
                only_services: settings.only_services.clone(),
                only_executables: settings.only_executables.clone(),
                policy: settings.policy.clone(),
                cache: cache_of(settings),
            },
            by_pid: BTreeMap::new(),
            others: HashMap::new(),
            programs: HashMap::new(),
            not_go: HashSet::new(),
            unreadable: 0,
            revision: 0,
            snapshot: Arc::from([]),
        }
    }

    /// The processes, by pid.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Arc::clone(&self.snapshot)
    }

    /// Counts changes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Processes that could not be looked at.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Looks at all processes; whether anything changed.
    pub fn scan(&mut self) -> bool {
        let Ok(entries) = fs::read_dir("/proc") else { return false };
        let pids: HashSet<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        self.unreadable = 0;
        let mut changed = false;
        let gone: Vec<u32> = self.by_pid.keys().copied().filter(|pid| !pids.contains(pid)).collect();
        for pid in gone {
            changed |= self.by_pid.remove(&pid).is_some();
        }
        self.others.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            changed |= self.look(pid, None);
        }
        if changed {
            self.publish();
        }
        changed
    }

    /// Takes what the kernel told of processes; whether anything changed.
    pub fn hear(&mut self, heard: &Heard) -> bool {
        let mut changed = false;
        for pid in &heard.ended {
            self.others.remove(pid);
            changed |= self.by_pid.remove(pid).is_some();
        }
        for (pid, began_ns) in &heard.began {
            // Another program may have the same pid, and even be the same file.
            self.others.remove(pid);
            changed |= self.by_pid.remove(pid).is_some();
            changed |= self.look(*pid, Some(*began_ns));
        }
        if changed {
            self.publish();
        }
        changed
    }

    fn publish(&mut self) {
        let used: HashSet<FileIdentity> = self.by_pid.values().map(|known| known.file()).collect();
        self.programs.retain(|file, _| used.contains(file));
        self.revision += 1;
        self.snapshot = self.by_pid.values().cloned().collect();
    }

    /// Whether this process is another one than before.
    fn look(&mut self, pid: u32, began_ns: Option<u64>) -> bool {
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let metadata = match fs::metadata(&link) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.unreadable += u64::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                self.others.remove(&pid);
                return self.by_pid.remove(&pid).is_some();
            }
        };
        let file = (metadata.dev(), metadata.ino());
        if self.others.get(&pid) == Some(&file) {
            return false;
        }
        if let Some(known) = self.by_pid.get(&pid)
            && (known.file().device, known.file().inode) == file
            && !known.process.has_ended()
        {
            return false;
        }
        let before = self.by_pid.remove(&pid).is_some();
        match self.open(pid, FileIdentity::of(&metadata), began_ns) {
            Some(known) => {
                self.others.remove(&pid);
                self.by_pid.insert(pid, Arc::new(known));
                true
            }
            None => {
                self.others.insert(pid, file);
                before
            }
        }
    }

    fn open(&mut self, pid: u32, file: FileIdentity, began_ns: Option<u64>) -> Option<Known> {
        if self.not_go.contains(&file) {
            return None;
        }
        let process = Process::open(pid).ok()?;
        let program = match self.programs.get(&file) {
            Some(program) => program.clone(),
            None => {
                let executable = match process.executable() {
                    Ok(executable) => executable,
                    Err(ProcessError::NotGo { .. }) => {
                        if self.not_go.len() >= MAX_NOT_GO {
                            self.not_go.clear();
                        }
                        self.not_go.insert(file);
                        return None;
                    }
                    Err(_) => return None,
                };
                let mut options = DebugOptions::from_environment(None);
                options.found_at = process.found_at();
                options.cache = self.rules.cache.clone();
                let problem = executable.debug_status(&options).err().map(|missing| missing.to_string());
                let program = Program { executable, problem };
                self.programs.insert(program.executable.identity(), program.clone());
                program
            }
        };
        let mut facts = facts(&process, &program.executable);
        let path = facts.exe.clone();
        if !self.rules.are_for(&facts) {
            return None;
        }
        let forbidden = self.rules.policy.denies_executable(&path).map(|pattern| {
            format!(
                "{path} may not be traced on this host: the agent's own policy denies executables {pattern:?}"
            )
        });
        facts.problem = forbidden.clone().or(program.problem);
        Some(Known { process, executable: program.executable, facts, forbidden, began_ns })
    }
}

/// The cache that the settings name.
#[must_use]
pub fn cache_of(settings: &Settings) -> Cache {
    settings.cache.as_deref().map_or_else(Cache::of_user, Cache::at)
}

impl Rules {
    fn are_for(&self, facts: &GoProcess) -> bool {
        let base = facts.exe.rsplit('/').next().unwrap_or_default();
        let is_one = |names: &[String], fits: &dyn Fn(&str) -> bool| {
            names.is_empty() || names.iter().any(|name| fits(name))
        };
        is_one(&self.only_services, &|name| name == facts.service)
            && is_one(&self.only_executables, &|name| {
                if name.contains('/') { name == facts.exe } else { name == base }
            })
    }
}

fn facts(process: &Process, executable: &Executable) -> GoProcess {
    let info = executable.build_info();
    let main = info.and_then(|info| info.main.as_ref());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
    let mut facts = GoProcess {
        pid: process.pid,
        start_ns: process.start_ns,
        name: process.name.clone(),
        service: String::new(),
        exe: process.exe.display().to_string(),
        args: process.command_line.clone(),
        go_version: info.and_then(|info| text(&info.go_version)),
        build_id: executable.build_id().map(str::to_owned),
        module: main.and_then(|module| text(&module.path)),
        module_version: main.and_then(|module| text(&module.version)),
        package: info.and_then(|info| text(&info.path)),
        vcs_revision: info.and_then(|info| info.vcs_revision()).map(str::to_owned),
        vcs_modified: info.and_then(|info| info.vcs_modified()),
        container: process.container.clone(),
        pod: pod_of(&cgroups),
        otel_service_name: environment_variable(process.pid, "OTEL_SERVICE_NAME"),
        ..GoProcess::default()
    };
    facts.service = facts.own_service();
    facts
}

/// One variable of a process's environment, as it was when its program started. Nothing else of it is kept.
fn environment_variable(pid: u32, name: &str) -> Option<String> {
    use std::io::Read as _;

    let mut text = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut text).ok()?;
    variable_in(&text, name)
}

fn variable_in(environment: &[u8], name: &str) -> Option<String> {
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    let value = String::from_utf8_lossy(value).into_owned();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment = b"PATH=/bin\0XOTEL_SERVICE_NAME=x\0OTEL_SERVICE_NAME=orders=1\0EMPTY=\0";
        assert_eq!(variable_in(environment, "OTEL_SERVICE_NAME").as_deref(), Some("orders=1"));
        assert_eq!(variable_in(environment, "OTEL_SERVICE"), None);
        assert_eq!(variable_in(environment, "EMPTY"), None);
    }

    #[test]
    fn an_agent_looks_only_at_what_it_is_for() {
        let rules = |services: &[&str], executables: &[&str]| Rules {
            only_services: services.iter().map(|name| (*name).to_owned()).collect(),
            only_executables: executables.iter().map(|name| (*name).to_owned()).collect(),
            policy: Policy::default(),
            cache: Cache::none(),
        };
        let facts = GoProcess {
            service: "orders".to_owned(),
            exe: "/srv/bin/shop-orders".to_owned(),
            ..GoProcess::default()
        };
        for (services, executables, expected) in [
            (&[][..], &[][..], true),
            (&["payments", "orders"], &[], true),
            (&["payments"], &[], false),
            (&[], &["shop-orders"], true),
            (&[], &["/srv/bin/shop-orders"], true),
            (&[], &["/opt/shop-orders"], false),
            (&["payments"], &["shop-orders"], false),
        ] {
            assert_eq!(
                rules(services, executables).are_for(&facts),
                expected,
                "{services:?} {executables:?}"
            );
        }
    }
}
