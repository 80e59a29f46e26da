//! Hears of processes that begin and end: the kernel tells, nobody looks at `/proc` again and again.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use tokio::io::unix::AsyncFd;

use super::endpoints::Endpoints;
use crate::probe::watch::{ProcessEvent, ProcessWatch};

/// How long events are collected before they are looked at: a shell script starts many programs at once.
const COLLECT: Duration = Duration::from_millis(2);

/// Watches until it is dropped. Gives the reason if this kernel does not tell; then `/proc` is looked at with heartbeats.
///
/// # Errors
///
/// The kernel refuses, or the runtime can't wait for it.
pub async fn watch(endpoints: Arc<Endpoints>) -> io::Result<()> {
    // The kernel verifies a program meanwhile.
    let started = tokio::task::spawn_blocking(ProcessWatch::start).await?;
    let mut watch = started.map_err(io::Error::other)?;
    #[expect(
        deprecated,
        reason = "an `OwnedFd` stays the same open descriptor until it is dropped: all that the unsafe constructor asks for"
    )]
    let readable = AsyncFd::new(watch.as_fd().try_clone_to_owned()?)?;
    endpoints.is_told_of_processes();
    // What happened before the kernel was asked.
    endpoints.look_for_processes().await;
    loop {
        readable.readable().await?.clear_ready();
        tokio::time::sleep(COLLECT).await;
        let events = watch.poll();
        if !events.is_empty() {
            endpoints.heard(events).await;
        }
    }
}

/// What follows from events: which pids to look at, and which are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Pids that execute another program since, and when that began.
    pub began: Vec<(u32, u64)>,
    /// Pids that ended.
    pub ended: Vec<u32>,
    /// Events are missing: everything is to be looked at.
    pub look_at_all: bool,
}

impl Heard {
    /// The last event of each process counts.
    #[must_use]
    pub fn of(events: &[ProcessEvent]) -> Self {
        let mut heard = Self::default();
        for event in events {
            match *event {
                ProcessEvent::Exec { pid, ktime_ns } => {
                    heard.ended.retain(|ended| *ended != pid);
                    heard.began.retain(|(began, _)| *began != pid);
                    heard.began.push((pid, ktime_ns));
                }
                ProcessEvent::Exit { pid, .. } => {
                    heard.began.retain(|(began, _)| *began != pid);
                    heard.ended.push(pid);
                }
                ProcessEvent::Lost(_) => heard.look_at_all = true,
            }
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_of_a_process_counts() {
        let exec = |pid, ktime_ns| ProcessEvent::Exec { pid, ktime_ns };
        let exit = |pid| ProcessEvent::Exit { pid, ktime_ns: 0 };
        let heard = Heard::of(&[exec(1, 10), exec(1, 11), exec(2, 12), exit(2), exit(3), exec(3, 13)]);
        assert_eq!(heard, Heard { began: vec![(1, 11), (3, 13)], ended: vec![2], look_at_all: false });
        assert!(Heard::of(&[ProcessEvent::Lost(7)]).look_at_all);
    }
}
