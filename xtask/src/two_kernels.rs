//! `cargo xtask two-kernels`: one request chain over two hosts that have kernels, and so clocks, of their own: this
//! machine, and one in QEMU whose wall clock is set wrong by minutes. Each has an agent; one server orders what they see.
//! The services' own logic is the judge of the order: an order is reserved (here), then charged (there), then settled
//! (here). The judge of the times is a measurement of both kernels' clocks beside agents, broker and server.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    fleet::{self, Fleet, StoryHit},
    guest::{self, Archive, Kernel},
    guest_clock::{self, Truth},
    kernels, sh,
};

/// What is run.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernel of the other machine, as Debian names its packages.
    #[arg(long, default_value = kernels::FLOOR)]
    release: String,
    /// Orders that are placed.
    #[arg(long, default_value_t = ORDERS)]
    orders: u32,
    /// How far the other machine's wall clock is behind, in minutes.
    #[arg(long, default_value_t = MINUTES_BEHIND)]
    minutes_behind: u64,
    /// Show what the other machine prints.
    #[arg(long)]
    verbose: bool,
}

impl Options {
    /// With the oldest kernel that is supported.
    pub(crate) fn floor() -> Self {
        Self {
            release: kernels::FLOOR.to_owned(),
            orders: ORDERS,
            minutes_behind: MINUTES_BEHIND,
            verbose: false,
        }
    }
}

const ORDERS: u32 = 20;
const MINUTES_BEHIND: u64 = 17;
/// The hosts' names.
const HERE: &str = "here";
const THERE: &str = "there";
/// What QEMU's user-mode network calls this machine.
const THIS_MACHINE: &str = "10.0.2.2";
/// Where payments listens in the other machine.
const PAYMENTS_PORT: u16 = 8080;
/// Where process 1 tells the clocks of the other machine (`guest/init.rs`).
const CLOCKS_PORT: u16 = 8079;
/// How long an emulated machine may take to boot and to load the kernel side.
const BOOT_WITHIN: Duration = Duration::from_secs(240);
/// How long it may take to arm a tracepoint.
const ARM_WITHIN: Duration = Duration::from_secs(120);

pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel = guest::obtain(&options.release)?;
    let work = sh::target().join("two-kernels");
    fs::create_dir_all(&work)?;
    let services = fleet::build_services(&work, &[("CGO_ENABLED", "0")])?;
    let agent = guest::binaries()?.riptrace;
    let programs = fleet::Programs::debug()?;
    let begin = Instant::now();
    let fleet = Fleet::start(&programs, &work.join("data"))?;
    let initramfs = initramfs(&work, &agent, &services, &fleet, &kernel)?;

    let machine = boot(&kernel, &initramfs, options, &work.join("console.log"))?;
    let _here = fleet.agent(HERE, &["orders", "inventory"])?;
    let inventory = fleet::start(&services, "inventory", &[])?;
    let payments = format!("http://127.0.0.1:{}", machine.payments_port);
    let orders =
        fleet::start(&services, "orders", &["-inventory", &inventory.address, "-payments", &payments])?;
    let console = || format!("the machine's console is in {}", work.join("console.log").display());
    fleet.wait_for_services(&["orders", "inventory", "payments"], BOOT_WITHIN).with_context(console)?;
    sh::say(&format!("both hosts are there after {} s", begin.elapsed().as_secs()));

    let session = fleet.session(&fleet::marked_tracepoints()?, ARM_WITHIN).with_context(console)?;
    let before = guest_clock::read(machine.clocks).with_context(console)?;
    fleet::place_orders(&services, &orders.address, options.orders)?;
    let truth = Truth::new(before, guest_clock::read(machine.clocks).with_context(console)?)?;
    let hits = fleet.story(&session, options.orders as usize)?;
    let mut traces: Vec<&str> = hits.iter().map(|hit| hit.hit.trace_id.as_str()).collect();
    traces.sort_unstable();
    traces.dedup();
    ensure!(
        traces.first().is_some_and(|trace| !trace.is_empty()),
        "there are hits that no trace is known of"
    );
    // Each trace by itself: its neighbours then have certificates of their own.
    let stories = traces
        .iter()
        .map(|trace| fleet.hits(&[&session, "--trace-id", trace]))
        .collect::<Result<Vec<_>>>()?;
    drop(machine);
    let findings = check(&stories, &truth, options)?;
    sh::say(&format!("{} and this machine, {} s: {findings}", kernel.release(), begin.elapsed().as_secs()));
    Ok(())
}

