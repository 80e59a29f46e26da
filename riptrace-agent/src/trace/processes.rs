//! What hits say about the process that made them.

use std::sync::Arc;

use super::Image;
use crate::{binary::process::Process, decode::ProcessFacts, fast_map::FastMap};

/// Processes that are remembered; past it, all are forgotten and looked up anew.
const MAX_KNOWN: usize = 4096;

/// The facts of the processes seen so far.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: FastMap<u32, ProcessFacts>,
}

impl Processes {
    /// Forgets a process: another one may have its pid, or it executes another program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    /// The facts of a process. One that ended before anybody looked has its pid and its binary's name.
    pub(super) fn facts(&mut self, pid: u32, image: &Image) -> &ProcessFacts {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&pid) {
            self.known.clear();
        }
        self.known.entry(pid).or_insert_with(|| facts(pid, Process::open(pid).ok().as_ref(), image))
    }
}

fn facts(pid: u32, process: Option<&Process>, image: &Image) -> ProcessFacts {
    let of_file = || image.executable.path().file_name().map(|name| name.to_string_lossy().into_owned());
    let name = process.map(|process| process.name.clone()).or_else(of_file);
    ProcessFacts {
        pid,
        start_ns: process.map(|process| process.start_ns),
        name: Arc::from(name.unwrap_or_default()),
        build_id: image.executable.build_id().map(Arc::from),
        container: process.and_then(|process| process.container.as_deref()).map(Arc::from),
    }
}
