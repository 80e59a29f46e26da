//! `make demo`: a fleet on this machine, and the story of one request that crosses its services. `make play` leaves it
//! up. `make probe` and `make services` show the one machine that needs neither server nor broker.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    build,
    fleet::{self, Fleet, Listening, Programs, Running},
    sh,
};

/// What to show.
#[derive(Args)]
pub(crate) struct Options {
    /// One machine without server and broker: ten hits of a line, by `riptrace probe`.
    #[arg(long)]
    probe: bool,
    /// Leave everything up until Ctrl-C, to be tried by hand.
    #[arg(long)]
    serve: bool,
    /// Hits that `--probe` prints.
    #[arg(long, default_value_t = 10)]
    limit: u32,
}

/// How long the agents may take to find the services.
const FIND_WITHIN: Duration = Duration::from_secs(30);
/// How long they may take to arm the tracepoints.
const ARM_WITHIN: Duration = Duration::from_secs(30);
/// Orders that are placed for the story.
const STORY_ORDERS: u32 = 5;

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = sh::target().join("demo");
    fs::create_dir_all(&folder)?;
    match (options.probe, options.serve) {
        (true, serve) => probe(&folder, options.limit, serve),
        (false, serve) => story(&folder, serve),
    }
}

/// The three services.
struct Shop {
    orders: Listening,
    payments: Listening,
    inventory: Listening,
}

impl Shop {
    fn open(programs: &Path) -> Result<Self> {
        let inventory = fleet::start(programs, "inventory", &[])?;
        let payments = fleet::start(programs, "payments", &[])?;
        let addresses = ["-inventory", &inventory.address, "-payments", &payments.address];
        let orders = fleet::start(programs, "orders", &addresses)?;
        Ok(Self { orders, payments, inventory })
    }

    /// Ends the services, the callers first.
    fn close(self) {
        for Listening { service, .. } in [self.orders, self.payments, self.inventory] {
            stop(service);
        }
    }
}

fn stop(program: Running) {
    let name = program.name.clone();
    drop(program);
    sh::say(&format!("stopped {name}"));
}

/// `riptrace probe` on a line of a service under load.
fn probe(folder: &Path, limit: u32, serve: bool) -> Result<()> {
    let riptrace = build::release()?;
    let services = fleet::build_services(folder, &[])?;
    let shop = Shop::open(&services)?;
    let load = fleet::load(&services, &shop.orders.address, &[])?;
    let line = fleet::marked_line(&sh::root().join("demo/orders/handler.go"))?;
    let location = format!("orders/handler.go:{line}");
    if serve {
        sh::say(&format!(
            "try in another terminal: {} probe --name orders {location} --limit 3",
            riptrace.display()
        ));
        sh::say("Ctrl-C ends the services");
        loop {
            std::thread::park();
        }
    }
    let (pid, limit) = (shop.orders.service.pid().to_string(), limit.to_string());
    let mut arguments = vec!["probe", "--pid", &pid, &location, "--limit", &limit, "--timeout", "30s"];
    arguments.extend(["order", "remaining", "scarce", "err"].iter().flat_map(|name| ["--capture", name]));
    sh::say(&format!("{} {}", riptrace.display(), arguments.join(" ")));
    let result = sh::run(Command::new(&riptrace).args(&arguments));
    stop(load);
    shop.close();
    result
}

/// A session over three services on two hosts, and the story of one request.
fn story(folder: &Path, serve: bool) -> Result<()> {
    let programs = Programs::release()?;
    let services = fleet::build_services(folder, &[])?;
    let fleet = Fleet::start(&programs, &folder.join("data"))?;
    // Two hosts on one machine: each agent looks at its own services.
    let agents = [fleet.agent("node-a", &["orders"])?, fleet.agent("node-b", &["inventory", "payments"])?];
    let shop = Shop::open(&services)?;
    fleet.wait_for_services(&["orders", "inventory", "payments"], FIND_WITHIN)?;
    if serve {
        let load = fleet::load(&services, &shop.orders.address, &[])?;
        let session = fleet.session(&fleet::marked_tracepoints()?, ARM_WITHIN)?;
        sh::say(&format!("the server: {}", fleet.server_url));
        sh::say(&format!(
            "try in another terminal: RIPTRACE_SERVER={} {} story {session} --follow",
            fleet.server_url,
            programs.riptrace.display()
        ));
        sh::say("Ctrl-C ends all of it");
        let _running = (load, agents, shop);
        loop {
            std::thread::park();
        }
    }
    let session = fleet.session(&fleet::marked_tracepoints()?, ARM_WITHIN)?;
    sh::say(&format!("session {session}: a tracepoint in each service; placing {STORY_ORDERS} orders"));
    fleet::place_orders(&services, &shop.orders.address, STORY_ORDERS)?;
    let hits = fleet.story(&session, STORY_ORDERS as usize)?;
    // The longest one: an order that went through all three.
    let longest = hits
        .iter()
        .max_by_key(|one| hits.iter().filter(|other| other.hit.trace_id == one.hit.trace_id).count());
    let trace = &longest.context("no request was seen")?.hit.trace_id;
    sh::say(&format!("riptrace story {session} --trace-id {trace}"));
    sh::run(&mut fleet.command(&["story", &session, "--trace-id", trace]))?;
    sh::run(fleet.command(&["session", "delete", &session]).stdout(std::process::Stdio::null()))?;
    shop.close();
    agents.into_iter().for_each(stop);
    Ok(())
}
