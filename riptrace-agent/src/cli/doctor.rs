//! `riptrace doctor`: what works on this machine, what is missing, how to get it.

use clap::Args;
use serde::Serialize;

use super::{Exit, Failure, output::Output};
use crate::probe::{Feature, Features, Kernel, KernelOptions};

/// Options of `riptrace doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 everything that RipTrace needs is there; 5 something is missing.")]
pub struct Arguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How much hangs on a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// There.
    Ok,
    /// RipTrace works without it, worse.
    Degraded,
    /// RipTrace does not work without it.
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

/// Checks and prints.
///
/// # Errors
///
/// Only those of the output.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let checks = checks(&Features::detect());
    let mut output = Output::default();
    for check in &checks {
        if arguments.json {
            output.json(check)?;
        } else {
            let mark = match check.verdict {
                Verdict::Ok => "ok      ",
                Verdict::Degraded => "degraded",
                Verdict::Missing => "MISSING ",
            };
            output.line(&format!("{mark}  {:<28} {}", check.what, check.found))?;
            if let Some(remedy) = check.remedy {
                output.line(&format!("          {:<28} → {remedy}", ""))?;
            }
        }
    }
    output.flush()?;
    let works = checks.iter().all(|check| check.verdict != Verdict::Missing);
    Ok(if works { Exit::Ok } else { Exit::Unable })
}

fn checks(features: &Features) -> Vec<Check> {
    let Features {
        kernel_release,
        uprobe_multi,
        uprobe_multi_process_scope,
        cookies,
        bpf_loop,
        ring_buffer,
        read_kernel,
        btf,
        task_fsbase_offset,
        capabilities,
        lockdown,
        perf_event_paranoid,
        possible_cpus,
    } = features;
    let mut checks = vec![plain("kernel", format!("{kernel_release}, {possible_cpus} CPUs"))];
    let has = |name: &str| capabilities.iter().any(|(capability, held)| *capability == name && *held);
    let missing: Vec<&str> =
        capabilities.iter().filter(|(_, held)| !held).map(|(capability, _)| *capability).collect();
    let enough = has("CAP_SYS_ADMIN") || (has("CAP_BPF") && has("CAP_PERFMON"));
    checks.push(Check {
        what: "privileges",
        verdict: if enough { Verdict::Ok } else { Verdict::Missing },
        found: if missing.is_empty() { "all".to_owned() } else { format!("without {}", missing.join(", ")) },
        remedy: (!enough).then_some(
            "run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE (before Linux 6.6 CAP_SYS_ADMIN)",
        ),
    });
    for (what, feature, remedy) in [
        ("BPF ring buffer", ring_buffer, "needs Linux 5.8"),
        ("bpf_loop", bpf_loop, "needs Linux 5.17; RipTrace supports 6.1 and newer"),
        ("uprobe cookies", cookies, "needs Linux 5.15"),
        (
            "reading kernel memory",
            read_kernel,
            "kernel lockdown in confidentiality mode forbids it: use integrity mode",
        ),
    ] {
        checks.push(feature_check(what, feature, Verdict::Missing, remedy));
    }
    checks.push(feature_check(
        "uprobe_multi links",
        uprobe_multi,
        Verdict::Degraded,
        "needs Linux 6.6; single links work, but many sites take long to attach and detach",
    ));
    checks.push(feature_check(
        "uprobe_multi by process",
        uprobe_multi_process_scope,
        Verdict::Degraded,
        "needs Linux 6.9.9; other processes of the same file trap too, and are filtered",
    ));
    checks.push(feature_check(
        "kernel type data (BTF)",
        btf,
        Verdict::Degraded,
        "needs CONFIG_DEBUG_INFO_BTF; goroutines in C and assembly code have no id",
    ));
    checks.push(plain(
        "thread pointer offset",
        task_fsbase_offset.map_or_else(|| "unknown".to_owned(), |offset| format!("task_struct + {offset}")),
    ));
    checks.push(plain("lockdown", lockdown.clone().unwrap_or_else(|| "off".to_owned())));
    checks.push(plain(
        "perf_event_paranoid",
        perf_event_paranoid.map_or_else(|| "unknown".to_owned(), |level| level.to_string()),
    ));
    checks.push(match Kernel::load(&KernelOptions::default()) {
        Ok(kernel) => plain(
            "loading the kernel side",
            format!("works, {} links", if kernel.uses_multi_links() { "uprobe_multi" } else { "single" }),
        ),
        Err(error) => Check {
            what: "loading the kernel side",
            verdict: Verdict::Missing,
            found: error.to_string(),
            remedy: None,
        },
    });
    checks
}

fn plain(what: &'static str, found: String) -> Check {
    Check { what, verdict: Verdict::Ok, found, remedy: None }
}

fn feature_check(what: &'static str, feature: &Feature, without: Verdict, remedy: &'static str) -> Check {
    match feature {
        Feature::Yes => plain(what, "yes".to_owned()),
        Feature::No => Check { what, verdict: without, found: "no".to_owned(), remedy: Some(remedy) },
        Feature::Unknown(reason) => Check {
            what,
            verdict: Verdict::Degraded,
            found: format!("can't be told: {reason}"),
            remedy: None,
        },
    }
}
