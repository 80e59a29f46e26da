//! `riptrace story`: a session's hits, or an exported file's, in their strict order.

use std::{
    fs::File,
    io::BufReader,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use clap::Args;
use riptrace_common::wire::{
    api::{HitQuery, Live, StoredHit},
    evidence::Evidence,
};

use super::{
    Exit, Failure,
    output::{Output, Reader, note},
    server::ServerArguments,
    signals::Interrupted,
};
use crate::{
    client::{Client, ClientError},
    render::text::{Story, TextOptions},
    trace::utc_offset_seconds,
};

/// Hits that are asked for at once.
const PAGE_HITS: u32 = 500;
/// How often Ctrl-C is looked at while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a server may be away whose connection broke.
const AWAY_AT_MOST: Duration = Duration::from_secs(60);
/// The pause between attempts to reach it.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Characters of one variable's text.
const MAX_VALUE_CHARS: usize = 1000;
/// Events that may wait for being printed.
const QUEUED_EVENTS: usize = 1024;

/// Options of `riptrace story`.
#[derive(Debug, Args)]
#[command(after_help = "\
Between two hits stands why they are in this order: same goroutine, goroutine start, same host, message, reply, clock, or
ambiguous. A * marks what changed since the goroutine's hit before.

Examples:
  riptrace story orders --follow
  riptrace story s_01J… --trace-id 4bf92f3577b34da6a3ce929d0e0e4736
  riptrace story evidence.jsonl --json | jq .hit.location")]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,

    /// A session's id, the beginning of it, or its name; or a file that `session export` made.
    #[arg(value_name = "SESSION|FILE")]
    source: String,

    /// Go on with what comes, as it becomes final, until Ctrl-C.
    #[arg(long)]
    follow: bool,

    /// Only hits of this trace.
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,

    /// Only hits of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,

    /// Only hits of this host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Only hits with these words among their names and values.
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,

    /// One JSON object a line, as in an exported file.
    #[arg(long)]
    json: bool,
}

/// Prints the story.
///
/// # Errors
///
/// The server can't be asked, there is no such session, the file is none.
pub fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let path = Path::new(&arguments.source);
    // A session may be called as some file here is: what is no evidence file and no path is a session.
    if path.is_file() && (arguments.source.contains(['/', '.']) || is_evidence(path)) {
        return of_file(path, arguments);
    }
    let client = arguments.server.client();
    let mut printer = Printer::new(arguments.json);
    if arguments.follow {
        let interrupted = Interrupted::listen()?;
        follow(&client, &arguments.source, &mut |event| {
            if let Followed::Event(Live::Final(hit)) = event
                && arguments.wants(hit)
            {
                printer.hit(hit)?;
                printer.flush()?;
            }
            Ok(!interrupted.is_set() && printer.reader == Reader::There)
        })?;
    } else {
        let mut query = HitQuery {
            limit: Some(PAGE_HITS),
            trace_id: arguments.trace_id.clone(),
            service: arguments.service.clone(),
            host: arguments.host.clone(),
            text: arguments.text.clone(),
            ..HitQuery::default()
        };
        loop {
            let page = client.hits(&arguments.source, &query)?;
            for hit in &page.hits {
                printer.hit(hit)?;
            }
            query.after = page.next;
            if query.after.is_none() || printer.reader == Reader::Gone {
                break;
            }
        }
    }
    printer.end()
}

fn is_evidence(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| Evidence::open(BufReader::new(file)).is_ok())
}

fn of_file(path: &Path, arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.follow {
        return Err(Failure::new(Exit::Usage, "--follow needs a session; a file has no more to come"));
    }
    if arguments.text.is_some() {
        return Err(Failure::new(Exit::Usage, "--text needs a session; search a file with --json and grep"));
    }
    let failure =
        |error: &dyn std::fmt::Display| Failure::new(Exit::Failure, format!("{}: {error}", path.display()));
    let evidence = Evidence::open(BufReader::new(File::open(path).map_err(|error| failure(&error))?));
    let mut printer = Printer::new(arguments.json);
    for hit in evidence.map_err(|error| failure(&error))? {
        let hit = hit.map_err(|error| failure(&error))?;
        if arguments.wants(&hit) {
            printer.hit(&hit)?;
        }
    }
    printer.end()
}

impl Arguments {
    fn wants(&self, stored: &StoredHit) -> bool {
        let is = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| has.is_some_and(|has| has.eq_ignore_ascii_case(wanted)))
        };
        is(&self.trace_id, stored.hit.trace_id.as_deref())
            && is(&self.service, Some(&stored.service))
            && is(&self.host, Some(&stored.hit.host))
    }
}

