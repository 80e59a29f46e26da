//! Questions about programs that agents answer: lines, functions, explanations, sources.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use riptrace_common::wire::{
    api::{Ask, Host, HostStatus, Selector, Service},
    control::{
        ExplainReply, ExplainRequest, FunctionsReply, FunctionsRequest, LinesReply, LinesRequest,
        SourceReply, SourceRequest, Target,
    },
    message::ErrorCode,
    subject::Endpoint,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Api, error::Refused};

/// Builds that are asked one after the other until one has the answer.
const MAX_ASKED: usize = 16;

/// A request that agents answer.
pub(super) trait Question: Serialize + DeserializeOwned + Send + Sync + 'static {
    type Answer: Serialize + DeserializeOwned + Send;
    const ENDPOINT: Endpoint;
    fn target(&mut self) -> &mut Target;
}

macro_rules! questions {
    ($($request:ident -> $reply:ident: $endpoint:ident;)*) => {$(
        impl Question for $request {
            type Answer = $reply;
            const ENDPOINT: Endpoint = Endpoint::$endpoint;
            fn target(&mut self) -> &mut Target {
                &mut self.target
            }
        }
    )*};
}

questions! {
    LinesRequest -> LinesReply: Lines;
    FunctionsRequest -> FunctionsReply: Functions;
    ExplainRequest -> ExplainReply: Explain;
    SourceRequest -> SourceReply: Source;
}

pub(super) async fn ask<Request: Question>(
    State(api): State<Arc<Api>>,
    body: Result<Json<Ask<Request>>, JsonRejection>,
) -> Result<Json<Request::Answer>, Refused> {
    let Json(Ask { select, mut request }) = body?;
    let programs = programs(&select, &api.fleet.hosts(), &api.fleet.services());
    if programs.is_empty() {
        let text = "no process of a host that is alive matches; `riptrace services` lists them";
        return Err(Refused::new(ErrorCode::NotFound, text));
    }
    let mut first_error = None;
    for (host, pid) in programs {
        // By its id: how a service is named is settled here.
        *request.target() = Target { pid: Some(pid), ..Target::default() };
        match api.fleet.request(&host, Request::ENDPOINT, &request).await {
            Ok(answer) => return Ok(Json(answer)),
            Err(error) => {
                let goes_on =
                    matches!(error.code, ErrorCode::NotFound | ErrorCode::Unbound | ErrorCode::Unreachable);
                first_error.get_or_insert(error);
                if !goes_on {
                    break;
                }
            }
        }
    }
    Err(first_error.map_or_else(|| Refused::new(ErrorCode::NotFound, "nobody could be asked"), Into::into))
}

/// A process of each build that is meant, on a host that is alive.
fn programs(select: &Selector, hosts: &[Host], services: &[Service]) -> Vec<(String, u32)> {
    let Selector { host: wanted_host, label, target } = select;
    let is_meant = |host: &Host| {
        host.status == HostStatus::Alive
            && wanted_host.as_ref().is_none_or(|wanted| *wanted == host.facts.host)
            && label.as_ref().is_none_or(|wanted| {
                host.facts.labels.iter().any(|label| format!("{}={}", label.name, label.value) == *wanted)
            })
    };
    let hosts: HashSet<&str> =
        hosts.iter().filter(|host| is_meant(host)).map(|host| host.facts.host.as_str()).collect();
    let rest = Target { service: None, ..target.clone() };
    let mut builds = HashSet::new();
    services
        .iter()
        .filter(|service| target.service.as_ref().is_none_or(|wanted| *wanted == service.name))
        .flat_map(|service| &service.instances)
        .filter(|instance| hosts.contains(instance.host.as_str()) && rest.matches(&instance.process))
        .filter(|instance| {
            let process = &instance.process;
            builds.insert(
                process.build_id.clone().unwrap_or_else(|| format!("{} {}", instance.host, process.exe)),
            )
        })
        .map(|instance| (instance.host.clone(), instance.process.pid))
        .take(MAX_ASKED)
        .collect()
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::{
        api::Instance,
        batch::Losses,
        profile::{GoProcess, HostFacts, Label},
    };

    use super::*;

    #[test]
    fn one_process_of_each_build_is_asked() {
        let host = |name: &str, status, zone: &str| Host {
            facts: HostFacts {
                host: name.to_owned(),
                labels: vec![Label { name: "zone".to_owned(), value: zone.to_owned() }],
                ..HostFacts::default()
            },
            status,
            last_seen_ns: 0,
            processes: 0,
            tracepoints: 0,
            hits: 0,
            losses: Losses::default(),
            agent_share_of_core: 0.0,
            agent_resident_bytes: 0,
            clock: None,
            problems: Vec::new(),
        };
        let hosts = [
            host("a", HostStatus::Alive, "x"),
            host("b", HostStatus::Alive, "y"),
            host("c", HostStatus::Silent, "x"),
        ];
        let instance = |host: &str, pid, build: &str| Instance {
            host: host.to_owned(),
            process: GoProcess { pid, build_id: Some(build.to_owned()), ..GoProcess::default() },
        };
        let services = [
            Service {
                name: "orders".to_owned(),
                instances: vec![
                    instance("c", 1, "1"),
                    instance("a", 2, "1"),
                    instance("b", 3, "1"),
                    instance("b", 4, "2"),
                ],
            },
            Service { name: "stock".to_owned(), instances: vec![instance("a", 5, "3")] },
        ];
        let asked = |change: fn(&mut Selector)| {
            let mut select = Selector::default();
            change(&mut select);
            programs(&select, &hosts, &services).into_iter().map(|(_, pid)| pid).collect::<Vec<_>>()
        };
        assert_eq!(asked(|_| {}), [2, 4, 5]);
        assert_eq!(asked(|select| select.target.service = Some("orders".to_owned())), [2, 4]);
        assert_eq!(asked(|select| select.label = Some("zone=y".to_owned())), [3, 4]);
        assert_eq!(asked(|select| select.host = Some("c".to_owned())), [0; 0]);
        assert_eq!(asked(|select| select.target.pid = Some(5)), [5]);
    }
}
