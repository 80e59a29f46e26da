//! What an agent says of its host and of the Go processes there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{id::AgentId, pattern};

/// Asks for a profile: [`super::subject::Endpoint::ProfileGet`]. It has no fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileRequest {}

/// A host and its Go processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// Facts of the host.
    pub host: HostFacts,
    /// Every Go process that the agent can see, by pid.
    pub processes: Vec<GoProcess>,
    /// Processes that could not be looked at.
    #[serde(default)]
    pub unreadable: u64,
}

/// Facts of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostFacts {
    /// Its name.
    pub host: String,
    /// This run of the agent.
    pub agent: AgentId,
    /// The agent's version.
    pub agent_version: String,
    /// `/proc/sys/kernel/random/boot_id`: names the kernel's clock.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Processors that are online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// One trap for many sites (`uprobe_multi`).
    #[serde(default)]
    pub uprobe_multi: bool,
    /// Labels that the agent was given (`zone=a`, a pod's node).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
}

impl Default for HostFacts {
    fn default() -> Self {
        Self {
            host: String::new(),
            agent: AgentId::from(""),
            agent_version: String::new(),
            boot_id: String::new(),
            kernel: String::new(),
            architecture: String::new(),
            cpus: 0,
            memory_bytes: 0,
            uprobe_multi: false,
            labels: Vec::new(),
        }
    }
}

/// A name with a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Label {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A Go process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GoProcess {
    /// Process id on the host.
    pub pid: u32,
    /// When it started, nanoseconds of the boot clock; with the pid it names the process for ever.
    pub start_ns: u64,
    /// Its name, as `riptrace ps` prints it.
    pub name: String,
    /// The service that it is an instance of, unless a rule of the server says otherwise ([`GoProcess::own_service`]).
    pub service: String,
    /// The executable's path in the process's own view.
    pub exe: String,
    /// The command line.
    #[serde(default)]
    pub args: Vec<String>,
    /// Go's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_version: Option<String>,
    /// Build id: Go's own, else the linker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Path of the main module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Version of the main module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_version: Option<String>,
    /// Path of the main package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// `vcs.revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcs_revision: Option<String>,
    /// `vcs.modified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcs_modified: Option<bool>,
    /// Container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Pod's unique id, where its control group names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `OTEL_SERVICE_NAME` of its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otel_service_name: Option<String>,
    /// `app.kubernetes.io/name`, where the agent was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_label: Option<String>,
    /// Why it can't be traced, or not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl GoProcess {
    /// What service this process is of by itself: `OTEL_SERVICE_NAME`, else `app.kubernetes.io/name`, else the last
    /// element of the main package's path (of a module of one program, that is the module's), else the name of the
    /// executable.
    #[must_use]
    pub fn own_service(&self) -> String {
        let given = [&self.otel_service_name, &self.app_label];
        if let Some(name) = given.into_iter().flatten().find(|name| !name.is_empty()) {
            return name.clone();
        }
        let of_path =
            |path: &String| path.rsplit('/').find(|part| !is_major_version(part)).map(str::to_owned);
        let of_exe = || self.exe.rsplit('/').next().unwrap_or_default().to_owned();
        let package = self.package.as_ref().filter(|path| *path != "command-line-arguments");
        package
            .or(self.module.as_ref())
            .and_then(of_path)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(of_exe)
    }
}

/// A rule of the server's settings that names the service of processes. In a pattern `*` stands for any text. Of several
/// rules the first that fits counts; it comes before what a process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRule {
    /// The service's name.
    pub service: String,
    /// A pattern for the executable's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// A pattern for the main module's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// A pattern for the process's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ServiceRule {
    /// Whether all its patterns fit; one without patterns fits nothing.
    #[must_use]
    pub fn fits(&self, process: &GoProcess) -> bool {
        let Self { service: _, exe, module, name } = self;
        let pairs = [
            (exe, process.exe.as_str()),
            (module, process.module.as_deref().unwrap_or_default()),
            (name, process.name.as_str()),
        ];
        pairs.iter().any(|(pattern, _)| pattern.is_some())
            && pairs
                .iter()
                .all(|(pattern, text)| pattern.as_ref().is_none_or(|pattern| pattern::matches(pattern, text)))
    }

    /// The service of a process under these rules.
    #[must_use]
    pub fn service_of<'a>(rules: &'a [Self], process: &'a GoProcess) -> &'a str {
        rules.iter().find(|rule| rule.fits(process)).map_or(&process.service, |rule| &rule.service)
    }
}

/// `v2` at the end of a module's path.
fn is_major_version(part: &str) -> bool {
    part.strip_prefix('v')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_what_says_it_best() {
        let mut process = GoProcess { exe: "/srv/bin/shop-orders".to_owned(), ..GoProcess::default() };
        assert_eq!(process.own_service(), "shop-orders");
        process.package = Some("command-line-arguments".to_owned());
        assert_eq!(process.own_service(), "shop-orders");
        process.module = Some("example.com/tool/v2".to_owned());
        assert_eq!(process.own_service(), "tool");
        process.package = Some("example.com/shop/orders".to_owned());
        assert_eq!(process.own_service(), "orders");
        process.app_label = Some("orders-app".to_owned());
        assert_eq!(process.own_service(), "orders-app");
        process.otel_service_name = Some("orders-otel".to_owned());
        assert_eq!(process.own_service(), "orders-otel");
    }

    #[test]
    fn a_rule_names_the_service_of_what_fits_all_its_patterns() {
        let rule = |exe: Option<&str>, module: Option<&str>| ServiceRule {
            service: "orders".to_owned(),
            exe: exe.map(str::to_owned),
            module: module.map(str::to_owned),
            name: None,
        };
        let process = GoProcess {
            exe: "/srv/bin/shop-orders".to_owned(),
            module: Some("example.com/shop".to_owned()),
            service: "own".to_owned(),
            ..GoProcess::default()
        };
        for (pattern, is) in [
            ("/srv/bin/shop-orders", true),
            ("/srv/*", true),
            ("*orders", true),
            ("/srv/*/shop-*", true),
            ("*s*o*s*", true),
            ("*", true),
            ("", false),
            ("/srv", false),
            ("*bin", false),
            ("/srv/bin/shop-orders*orders", false),
        ] {
            assert_eq!(rule(Some(pattern), None).fits(&process), is, "{pattern}");
        }
        assert!(!rule(None, None).fits(&process));
        assert!(!rule(Some("*"), Some("other*")).fits(&process));
        let rules = [rule(Some("/opt/*"), None), rule(None, Some("example.com/*"))];
        assert_eq!(ServiceRule::service_of(&rules, &process), "orders");
        assert_eq!(ServiceRule::service_of(&rules[..1], &process), "own");
    }
}
