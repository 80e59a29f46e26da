//! Asking debuginfod servers for a build's debug data (elfutils, debuginfod(8)): `URL/buildid/ID/debuginfo`.

use std::{
    fs::File,
    io::{self, Read, Write},
    time::Duration,
};

use crate::binary::{
    cache::{Cache, CacheKey, kind},
    debug::{Progress, Stage},
};

/// A server that does not answer may not keep a tracepoint from being armed for long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A large file takes its time.
const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// No debug file is larger; a server that sends more is cut off.
const MAX_DOWNLOAD_BYTES: u64 = 4 << 30;
const BUFFER_BYTES: usize = 64 << 10;

/// The debug file of a build, from the cache or from the first server that has one that is accepted. What goes wrong
/// with a server is logged; the answer is then the next one's.
pub(crate) fn fetch<T>(
    build_id: &str,
    urls: &[String],
    cache: &Cache,
    progress: &dyn Fn(Progress),
    accept: impl Fn(&File) -> Option<T>,
) -> Option<T> {
    if urls.is_empty() {
        return None;
    }
    let key = CacheKey(format!("debuginfod {build_id}"));
    if let Some(accepted) = cache.load_file(&key, kind::DOWNLOAD).and_then(|file| accept(&file)) {
        return Some(accepted);
    }
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_recv_body(Some(BODY_TIMEOUT))
        .user_agent(concat!("riptrace/", env!("CARGO_PKG_VERSION")))
        .build();
    let agent = config.new_agent();
    urls.iter().find_map(|url| {
        let address = format!("{}/buildid/{build_id}/debuginfo", url.trim_end_matches('/'));
        let body = match agent.get(&address).call() {
            Ok(response) => response.into_body(),
            Err(ureq::Error::StatusCode(404)) => return None,
            Err(error) => {
                tracing::warn!(%address, %error, "a debuginfod server does not answer");
                return None;
            }
        };
        let total_bytes = body.content_length().unwrap_or_default();
        let reader = body.into_with_config().limit(MAX_DOWNLOAD_BYTES).reader();
        let mut accepted = None;
        let stored = cache.store_file(&key, kind::DOWNLOAD, |file| {
            copy(reader, file, |done_bytes| {
                progress(Progress { stage: Stage::Downloading, done_bytes, total_bytes });
            })?;
            accepted = accept(file);
            accepted.as_ref().map(drop).ok_or_else(|| io::Error::other("it is not this build's debug file"))
        });
        if let Err(error) = stored {
            tracing::warn!(%address, %error, "a download from a debuginfod server can't be used");
        }
        accepted
    })
}

fn copy(mut from: impl Read, mut to: &File, progress: impl Fn(u64)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    loop {
        let read = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        to.write_all(bytes)?;
        done += bytes.len() as u64;
        progress(done);
    }
}
