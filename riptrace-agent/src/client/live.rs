//! Server-sent events (WHATWG HTML, section 9.2), as far as the server uses them.

use std::io::{self, BufRead, BufReader, Read};

use riptrace_common::wire::api::Live;

/// Bytes of one event; a hit has 1 MiB at the most.
const MAX_EVENT_BYTES: u64 = 16 << 20;

/// Events as they come. Ends when the server ends the stream.
pub struct LiveEvents {
    reader: BufReader<Box<dyn Read + Send>>,
    last_id: Option<String>,
}

impl std::fmt::Debug for LiveEvents {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LiveEvents").finish_non_exhaustive()
    }
}

impl LiveEvents {
    /// Reads events from a response's body.
    pub fn new(body: impl Read + Send + 'static) -> Self {
        Self { reader: BufReader::new(Box::new(body)), last_id: None }
    }

    /// The id of the last event that had one: another connection goes on behind it.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next event; `None`: there are no more.
    fn next_event(&mut self) -> io::Result<Option<Live>> {
        let mut data = String::new();
        let mut id = None;
        loop {
            let mut line = String::new();
            if (&mut self.reader).take(MAX_EVENT_BYTES).read_line(&mut line)? == 0 {
                return Ok(None);
            }
            if !line.ends_with('\n') {
                return Err(io::Error::other("an event is cut off"));
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(text) = line.strip_prefix("data:") {
                data.push_str(text.strip_prefix(' ').unwrap_or(text));
            } else if let Some(text) = line.strip_prefix("id:") {
                id = Some(text.strip_prefix(' ').unwrap_or(text).to_owned());
            } else if line.is_empty() && !data.is_empty() {
                // Only of an event that is whole.
                self.last_id = id.take().or(self.last_id.take());
                // An event of a kind that this version does not know is none for it.
                match serde_json::from_str(&data) {
                    Ok(event) => return Ok(Some(event)),
                    Err(error) if error.is_data() => data.clear(),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

impl Iterator for LiveEvents {
    type Item = io::Result<Live>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &'static str) -> Vec<Result<Live, String>> {
        LiveEvents::new(text.as_bytes()).map(|event| event.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn events_are_read_with_comments_ids_and_unknown_kinds_between() {
        let text = ": hello\n\nid: 7\ndata: {\"kind\":\"watermark\",\"watermark_ns\":5}\n\nevent: x\ndata:{\"kind\":\"later\"}\n\n\
                    data: {\"kind\":\ndata: \"stopped\"}\r\n\r\n";
        assert_eq!(events(text), [Ok(Live::Watermark { watermark_ns: 5 }), Ok(Live::Stopped)]);
    }

    #[test]
    fn the_last_whole_event_s_id_is_kept() {
        let text =
            "id: 7.1\ndata: {\"kind\":\"stopped\"}\n\ndata: {\"kind\":\"stopped\"}\n\nid: 8.2\ndata: {\"ki";
        let mut events = LiveEvents::new(text.as_bytes());
        assert_eq!(events.last_id(), None);
        for is_whole in [true, true, false] {
            assert_eq!(events.next().unwrap().is_ok(), is_whole);
            assert_eq!(events.last_id(), Some("7.1"));
        }
    }

    #[test]
    fn a_stream_that_breaks_off_says_so() {
        assert_eq!(events("data: {\"kind\":"), [Err(String::from("an event is cut off"))]);
        assert!(events("data: {{\n\n").first().is_some_and(Result::is_err));
    }
}