/// Every order's story must be the one that the services' code makes, and every time as exact as it says, whatever the
/// hosts' wall clocks say.
fn check(stories: &[Vec<StoryHit>], truth: &Truth, options: &Options) -> Result<String> {
    let (mut charged, mut wrong_by_wall_clocks) = (0, 0);
    let mut certificates = BTreeMap::<&str, usize>::new();
    let mut errors = Vec::new();
    let mut widest_ns = 0;
    for story in stories {
        let services = services(story);
        ensure!(
            is_causal(&services),
            "trace {} is told in the order {services:?}",
            story.first().map_or("", |hit| &hit.hit.trace_id)
        );
        for hit in story.iter().skip(1) {
            *certificates.entry(hit.hit.certificate.as_deref().unwrap_or("none")).or_default() += 1;
        }
        for hit in story {
            widest_ns = widest_ns.max(hit.hit.uncertainty_ns.context("a hit without a coordinated time")?);
        }
        if let [reserved, paid, _] = story.as_slice() {
            charged += 1;
            errors.push(clock_error_ns(reserved, paid, truth)?.abs());
            let mut by_wall_clocks = story.clone();
            by_wall_clocks.sort_by_key(|hit| wall_ns(hit, truth));
            wrong_by_wall_clocks += usize::from(!is_causal(&self::services(&by_wall_clocks)));
        }
    }
    errors.sort_unstable();
    let (Some(median), Some(worst)) = (errors.get(errors.len() / 2), errors.last()) else {
        bail!("no order was charged: the other host had no part in any story");
    };
    // Else this could not tell a good order from a bad one.
    ensure!(
        wrong_by_wall_clocks == charged || options.minutes_behind == 0,
        "by the hosts' wall clocks only {wrong_by_wall_clocks} of {charged} stories would be wrong"
    );
    let unproven = ["ambiguous", "none"].iter().filter_map(|kind| certificates.get(kind)).sum::<usize>();
    ensure!(unproven == 0, "{unproven} neighbours of one request's story are unproven: {certificates:?}");
    let certificates: Vec<String> =
        certificates.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let milliseconds = |ns: i64| ns as f64 / 1e6;
    Ok(format!(
        "all {} stories are causal, {charged} of them over both hosts; by the hosts' wall clocks (set {} min apart, measured \
         {:.3} s) {wrong_by_wall_clocks} would be wrong; offset between the hosts as the server estimated it against the \
         measured one: median error {:.3} ms, greatest {:.3} ms (measured ± {:.3} ms, drift {:.1} ppm); greatest uncertainty \
         of a hit's time {:.3} ms; certificates: {}",
        stories.len(),
        options.minutes_behind,
        truth.behind_ns() as f64 / 1e9,
        milliseconds(*median),
        milliseconds(*worst),
        milliseconds(truth.uncertainty_ns()),
        truth.drift_ppm(),
        milliseconds(widest_ns),
        certificates.join(", "),
    ))
}

fn services(story: &[StoryHit]) -> Vec<&str> {
    story.iter().map(|hit| hit.service.as_str()).collect()
}

/// What inventory refuses is not charged; what it cannot read does not even get to the tracepoint there.
fn is_causal(services: &[&str]) -> bool {
    matches!(services, ["inventory", "payments", "orders"] | ["inventory", "orders"] | ["orders"])
}

/// What the host's wall clock said at the hit.
fn wall_ns(hit: &StoryHit, truth: &Truth) -> i64 {
    if hit.hit.host == THERE {
        truth.wall_there_ns(hit.hit.ktime_ns)
    } else {
        truth.wall_here_ns(hit.hit.ktime_ns)
    }
}

/// How much longer than in truth it was from a hit here to one there, by their coordinated times. An error that is greater
/// than they admit is one of the clocks' estimates.
fn clock_error_ns(here: &StoryHit, there: &StoryHit, truth: &Truth) -> Result<i64> {
    let (here, there) = (&here.hit, &there.hit);
    ensure!(here.host == HERE && there.host == THERE, "the hits are of {} and {}", here.host, there.host);
    let elapsed_ns = truth.here_of_there(there.ktime_ns) - here.ktime_ns;
    let error_ns = (there.time_ns - here.time_ns) - elapsed_ns;
    let admitted_ns =
        here.uncertainty_ns.unwrap_or(0) + there.uncertainty_ns.unwrap_or(0) + truth.uncertainty_ns();
    ensure!(
        error_ns.abs() <= admitted_ns,
        "trace {}: the coordinated times are {error_ns} ns off, they admit {admitted_ns} ns",
        here.trace_id
    );
    Ok(error_ns)
}

/// The machine's files: an agent, the payments service, and what connects them with this machine.
fn initramfs(
    work: &Path,
    agent: &Path,
    services: &Path,
    fleet: &Fleet<'_>,
    kernel: &Kernel,
) -> Result<PathBuf> {
    let stripped = guest::stripped(agent, work.join("riptrace"))?;
    let init = guest::init(work)?;
    let path = work.join("initramfs");
    let mut archive = Archive::create(&path)?;
    for folder in ["modules", "proc", "sys", "tmp", "dev"] {
        archive.folder(folder)?;
    }
    archive.program("init", &init)?;
    archive.program("riptrace", &stripped)?;
    archive.program("payments", &services.join("payments"))?;
    let mut order = String::new();
    for module in &kernel.network_modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("modules/{name}"), module)?;
        order.push_str(&format!("{name}\n"));
    }
    archive.text("modules/order", &order)?;
    let nats = fleet.nats_url.replace("127.0.0.1", THIS_MACHINE);
    let commands = format!(
        "/payments -addr 0.0.0.0:{PAYMENTS_PORT}\n/riptrace agent --nats {nats} --host-name {THERE} --only-service payments --state /tmp/agent\n"
    );
    archive.text("run", &commands)?;
    archive.finish()?;
    Ok(path)
}

