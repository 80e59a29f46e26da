//! Puts the parts of the server together, starts them in their order and ends them in the reverse one.

use std::{
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    api,
    broker::Private,
    clock_sync,
    collect::Collector,
    fleet::{Fleet, heartbeats, reconciler, sessions},
    ident,
    lease::Lease,
    nats::{self, Nats},
    settings::{Access, Broker, Settings},
    store::{Options, Store},
};

/// Heartbeats that wait for the index.
const HEARD: usize = 4096;

/// How often it is looked whether old hits have to go.
const RETAIN_PERIOD: Duration = Duration::from_secs(60);

/// So long requests that are being answered may hold up the end.
const API_PATIENCE: Duration = Duration::from_secs(3);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    fleet: Arc<Fleet>,
    store: Store,
    nats: Nats,
    nats_url: String,
    private: Option<Private>,
    lease: Lease,
    collector: Collector,
    tasks: Vec<JoinHandle<()>>,
    api: JoinHandle<()>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// No other server may use the data folder meanwhile.
    _lock: File,
}

impl Server {
    /// Starts it. It is ready when this returns, except that it may wait for the broker before.
    ///
    /// # Errors
    ///
    /// The data folder, the broker, the store or the address can't be used.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let lock = lock(&settings.data)?;
        let listener = TcpListener::bind(settings.listen).await;
        let listener = listener.with_context(|| format!("{} can't be listened on", settings.listen))?;
        let address = listener.local_addr()?;
        let options = Options {
            max_age: Some(settings.store.age),
            max_bytes: Some(settings.store.bytes),
            ..Options::default()
        };
        let store = Store::open(&settings.data.join("index.db"), options)?;
        let (private, nats_url, access) = match settings.broker {
            Broker::At { url, access } => (None, url, access),
            Broker::Private { port } => {
                let private = Private::start(&settings.data, port).await?;
                let url = private.url();
                (Some(private), url, Access::default())
            }
        };
        let name = ident::fresh("server")?;
        let client = nats::connect(&nats_url, &access, &name).await?;
        let exchanges = nats::connect(&nats_url, &access, &format!("{name} clock")).await?;
        let nats = Nats::prepare(client, settings.subjects, settings.stream, settings.replicas).await?;
        let fleet = Arc::new(Fleet::new(settings.service_rules));
        fleet.connect(nats.clone());
        let lease = Lease::default();
        let (stop, stopped) = watch::channel(false);
        let (heard, hears) = mpsc::channel(HEARD);
        let tasks = vec![
            tokio::spawn(sessions::watch(Arc::clone(&fleet))),
            tokio::spawn(heartbeats::listen(Arc::clone(&fleet), heard)),
            lease.start(nats.lease.clone(), name),
            tokio::spawn(reconciler::run(Arc::clone(&fleet), lease.clone())),
            tokio::spawn(retain(Arc::clone(&fleet), store.clone())),
            tokio::spawn(clock_sync::run(Arc::clone(&fleet), lease.clone(), nats.clone(), exchanges)),
        ];
        let api = serve(listener, Arc::clone(&fleet), store.clone(), settings.token, stopped.clone());
        let collector = Collector::start(Arc::clone(&fleet), nats.clone(), store.clone(), hears, stopped)?;
        Ok(Self {
            fleet,
            store,
            nats,
            nats_url,
            private,
            lease,
            collector,
            tasks,
            api,
            address,
            stop,
            _lock: lock,
        })
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The broker's address.
    #[must_use]
    pub fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// The fleet.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The index.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Ends it: what was fetched is written, the lease is given up, a private broker ends last.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.lease.give_up(&self.nats.lease).await;
        for task in self.tasks {
            task.abort();
        }
        self.collector.join().await;
        // Who still reads gets its answer; who reads for ever does not hold this up.
        let mut api = self.api;
        if tokio::time::timeout(API_PATIENCE, &mut api).await.is_err() {
            api.abort();
        }
        if let Some(private) = self.private {
            private.stop().await;
        }
    }
}

fn serve(
    listener: TcpListener,
    fleet: Arc<Fleet>,
    store: Store,
    token: Option<String>,
    mut stopped: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
        if let Err(error) = api::serve(listener, fleet, store, token, stop).await {
            tracing::error!(error = format!("{error:#}"), "HTTP is not served any more");
        }
    })
}

/// Removes what is older, or more, than is to be kept, and forgets hosts that are gone; for ever.
async fn retain(fleet: Arc<Fleet>, store: Store) {
    loop {
        tokio::time::sleep(RETAIN_PERIOD).await;
        fleet.forget_hosts();
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.retain()).await {
            Ok(Ok(removed)) if removed.hits > 0 => {
                tracing::info!(hits = removed.hits, "the oldest hits were removed from the index");
            }
            Ok(Ok(_)) => fleet.set_problem("retention", None),
            Ok(Err(error)) => fleet.set_problem("retention", Some(error.to_string())),
            Err(error) => tracing::error!(%error, "removing old hits failed"),
        }
    }
}

/// Takes the data folder for this server alone.
fn lock(data: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(data)
        .with_context(|| format!("the data folder {} can't be made", data.display()))?;
    let path = data.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} can't be opened", path.display()))?;
    if let Err(error) = file.try_lock() {
        anyhow::bail!(
            "the data folder {} is used by another riptrace-server ({error}): give this one a folder of its own with \
             --data",
            data.display()
        );
    }
    Ok(file)
}