/// Prints hits as text or as JSON.
pub(super) struct Printer {
    output: Output,
    story: Story,
    text: TextOptions,
    json: bool,
    pub(super) printed: u64,
    pub(super) reader: Reader,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self {
            output: Output::default(),
            story: Story::default(),
            text: TextOptions {
                utc_offset_seconds: utc_offset_seconds(),
                show_host: true,
                max_value_chars: Some(MAX_VALUE_CHARS),
            },
            json,
            printed: 0,
            reader: Reader::There,
        }
    }

    pub(super) fn hit(&mut self, stored: &StoredHit) -> Result<(), Failure> {
        self.reader = if self.json {
            self.output.json(stored)?
        } else {
            self.output.line(self.story.hit(stored, &self.text).trim_end_matches('\n'))?
        };
        self.printed += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.reader = self.output.flush()?;
        Ok(())
    }

    fn end(mut self) -> Result<Exit, Failure> {
        self.flush()?;
        if self.printed == 0 && self.reader == Reader::There {
            note("no hit is stored yet that this asks for\n");
            return Ok(Exit::NoHit);
        }
        Ok(Exit::Ok)
    }
}

/// What [`follow`] hands over.
pub(super) enum Followed<'a> {
    /// Something happened.
    Event(&'a Live),
    /// Nothing, for a moment.
    Quiet,
}

/// Hands over what happens in a session from its beginning on, until it is told to stop or the session stops. A
/// connection that breaks is made again, and goes on behind the last event.
pub(super) fn follow(
    client: &Client,
    session: &str,
    each: &mut dyn FnMut(Followed<'_>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let (client, session) = (client.clone(), session.to_owned());
    let (send, events) = mpsc::sync_channel(QUEUED_EVENTS);
    // Reading blocks; Ctrl-C must not wait for it. The thread ends with the process at the latest.
    std::thread::Builder::new().name(String::from("live")).spawn(move || {
        // The hits' arrivals do not say which of them became final: events have ids that do.
        let mut cursor = String::from("0");
        let mut away_since: Option<Instant> = None;
        loop {
            let mut live = match client.live(&session, &cursor) {
                Ok(live) => live,
                // A server that was there is started anew.
                Err(ClientError::Unreachable { .. })
                    if away_since.is_some_and(|since| since.elapsed() < AWAY_AT_MOST) =>
                {
                    std::thread::sleep(RECONNECT_PAUSE);
                    continue;
                }
                Err(error) => {
                    let _ = send.send(Err(Failure::from(error)));
                    return;
                }
            };
            // A connection that breaks off is no end.
            while let Some(Ok(event)) = live.next() {
                if let Some(id) = live.last_id().filter(|id| *id != cursor) {
                    cursor = id.to_owned();
                }
                let stopped = event == Live::Stopped;
                if send.send(Ok(event)).is_err() || stopped {
                    return;
                }
            }
            away_since = Some(Instant::now());
            std::thread::sleep(LOOK_INTERVAL);
        }
    })?;
    loop {
        let go_on = match events.recv_timeout(LOOK_INTERVAL) {
            Ok(event) => {
                let event = event?;
                each(Followed::Event(&event))? && event != Live::Stopped
            }
            Err(mpsc::RecvTimeoutError::Timeout) => each(Followed::Quiet)?,
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
        };
        if !go_on {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Answers a request with these events, and breaks off. Gives what was asked for.
    fn answer(mut stream: &TcpStream, events: &str) -> String {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let asked = lines.next().unwrap();
        lines.find(String::is_empty);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        stream.write_all(format!("{head}{events}").as_bytes()).unwrap();
        asked
    }

    #[test]
    fn a_broken_connection_goes_on_behind_the_last_event_and_not_behind_the_last_arrival() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let accept = |events| answer(&listener.accept().unwrap().0, events);
            let first = "id: 9.100.0.0.0\ndata: {\"kind\":\"watermark\",\"watermark_ns\":5}\n\n\
                         id: 9.200.0.0.0\ndata: {\"kind\":\"wat";
            [accept(first), accept("data: {\"kind\":\"stopped\"}\n\n")]
        });
        let mut seen = Vec::new();
        follow(&Client::new(&url, None), "s_1", &mut |event| {
            if let Followed::Event(event) = event {
                seen.push(event.clone());
            }
            Ok(true)
        })
        .unwrap();
        assert_eq!(seen, [Live::Watermark { watermark_ns: 5 }, Live::Stopped]);
        let [first, second] = serving.join().unwrap();
        assert!(first.contains("/live?cursor=0 "), "{first}");
        assert!(second.contains("/live?cursor=9.100.0.0.0 "), "{second}");
    }
}
