//! `cargo xtask two-kernels`: one request chain over two hosts that have kernels, and so clocks, of their own: this
//! machine, and one in QEMU whose wall clock is set wrong by minutes. Each has an agent; one server orders what they see.
//! The services' own logic is the judge: an order is reserved (here), then charged (there), then settled (here).

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    fleet::{self, Fleet, StoryHit},
    guest::{self, Archive, MUSL},
    sh,
};

/// What is run.
#[derive(Args)]
pub(crate) struct Options {
    /// The kernel of the other machine, as Debian names its packages.
    #[arg(long, default_value = "6.1")]
    release: String,
    /// Orders that are placed.
    #[arg(long, default_value_t = 20)]
    orders: u32,
    /// How wrong the other machine's wall clock is, in minutes.
    #[arg(long, default_value_t = 17)]
    minutes_behind: u64,
    /// Show what the other machine prints.
    #[arg(long)]
    verbose: bool,
}

/// What QEMU's user-mode network calls this machine.
const THIS_MACHINE: &str = "10.0.2.2";
/// Where payments listens in the other machine.
const PAYMENTS_PORT: u16 = 8080;
/// How long an emulated machine may take to boot and to load the kernel side.
const BOOT_WITHIN: Duration = Duration::from_secs(240);

pub(crate) fn run(options: &Options) -> Result<()> {
    sh::apt("qemu-system-x86_64", &["qemu-system-x86"])?;
    let work = sh::target().join("two-kernels");
    fs::create_dir_all(&work)?;
    let Some(kernel) = guest::kernel(&options.release)? else {
        bail!("no package linux-image-{}…-cloud-amd64 within apt's reach", options.release);
    };
    let services = fleet::build_services(&work, &[("CGO_ENABLED", "0")])?;
    let agent = static_agent()?;
    let programs = fleet::Programs::debug()?;
    let fleet = Fleet::start(&programs, &work.join("data"))?;
    let initramfs = initramfs(&work, &agent, &services, &fleet, &kernel)?;

    let port = free_port()?;
    let begin = Instant::now();
    let machine = boot(&kernel.image, &initramfs, port, options, &work.join("console.log"))?;
    let _here = fleet.agent("here", &["orders", "inventory"])?;
    let inventory = fleet::start(&services, "inventory", &[])?;
    let payments = format!("http://127.0.0.1:{port}");
    let orders =
        fleet::start(&services, "orders", &["-inventory", &inventory.address, "-payments", &payments])?;
    fleet.wait_for_services(&["orders", "inventory", "payments"], BOOT_WITHIN).with_context(|| {
        format!("the machine in QEMU did not join; its console is in {}", work.join("console.log").display())
    })?;
    sh::say(&format!("both hosts are there after {} s", begin.elapsed().as_secs()));

    let session = fleet.session(&fleet::marked_tracepoints()?)?;
    fleet::place_orders(&services, &orders.address, options.orders)?;
    let hits = fleet.story(&session, options.orders as usize)?;
    drop(machine);
    check(&hits, options)
}

/// Every order's story must be the one that the services' code makes, whatever the clocks said.
fn check(hits: &[StoryHit], options: &Options) -> Result<()> {
    let mut traces: Vec<&str> = hits.iter().map(|hit| hit.trace_id.as_str()).collect();
    traces.sort_unstable();
    traces.dedup();
    let (mut charged, mut raw_inversions, mut unproven) = (0, 0, 0);
    for trace in &traces {
        let story: Vec<&StoryHit> = hits.iter().filter(|hit| hit.trace_id == *trace).collect();
        let services: Vec<&str> = story.iter().map(|hit| hit.service.as_str()).collect();
        match services.as_slice() {
            ["inventory", "payments", "orders"] => charged += 1,
            // What inventory refuses is not charged.
            ["inventory", "orders"] | ["orders"] => {}
            other => bail!("trace {trace} is told in the order {other:?}"),
        }
        unproven += story.iter().skip(1).filter(|hit| hit.certificate == "ambiguous").count();
        raw_inversions += story.windows(2).filter(|pair| pair[0].wall_time_ns > pair[1].wall_time_ns).count();
    }
    let widest = hits.iter().filter_map(|hit| hit.uncertainty_ns).max().unwrap_or(0);
    sh::say(&format!(
        "{} orders, {charged} of them charged on the other host; all stories causal; {raw_inversions} neighbours would \
         stand the wrong way round by their hosts' wall clocks ({} minutes apart); {unproven} neighbours unproven; \
         greatest uncertainty of a time {:.3} ms",
        traces.len(),
        options.minutes_behind,
        widest as f64 / 1e6,
    ));
    if charged == 0 {
        bail!("no order was charged: the other host had no part in any story");
    }
    if unproven > 0 {
        bail!("{unproven} neighbours of one request's story are unproven");
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// `riptrace` as a static binary.
fn static_agent() -> Result<PathBuf> {
    guest::musl()?;
    sh::say("building riptrace as a static binary");
    sh::run(sh::command("cargo").args([
        "build",
        "--quiet",
        "--package",
        "riptrace-agent",
        "--target",
        MUSL,
    ]))?;
    Ok(sh::target().join(MUSL).join("debug/riptrace"))
}

/// The machine's files: an agent, the payments service, and what connects them with this machine.
fn initramfs(
    work: &Path,
    agent: &Path,
    services: &Path,
    fleet: &Fleet<'_>,
    kernel: &guest::Kernel,
) -> Result<PathBuf> {
    let stripped = work.join("riptrace");
    sh::run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(agent))?;
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
        "/payments -addr 0.0.0.0:{PAYMENTS_PORT}\n/riptrace agent --nats {nats} --host-name there --only-service payments --state /tmp/agent\n"
    );
    archive.text("run", &commands)?;
    archive.finish()?;
    Ok(path)
}

/// A machine that is switched off when it is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(kernel: &Path, initramfs: &Path, port: u16, options: &Options, console: &Path) -> Result<Machine> {
    let behind = Duration::from_secs(60 * options.minutes_behind);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let wrong = sh::output(Command::new("date").args([
        "-u",
        "-d",
        &format!("@{}", (now - behind).as_secs()),
        "+%Y-%m-%dT%H:%M:%S",
    ]))?;
    sh::say(&format!("booting a machine whose clock says {wrong}"));
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{PAYMENTS_PORT}")])
        .args(["-device", "virtio-net-pci,netdev=net,romfile="])
        .args(["-rtc", &format!("base={wrong}")])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting qemu-system-x86_64")?;
    let output = child.stdout.take().context("a pipe")?;
    let mut log = fs::File::create(console)?;
    let verbose = options.verbose;
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let _ = std::io::Write::write_all(&mut log, format!("{line}\n").as_bytes());
            if verbose {
                eprintln!("there: {line}");
            }
        }
    });
    Ok(Machine(child))
}
