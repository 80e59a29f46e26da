//! The binary: settings in, a running server out. What it does, the library does.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use riptrace_server::{
    run::Server,
    settings::{Arguments, Settings},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter =
        EnvFilter::try_from_env("RIPTRACE_LOG").unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var_os("RIPTRACE_LOG_FORMAT").is_some_and(|format| format == "json") {
        log.json().init();
    } else {
        log.init();
    }
    let settings = match Settings::new(arguments) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("riptrace-server: {error}");
            return ExitCode::from(2);
        }
    };
    let run = || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run(settings))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("riptrace-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = tokio::select! {
        server = Server::start(settings) => server?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    // For scripts: one line each. Nobody may read them.
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "broker {}", server.nats_url());
    let _ = writeln!(stdout, "listening on http://{}", server.address());
    let _ = stdout.flush();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    server.stop().await;
    Ok(())
}
