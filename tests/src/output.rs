//! What a program that a test started prints.

use std::{
    io::{BufRead, BufReader, Read},
    sync::mpsc::{Receiver, channel},
};

/// Its lines, as they are printed; the end of the channel is the end of the output. A thread of its own reads, so that
/// the program never waits for the test.
#[must_use]
pub fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
