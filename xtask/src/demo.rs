//! `make demo`: three Go services under load, and hits from a line of one of them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build, sh};

/// How much to show.
#[derive(Args)]
pub(crate) struct Options {
    /// Hits to print.
    #[arg(long, default_value_t = 10)]
    limit: u32,
    /// Probe nothing: leave the services under load until Ctrl-C, to be probed by hand.
    #[arg(long)]
    serve: bool,
}

/// A service that ends when the demo ends, however it ends.
struct Service {
    name: &'static str,
    child: Child,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let riptrace = build::release()?;
    let folder = sh::target().join("demo");
    fs::create_dir_all(&folder)?;
    sh::say("building the demo services");
    sh::run(
        sh::command("go")
            .current_dir(sh::root().join("demo"))
            .args(["build", "-o"])
            .arg(&folder)
            .arg("./..."),
    )?;

    let inventory = start(&folder, "inventory", &[])?;
    let payments = start(&folder, "payments", &[])?;
    let orders =
        start(&folder, "orders", &["-inventory", &inventory.address, "-payments", &payments.address])?;
    let load = start_quiet(&folder, "load", &["-orders", &orders.address])?;
    let line = probed_line(&sh::root().join("demo/orders/handler.go"))?;
    let location = format!("orders/handler.go:{line}");
    let pid = orders.service.child.id().to_string();
    if options.serve {
        sh::say(&format!(
            "try in another terminal: {} probe --name orders {location} --limit 3",
            riptrace.display()
        ));
        sh::say("Ctrl-C ends the services");
        loop {
            std::thread::park();
        }
    }
    let limit = options.limit.to_string();
    let mut arguments = vec!["probe", "--pid", &pid, &location, "--limit", &limit, "--timeout", "30s"];
    arguments.extend(["order", "remaining", "scarce", "err"].iter().flat_map(|name| ["--capture", name]));
    sh::say(&format!("{} {}", riptrace.display(), arguments.join(" ")));
    let result = sh::run(Command::new(&riptrace).args(&arguments));
    for service in [load, orders.service, payments.service, inventory.service] {
        let name = service.name;
        drop(service);
        sh::say(&format!("stopped {name}"));
    }
    result
}

/// A service that listens.
struct Listening {
    service: Service,
    address: String,
}

/// Starts a service and waits for the line in which it says where it listens.
fn start(folder: &Path, name: &'static str, arguments: &[&str]) -> Result<Listening> {
    let mut service = start_quiet(folder, name, arguments)?;
    let stdout = service.child.stdout.take().context("the service's output is gone")?;
    let mut lines = BufReader::new(stdout).lines();
    let address = loop {
        let Some(line) = lines.next() else { bail!("{name} ended before it listened") };
        let line = line?;
        if let Some((_, address)) = line.split_once("listening on ") {
            break address.trim().to_owned();
        }
    };
    // The pipe must be read on, or the service stops when it is full.
    std::thread::spawn(move || lines.for_each(drop));
    sh::say(&format!("{name} listens on {address}"));
    Ok(Listening { service, address })
}

fn start_quiet(folder: &Path, name: &'static str, arguments: &[&str]) -> Result<Service> {
    let program: PathBuf = folder.join(name);
    let child = Command::new(&program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Service { name, child })
}

/// The line that the demo's source marks for the probe.
fn probed_line(file: &Path) -> Result<usize> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let index = text.lines().position(|line| line.contains("// tracepoint:"));
    index.map(|index| index + 1).with_context(|| format!("{} marks no line", file.display()))
}
