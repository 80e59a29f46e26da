//! Puts the parts of the server together, starts them in their order and ends them in the reverse one.

use std::{
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
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
    listener: Option<TcpListener>,
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
            tokio::spawn(clock_sync::run(Arc::clone(&fleet), lease.clone(), nats.clone(), exchanges)),
        ];
        let collector =
            Collector::start(Arc::clone(&fleet), nats.clone(), store.clone(), hears, stopped.clone())?;
        Ok(Self {
            fleet,
            store,
            nats,
            nats_url,
            private,
            lease,
            collector,
            tasks,
            listener: Some(listener),
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
        drop(self.listener);
        self.lease.give_up(&self.nats.lease).await;
        for task in self.tasks {
            task.abort();
        }
        self.collector.join().await;
        if let Some(private) = self.private {
            private.stop().await;
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
