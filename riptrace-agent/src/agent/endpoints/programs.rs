//! What programs offer: make them ready, their lines and functions, what is known of a location, their sources. Work that
//! takes processor time is done off the threads that talk to the broker.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riptrace_common::wire::{
    control::{
        AttachReply, AttachRequest, BindFailure, Binding, BuildState, ExplainReply, ExplainRequest,
        FunctionsReply, FunctionsRequest, Line, LinesReply, LinesRequest, Target,
    },
    message::{Error, ErrorCode},
};

use super::{
    super::{catalogue::Known, options, policy::Policy},
    Endpoints,
};
use crate::{
    binary::FileIdentity,
    plan::{SitePlan, cost::capture_ns},
    probe::TrapCost,
    trace::{Image, inspect, plan_alone},
};

/// How long `attach` waits for programs that are being read; the reply says which are not ready.
const ATTACH_WITHIN: Duration = Duration::from_secs(4);
/// How long a question about a program waits until it is read.
const READ_WITHIN: Duration = Duration::from_secs(4);
/// Lines whose variables are told at once.
const MAX_RANGE: u32 = 2_000;

/// A program, and the processes that run it.
pub(super) struct Build {
    pub known: Arc<Known>,
    pub pids: Vec<u32>,
}

impl Build {
    fn state(&self, image: Option<Result<Image, String>>) -> BuildState {
        let facts = &self.known.facts;
        let mut state = BuildState {
            executable: facts.exe.clone(),
            build_id: facts.build_id.clone(),
            pids: self.pids.clone(),
            ready: false,
            functions: 0,
            files: Vec::new(),
            problem: self.known.forbidden.clone(),
        };
        match image {
            Some(Ok(image)) => {
                state.ready = true;
                state.functions =
                    image.executable.pclntab().map_or(0, |table| u64::try_from(table.len()).unwrap_or(0));
                state.files = inspect::files(&image);
                state.problem = state.problem.or(image.debug_missing);
            }
            Some(Err(reason)) => state.problem = Some(reason),
            None => {}
        }
        state
    }
}

impl Endpoints {
    /// The programs of the processes that are meant; an error if there is none.
    pub(super) async fn builds(self: &Arc<Self>, target: &Target) -> Result<Vec<Build>, Error> {
        let snapshot = self.look_for_processes().await;
        let mut builds: BTreeMap<(u64, u64), Build> = BTreeMap::new();
        for known in snapshot.iter().filter(|known| target.matches(&known.facts)) {
            let FileIdentity { device, inode, .. } = known.file();
            let build = builds
                .entry((device, inode))
                .or_insert_with(|| Build { known: Arc::clone(known), pids: Vec::new() });
            build.pids.push(known.process.pid);
        }
        if builds.is_empty() {
            let text = format!(
                "no Go process here fits {}; ask profile.get for those that there are",
                serde_json::to_string(target).unwrap_or_default()
            );
            return Err(Error::new(ErrorCode::NotFound, text));
        }
        Ok(builds.into_values().collect())
    }

    pub(super) async fn attach(
        self: Arc<Self>,
        AttachRequest { target }: AttachRequest,
    ) -> Result<AttachReply, Error> {
        let builds = self.builds(&target).await?;
        let deadline = tokio::time::Instant::now() + ATTACH_WITHIN;
        let mut states = Vec::with_capacity(builds.len());
        for build in builds {
            let image = match &build.known.forbidden {
                Some(_) => None,
                None => {
                    // All of them are being read from here on, whichever is waited for.
                    let ready = self.builds.ready(&build.known);
                    tokio::time::timeout_at(deadline, ready).await.ok()
                }
            };
            let state = tokio::task::spawn_blocking(move || build.state(image)).await;
            states.push(state.map_err(|error| Error::new(ErrorCode::Failed, error.to_string()))?);
        }
        Ok(AttachReply { builds: states })
    }

    pub(super) async fn detach(
        self: Arc<Self>,
        AttachRequest { target }: AttachRequest,
    ) -> Result<AttachReply, Error> {
        let builds = self.builds(&target).await?;
        for build in &builds {
            self.builds.forget(build.known.file());
        }
        Ok(AttachReply { builds: builds.iter().map(|build| build.state(None)).collect() })
    }

    /// The program of a build, once it is read.
    async fn read(&self, known: &Known) -> Result<Image, Error> {
        if let Some(reason) = &known.forbidden {
            return Err(Error::new(ErrorCode::Forbidden, reason.clone()));
        }
        match tokio::time::timeout(READ_WITHIN, self.builds.ready(known)).await {
            Ok(Ok(image)) => Ok(image),
            Ok(Err(reason)) => Err(Error::new(ErrorCode::Failed, reason)),
            Err(_) => {
                let text = format!("{} is being read; ask again", known.facts.exe);
                Err(Error::new(ErrorCode::NotReady, text))
            }
        }
    }

