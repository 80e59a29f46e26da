//! Programs whose debug data is indexed: read once a file, on threads of their own that leave the processor to everything
//! else that is ready, and forgotten when nobody has asked for them in a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot, watch},
};

use super::catalogue::Known;
use crate::{
    binary::{DebugOptions, FileIdentity, cache::Cache},
    redact::Rules,
    trace::{Image, host::lower_priority},
};

/// Programs that are read at the same time: each takes as many processors as there are.
const MAX_INDEXING: usize = 2;
/// An index that nobody asked for in this time is forgotten; reading it again from the cache takes some milliseconds.
const KEEP: Duration = Duration::from_secs(300);

type State = Option<Result<Image, String>>;

#[derive(Debug)]
struct Build {
    state: watch::Receiver<State>,
    used: Instant,
}

/// The programs.
pub struct Builds {
    known: Mutex<HashMap<FileIdentity, Build>>,
    indexing: Arc<Semaphore>,
    runtime: Handle,
    cache: Cache,
    rules: Arc<Rules>,
    /// Called when a program is ready.
    notify: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Builds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Builds").finish_non_exhaustive()
    }
}

impl Builds {
    /// None is known yet. `notify` is called whenever one is ready.
    pub fn new(
        runtime: Handle,
        cache: Cache,
        rules: Arc<Rules>,
        notify: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::default(),
            indexing: Arc::new(Semaphore::new(MAX_INDEXING)),
            runtime,
            cache,
            rules,
            notify: Box::new(notify),
        })
    }

    /// The program of a process, if it is ready; `None`: it is being read, and `notify` tells when it is done. An error: it
    /// can't be read.
    pub fn get(self: &Arc<Self>, known: &Known) -> Option<Result<Image, String>> {
        self.state(known).borrow().clone()
    }

    /// Waits for the program of a process.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub async fn ready(self: &Arc<Self>, known: &Known) -> Result<Image, String> {
        let mut state = self.state(known);
        let done = state.wait_for(Option::is_some).await;
        match done.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(String::from("reading the program ended unexpectedly")),
        }
    }

    /// Forgets what nobody asked for in a while. What tracepoints use has other owners.
    pub fn forget_unused(&self) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, build| build.state.borrow().is_none() || now.duration_since(build.used) < KEEP);
    }

    /// Forgets a program.
    pub fn forget(&self, file: FileIdentity) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
    }

    fn state(self: &Arc<Self>, process: &Known) -> watch::Receiver<State> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let build = known
            .entry(process.file())
            .or_insert_with(|| Build { state: self.start(process), used: Instant::now() });
        build.used = Instant::now();
        build.state.clone()
    }

    fn start(self: &Arc<Self>, process: &Known) -> watch::Receiver<State> {
        let (sender, receiver) = watch::channel(None);
        let executable = process.executable.clone();
        let mut options = DebugOptions::from_environment(None);
        options.found_at = process.process.found_at();
        options.cache = self.cache.clone();
        let (this, indexing, rules) = (Arc::clone(self), Arc::clone(&self.indexing), Arc::clone(&self.rules));
        self.runtime.spawn(async move {
            let _permit = indexing.acquire_owned().await;
            let (read, done) = oneshot::channel();
            let reading = move || {
                lower_priority();
                // Nobody may wait for it any more.
                let _ = read.send(Image::load(executable, &options, &|_| {}).redacted(&rules));
            };
            let read = match std::thread::Builder::new().name(String::from("riptrace-index")).spawn(reading) {
                Ok(_) => done.await.map_err(|_| String::from("reading it ended unexpectedly")),
                Err(error) => Err(error.to_string()),
            };
            sender.send_replace(Some(read.map_err(|error| format!("the program can't be read: {error}"))));
            (this.notify)();
        });
        receiver
    }
}
