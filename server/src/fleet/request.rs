//! Requests to agents: one question, one answer, however long it is.

use std::time::Duration;

use async_nats::{Client, client::RequestErrorKind};
use bytes::Bytes;
use riptrace_common::wire::{
    message::{self, Error, ErrorCode, PageRequest, Reply},
    subject::{Endpoint, Subjects},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// An agent that did not answer within this is taken as unreachable.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a reply, all pages together.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// Pages of a reply.
const MAX_PAGES: u32 = 4096;

/// Asks a host's agent.
///
/// # Errors
///
/// What the agent answered; or it did not.
pub async fn request<Question: Serialize + Sync, Answer: DeserializeOwned>(
    client: &Client,
    subjects: &Subjects,
    host: &str,
    endpoint: Endpoint,
    question: &Question,
) -> Result<Answer, Error> {
    let bad = |text: String| Error::new(ErrorCode::BadRequest, text);
    let subject = subjects.of(host, endpoint).map_err(|error| bad(error.to_string()))?;
    let body = message::write(question).map_err(|error| bad(error.to_string()))?;
    if body.len() > message::MAX_REQUEST_BYTES {
        return Err(bad(format!(
            "the request has {} bytes; agents take {}",
            body.len(),
            message::MAX_REQUEST_BYTES
        )));
    }
    let said = |what: String| Error::new(ErrorCode::Failed, format!("the agent of {host} answered {what}"));
    let bytes = send(client, host, &subject, body.into()).await?;
    let reply: Reply<Answer> = read_reply(&bytes).map_err(said)?;
    if let Some(error) = reply.error {
        return Err(error);
    }
    if let Some(ok) = reply.ok {
        return Ok(ok);
    }
    let Some(first) = reply.page else { return Err(said("neither a result nor an error".to_owned())) };
    if first.count > MAX_PAGES {
        return Err(said(format!("{} pages; at most {MAX_PAGES} are taken", first.count)));
    }
    let mut text = first.text;
    for index in 1..first.count {
        #[derive(Serialize)]
        struct More {
            page: PageRequest,
        }
        let more = More { page: PageRequest { id: first.id.clone(), index } };
        let body = message::write(&more).map_err(|error| bad(error.to_string()))?;
        let bytes = send(client, host, &subject, body.into()).await?;
        let reply: Reply<serde::de::IgnoredAny> = read_reply(&bytes).map_err(said)?;
        if let Some(error) = reply.error {
            return Err(error);
        }
        match reply.page.filter(|page| page.id == first.id && page.index == index) {
            Some(page) => text.push_str(&page.text),
            None => return Err(said(format!("without page {index} of {}", first.count))),
        }
        if text.len() > MAX_REPLY_BYTES {
            return Err(said(format!("more than {MAX_REPLY_BYTES} bytes")));
        }
    }
    serde_json::from_str(&text)
        .map_err(|error| said(format!("pages that are not what was asked for: {error}")))
}

async fn send(client: &Client, host: &str, subject: &str, body: Bytes) -> Result<Bytes, Error> {
    let unreachable = |text: String| Err(Error::new(ErrorCode::Unreachable, text));
    let request = async_nats::Request::new().payload(body).timeout(Some(PATIENCE));
    match client.send_request(subject.to_owned(), request).await {
        Ok(message) => Ok(message.payload),
        Err(error) => match error.kind() {
            RequestErrorKind::NoResponders => unreachable(format!(
                "no agent calls itself {host:?}: `riptrace hosts` lists those that are there; start one with \
                 `riptrace agent`"
            )),
            RequestErrorKind::TimedOut => {
                unreachable(format!("the agent of {host} did not answer within {} s", PATIENCE.as_secs()))
            }
            _ => unreachable(format!("{host} could not be asked: {error}")),
        },
    }
}

/// Reads a reply; `Err`: what it is instead.
fn read_reply<T: DeserializeOwned>(bytes: &[u8]) -> Result<Reply<T>, String> {
    #[derive(Deserialize)]
    struct Version {
        v: Option<u64>,
    }
    // Of another version the fields may be others: the version is the reason to give then.
    let version =
        serde_json::from_slice::<Version>(bytes).map_err(|error| format!("no JSON object: {error}"))?;
    if version.v != Some(u64::from(message::VERSION)) {
        return Err(format!(
            "version {:?} of the protocol; this server speaks {}",
            version.v,
            message::VERSION
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("fields that are wrong: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_reply_is_said() {
        let read = |text: &str| read_reply::<Vec<u32>>(text.as_bytes());
        assert_eq!(read(r#"{"v":1,"ok":[1]}"#).unwrap().ok, Some(vec![1]));
        let error = read(r#"{"v":1,"error":{"code":"not_found","text":"x"}}"#).unwrap().error.unwrap();
        assert_eq!((error.code, error.text.as_str()), (ErrorCode::NotFound, "x"));
        assert_eq!(read(r#"{"v":1}"#).unwrap(), Reply { v: 1, ok: None, error: None, page: None });
        for (text, word) in [
            ("", "no JSON"),
            ("[]", "no JSON"),
            ("{}", "None"),
            (r#"{"v":2,"ok":{}}"#, "Some(2)"),
            (r#"{"v":1,"ok":{}}"#, "fields"),
        ] {
            assert!(read(text).is_err_and(|error| error.contains(word)), "{text}");
        }
    }
}
