//! Every variable that a Go program itself printed is captured exactly, or says why not: for each supported version of
//! Go, optimised and not, and for special ways of building.
//!
//! `RIPTRACE_FIXTURE=maps,chans` runs only these fixtures. Reports are kept under `target/fixtures/reports`.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::io::Write as _;

use riptrace_tests::{
    go::{Mode, Version},
    requirements,
    truth::{self, Tally},
};

/// The least share of exact variables in an optimised build, in percent. The rest has labels: most is what the compiler
/// keeps nowhere (constants, the type words of interfaces made of constants), since the fixtures are small.
const LEAST_SHARE: f64 = 65.0;

fn run(version: &Version, mode: Mode) -> Option<Tally> {
    let title = format!("go{}-{}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return None;
    }
    let tally = truth::run(version, mode).unwrap_or_else(|error| panic!("{title}: {error:#}"));
    let report = tally.report(&title);
    truth::keep_report(&title, &report).unwrap();
    let _ = std::io::stderr().lock().write_all(report.lines().next().unwrap_or_default().as_bytes());
    let _ = std::io::stderr().lock().write_all(b"\n");
    assert!(tally.failures.is_empty(), "{report}");
    assert!(tally.hits > 0, "nothing was compared");
    Some(tally)
}

fn version(text: &str) -> Version {
    if text == "local" { Version::local().unwrap() } else { Version(text.to_owned()) }
}

macro_rules! matrix {
    ($($name:ident: $version:literal $mode:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let mode = Mode::$mode;
                if let Some(tally) = run(&version($version), mode)
                    && mode.has_dwarf()
                    && !mode.keeps_everything()
                    && std::env::var_os("RIPTRACE_FIXTURE").is_none()
                {
                    assert!(tally.share() >= LEAST_SHARE, "only {:.1} % of the variables are exact", tally.share());
                }
            }
        )*
    };
}

matrix! {
    go1_21_optimised: "1.21.13" Optimised;
    go1_21_debug: "1.21.13" Debug;
    go1_22_optimised: "1.22.12" Optimised;
    go1_22_debug: "1.22.12" Debug;
    go1_23_optimised: "1.23.12" Optimised;
    go1_23_debug: "1.23.12" Debug;
    go1_24_optimised: "1.24.13" Optimised;
    go1_24_debug: "1.24.13" Debug;
    go1_25_optimised: "1.25.5" Optimised;
    go1_25_debug: "1.25.5" Debug;
    local_optimised: "local" Optimised;
    local_debug: "local" Debug;
    go1_27_optimised: "1.27.0" Optimised;
    go1_27_debug: "1.27.0" Debug;
    go1_27_pie: "1.27.0" Pie;
    go1_27_trimpath: "1.27.0" Trimpath;
    go1_27_without_dwarf: "1.27.0" NoDwarf;
    go1_27_stripped: "1.27.0" Stripped;
    go1_27_cgo: "1.27.0" Cgo;
}