    /// The first program for which `look` finds something, and what it found. Where none has it: the last reason.
    pub(super) async fn first<T: Send + 'static>(
        self: &Arc<Self>,
        target: &Target,
        missing: String,
        look: impl Fn(&Known, &Image) -> Result<Option<T>, Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let mut reason = Error::new(ErrorCode::NotFound, missing);
        for build in self.builds(target).await? {
            let image = match self.read(&build.known).await {
                Ok(image) => image,
                Err(error) => {
                    reason = error;
                    continue;
                }
            };
            let look = look.clone();
            let found = tokio::task::spawn_blocking(move || look(&build.known, &image)).await;
            match found.map_err(|error| Error::new(ErrorCode::Failed, error.to_string()))? {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    pub(super) async fn lines(self: Arc<Self>, request: LinesRequest) -> Result<LinesReply, Error> {
        let LinesRequest { target, file, range } = request;
        if let Some([first, last]) = range
            && (last < first || last - first >= MAX_RANGE)
        {
            let text = format!(
                "the range {first} to {last} is none of at most {MAX_RANGE} lines; without one all lines are told, \
                 without their variables"
            );
            return Err(Error::new(ErrorCode::BadRequest, text));
        }
        let missing = format!("no source file ends with {file}; ask attach for the files of programs");
        let look = move |known: &Known, image: &Image| {
            let unbound = |text| Error::new(ErrorCode::Unbound, text);
            let Some(found) = inspect::the_file(image, &file).map_err(unbound)? else { return Ok(None) };
            let numbers = image.lines_with_code(&found).map_err(unbound)?;
            let lines = match range {
                Some([first, last]) => {
                    let numbers: Vec<u32> = numbers.range(first..=last).copied().collect();
                    inspect::lines(image, &found, &numbers)
                }
                None => numbers.into_iter().map(Line::at).collect(),
            };
            Ok(Some(LinesReply {
                file: found,
                executable: known.facts.exe.clone(),
                build_id: known.facts.build_id.clone(),
                lines,
            }))
        };
        self.first(&target, missing, look).await
    }

    pub(super) async fn functions(
        self: Arc<Self>,
        request: FunctionsRequest,
    ) -> Result<FunctionsReply, Error> {
        let FunctionsRequest { target, file, package } = request;
        let asked: Vec<&str> = [&file, &package].into_iter().flatten().map(String::as_str).collect();
        let missing = format!("no program here has functions of {}", asked.join(", "));
        let look = move |known: &Known, image: &Image| {
            let functions = inspect::functions(image, file.as_deref(), package.as_deref())
                .map_err(|text| Error::new(ErrorCode::Unbound, text))?;
            let reply = FunctionsReply { executable: known.facts.exe.clone(), functions };
            Ok((!reply.functions.is_empty()).then_some(reply))
        };
        self.first(&target, missing, look).await
    }

    pub(super) async fn explain(self: Arc<Self>, request: ExplainRequest) -> Result<ExplainReply, Error> {
        let ExplainRequest { target, location, options } = request;
        let wanted = options::wanted(&location, &options)?;
        let mut reply = ExplainReply::default();
        for build in self.builds(&target).await? {
            let facts = &build.known.facts;
            let (executable, build_id) = (facts.exe.clone(), facts.build_id.clone());
            let planned = match self.read(&build.known).await {
                Ok(image) => {
                    let (wanted, policy) = (wanted.clone(), Arc::clone(&self.policy));
                    let plan = move || plan(&image, &wanted, &policy);
                    let planned = tokio::task::spawn_blocking(plan).await;
                    planned.map_err(|error| Error::new(ErrorCode::Failed, error.to_string()))?
                }
                Err(error) => Err(error.text),
            };
            match planned {
                Ok((mut plans, warnings)) => {
                    plans.retain(|plan| !plan.is_internal());
                    let cost_ns = plans.iter().map(|plan| estimated_cost_ns(plan, options.stack)).max();
                    reply.estimated_cost_ns = reply.estimated_cost_ns.max(cost_ns.unwrap_or(0));
                    reply.bindings.push(Binding {
                        executable,
                        build_id,
                        pids: build.pids,
                        moved_to: None,
                        sites: plans.into_iter().map(|plan| plan.info).collect(),
                        warnings,
                    });
                }
                Err(reason) => reply.failures.push(BindFailure {
                    executable,
                    build_id,
                    pids: build.pids,
                    stale: false,
                    reason,
                }),
            }
        }
        Ok(reply)
    }
}

type Plans = (Vec<SitePlan>, Vec<String>);

fn plan(image: &Image, wanted: &crate::trace::Wanted, policy: &Policy) -> Result<Plans, String> {
    let planned = plan_alone(image, wanted).map_err(|error| error.to_string())?;
    match planned.plans.iter().find_map(|plan| policy.denies_location(&plan.location)) {
        Some(reason) => Err(reason),
        None => Ok((planned.plans, planned.warnings)),
    }
}

/// What a captured hit costs, the trap included: an upper bound, since no trap was measured for this question.
fn estimated_cost_ns(plan: &SitePlan, stack_frames: u32) -> u64 {
    let TrapCost { emulated_ns, stepped_ns } = TrapCost::ASSUMED;
    let trap_ns = if plan.info.fast { emulated_ns } else { stepped_ns };
    trap_ns + capture_ns(plan, stack_frames)
}
