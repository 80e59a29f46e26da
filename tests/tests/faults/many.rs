//! Many services that start and stop under a tracepoint: what the agent needs stays bounded.

use std::fs;

use super::*;

/// Services that run at the same time, and how often others take their place: 200 in all.
const TOGETHER: usize = 20;
const WAVES: usize = 10;
/// Executions of the line by each.
const HITS: u64 = 10;
/// Kilobytes that the agent may have more at the end than after the first services.
const MORE_KIB: u64 = 32 * 1024;

/// What the agent needs of the machine.
#[derive(Clone, Copy, Debug)]
struct Needs {
    threads: u64,
    /// Links, programs and maps are among them.
    descriptors: usize,
    resident_kib: u64,
}

impl Needs {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a field")?;
            Ok(line.split_whitespace().next().context("a number")?.parse()?)
        };
        Ok(Self {
            threads: number("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            resident_kib: number("VmRSS:")?,
        })
    }
}

#[test]
fn two_hundred_services_that_come_and_go_leave_nothing_behind() -> Result<()> {
    let Some(mut scene) = Scene::start("services-come-and-go")? else { return Ok(()) };
    let program = meter::program()?;
    let pids = |scene: &Scene| -> Result<Vec<u32>> {
        let hosts = scene.status()?.hosts;
        let states = hosts.into_iter().filter_map(|host| host.state);
        Ok(states.flat_map(|state| state.bindings).flat_map(|binding| binding.pids).collect())
    };
    let mut truth = scene.meter.run(HITS, 0)?;
    let mut first = None;
    for _ in 0..WAVES {
        let started = (0..TOGETHER).map(|_| Meter::start(&program, &scene.service));
        let mut meters = started.collect::<Result<Vec<_>>>()?;
        wait(|| {
            let traced = pids(&scene)?;
            Ok(meters.iter().all(|meter| traced.contains(&meter.pid())).then_some(()))
        })
        .context("waiting for the services to be traced")?;
        for meter in &mut meters {
            truth += meter.run(HITS, 0)?;
        }
        drop(meters);
        wait(|| Ok((pids(&scene)?.len() == 1).then_some(()))).context("waiting for them to be gone")?;
        first.get_or_insert(Needs::of(scene.agent()?.pid())?);
    }
    let status = scene.wait_accounted(truth)?;
    ensure!(status.losses.total() == 0, "{:?}", status.losses);
    let (first, last) = (first.context("no wave")?, Needs::of(scene.agent()?.pid())?);
    println!("after {TOGETHER} services: {first:?}; after {}: {last:?}", TOGETHER * WAVES);
    // Threads that read programs end by themselves; connections may be a few more at one moment than at another.
    ensure!(last.threads <= first.threads + 2, "{first:?} {last:?}");
    ensure!(last.descriptors <= first.descriptors + 4, "{first:?} {last:?}");
    ensure!(last.resident_kib <= first.resident_kib + MORE_KIB, "{first:?} {last:?}");
    scene.check_story(truth)
}