/// A machine that is switched off when it is dropped.
struct Machine {
    qemu: Child,
    /// Payments' port on this machine.
    payments_port: u16,
    /// Who tells the machine's clocks.
    clocks: SocketAddr,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn boot(kernel: &Kernel, initramfs: &Path, options: &Options, console: &Path) -> Result<Machine> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let wrong = sh::output(Command::new("date").args([
        "-u",
        "-d",
        &format!("@{}", now.saturating_sub(60 * options.minutes_behind)),
        "+%Y-%m-%dT%H:%M:%S",
    ]))?;
    sh::say(&format!("booting {} with a clock that says {wrong}", kernel.release()));
    // Free ports; nobody takes them in the moment until QEMU does.
    let payments_port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let clocks = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let forwards = format!(
        "user,id=net,hostfwd=tcp:127.0.0.1:{payments_port}-:{PAYMENTS_PORT},hostfwd=udp:{clocks}-:{CLOCKS_PORT}"
    );
    let mut qemu = guest::machine(kernel, initramfs, "")
        .args(["-netdev", &forwards, "-device", "virtio-net-pci,netdev=net,romfile="])
        .args(["-rtc", &format!("base={wrong}")])
        .spawn()
        .context("starting qemu-system-x86_64")?;
    let output = qemu.stdout.take().context("a pipe")?;
    let mut log = fs::File::create(console)?;
    let verbose = options.verbose;
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let _ = writeln!(log, "{line}");
            if verbose {
                eprintln!("there: {line}");
            }
        }
    });
    Ok(Machine { qemu, payments_port, clocks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fleet::Hit, guest_clock::Reading};

    const BEHIND_NS: i64 = 1_000_000_000;

    /// The other kernel's monotonic clock is 5 µs behind, its wall clock a second.
    fn truth() -> Truth {
        let reading = Reading {
            ktime_ns: 0,
            offset_ns: 5_000,
            uncertainty_ns: 10,
            realtime_minus_ktime_ns: 5_000 - BEHIND_NS,
        };
        Truth::of(reading, Reading { ktime_ns: 1_000_000, ..reading }, 0)
    }

    /// A hit at a moment of this machine's clock, its coordinated time being so far off.
    fn hit(service: &str, at_ns: i64, off_ns: i64, certificate: Option<&str>) -> StoryHit {
        let is_there = service == "payments";
        StoryHit {
            service: service.to_owned(),
            finality: "final".to_owned(),
            hit: Hit {
                host: if is_there { THERE } else { HERE }.to_owned(),
                trace_id: "1".to_owned(),
                certificate: certificate.map(str::to_owned),
                time_ns: at_ns + off_ns,
                uncertainty_ns: Some(100),
                ktime_ns: if is_there { at_ns - 5_000 } else { at_ns },
            },
        }
    }

    fn story(off_ns: i64, certificate: &str) -> Vec<StoryHit> {
        vec![
            hit("inventory", 10_000, 0, None),
            hit("payments", 20_000, off_ns, Some(certificate)),
            hit("orders", 30_000, 0, Some("reply")),
        ]
    }

    fn verdict(story: Vec<StoryHit>) -> Result<String, String> {
        check(&[story], &truth(), &Options::floor()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_story_in_order_with_true_times_passes() {
        let said = verdict(story(-90, "message")).unwrap();
        assert!(said.contains("measured 1.000 s) 1 would be wrong"), "{said}");
        assert!(said.contains("certificates: message 1, reply 1"), "{said}");
    }

    #[test]
    fn what_is_wrong_does_not_pass() {
        let mut turned = story(0, "message");
        turned.swap(0, 1);
        assert!(verdict(turned).unwrap_err().contains("is told in the order"));
        assert!(verdict(story(300, "message")).unwrap_err().contains("300 ns off, they admit 210 ns"));
        assert!(verdict(story(0, "ambiguous")).unwrap_err().contains("unproven"));
        assert!(verdict(vec![hit("orders", 0, 0, None)]).unwrap_err().contains("no order was charged"));
    }

    #[test]
    fn clocks_that_could_not_tell_a_wrong_order_do_not_pass() {
        let truth = Truth::of(
            Reading { ktime_ns: 0, offset_ns: 5_000, uncertainty_ns: 10, realtime_minus_ktime_ns: 5_000 },
            Reading { ktime_ns: 1, offset_ns: 5_000, uncertainty_ns: 10, realtime_minus_ktime_ns: 5_000 },
            0,
        );
        let error = check(&[story(0, "message")], &truth, &Options::floor()).unwrap_err();
        assert!(format!("{error:#}").contains("only 0 of 1 stories would be wrong"));
    }
}
