//! Standard output of a command that must not wait for its reader: while it prints, it also keeps its tracepoints within
//! their budget, and a reader that stands still may not keep it from that.
//!
//! A thread of its own writes. What it has not written is bounded: past [`QUEUED_BLOCKS`] blocks there is no room, and
//! who has more to say keeps it (hits then stay in the kernel's ring, and what does not fit there is counted as dropped).

use std::{
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use super::output::Reader;

/// Lines are handed over in blocks of at least this size while many come, and at each flush.
const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks that wait at the most.
const QUEUED_BLOCKS: usize = 8;

/// The output.
#[derive(Debug)]
pub struct Stream {
    block: Vec<u8>,
    /// `None`: closed.
    queue: Option<SyncSender<Vec<u8>>>,
    /// The writer ended early: its reader is gone, or an error waits to be told.
    stopped: Arc<AtomicBool>,
    writer: Option<JoinHandle<io::Result<()>>>,
    reader: Reader,
    /// Why nothing can be written any more, other than that the reader is gone.
    failure: Option<io::Error>,
}

impl Stream {
    /// Starts the writer.
    ///
    /// # Errors
    ///
    /// No thread can be had.
    pub fn start() -> io::Result<Self> {
        Self::to(io::stdout())
    }

    fn to(mut output: impl io::Write + Send + 'static) -> io::Result<Self> {
        let (queue, blocks) = sync_channel::<Vec<u8>>(QUEUED_BLOCKS);
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let writer = std::thread::Builder::new().name(String::from("output")).spawn(move || {
            let result = blocks.iter().try_for_each(|block| {
                output.write_all(&block)?;
                output.flush()
            });
            if result.is_err() {
                flag.store(true, Ordering::Release);
            }
            result
        })?;
        Ok(Self {
            block: Vec::new(),
            queue: Some(queue),
            stopped,
            writer: Some(writer),
            reader: Reader::There,
            failure: None,
        })
    }

    /// Takes whole lines. They are kept even when there is no room: ask before.
    pub fn text(&mut self, lines: &str) -> Reader {
        if self.reader == Reader::There {
            self.block.extend_from_slice(lines.as_bytes());
        }
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { self.state() }
    }

    /// Hands over what was taken, as far as there is room.
    pub fn flush(&mut self) -> Reader {
        if !self.block.is_empty()
            && let Some(queue) = &self.queue
        {
            match queue.try_send(std::mem::take(&mut self.block)) {
                Ok(()) => {}
                Err(TrySendError::Full(block)) => self.block = block,
                Err(TrySendError::Disconnected(_)) => return self.end(),
            }
        }
        self.state()
    }

    /// Whether more lines can be taken without growing.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.block.len() < BLOCK_BYTES
    }

    /// Waits until all of it is written.
    pub fn finish(&mut self) -> Reader {
        if let Some(queue) = self.queue.take()
            && !self.block.is_empty()
        {
            // A writer that is gone says why below.
            let _ = queue.send(std::mem::take(&mut self.block));
        }
        self.end()
    }

    fn state(&mut self) -> Reader {
        if self.stopped.load(Ordering::Acquire) { self.end() } else { self.reader }
    }

    fn end(&mut self) -> Reader {
        self.queue = None;
        self.block.clear();
        let result = match self.writer.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_panic)) => Err(io::Error::other("writing the output ended unexpectedly")),
        };
        if let Err(error) = result {
            self.reader = Reader::Gone;
            if error.kind() != ErrorKind::BrokenPipe {
                self.failure = Some(error);
            }
        }
        self.reader
    }

    /// Why the output broke off (a full disk); a closed pipe is no failure. Nothing is taken any more then.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// A reader that can stand still.
    #[derive(Clone, Default)]
    struct Pipe(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        blocked: bool,
        closed: bool,
        read: Vec<u8>,
    }

    impl Pipe {
        fn set(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }
    }

    impl io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| state.blocked).unwrap();
            if state.closed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            state.read.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_blocks_nobody_and_gets_everything_later() {
        let pipe = Pipe::default();
        pipe.set(|state| state.blocked = true);
        let mut stream = Stream::to(pipe.clone()).unwrap();
        let line = format!("{}\n", "x".repeat(999));
        let mut lines = 0;
        while stream.has_room() {
            assert_eq!(stream.text(&line), Reader::There);
            lines += 1;
        }
        let bytes = lines * line.len();
        // The writer holds a block more, once it has taken one.
        assert!((QUEUED_BLOCKS * BLOCK_BYTES..(QUEUED_BLOCKS + 3) * BLOCK_BYTES).contains(&bytes), "{bytes}");
        pipe.set(|state| state.blocked = false);
        assert_eq!(stream.finish(), Reader::There);
        assert_eq!(pipe.0.0.lock().unwrap().read.len(), bytes);
    }

    #[test]
    fn a_closed_pipe_is_told_and_an_error_fails() {
        let pipe = Pipe::default();
        pipe.set(|state| state.closed = true);
        let mut stream = Stream::to(pipe).unwrap();
        stream.text("a\n");
        assert_eq!(stream.finish(), Reader::Gone);
        assert_eq!(stream.text("b\n"), Reader::Gone);

        struct Full;
        impl io::Write for Full {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut stream = Stream::to(Full).unwrap();
        stream.text("a\n");
        assert_eq!(stream.finish(), Reader::Gone);
        assert_eq!(stream.failure().map(io::Error::kind), Some(ErrorKind::StorageFull));
    }
}
