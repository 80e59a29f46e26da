//! Call stacks are sent once, and every hit has its own all the same.

use std::ops::ControlFlow;

use riptrace_agent::{
    binary::{cache::Cache, debug::DebugOptions},
    plan::sites::LocationRequest,
    probe::{KernelOptions, Scope},
    trace::{Image, Planner, ProcessScope, Request, Tracer, Wanted},
};
use riptrace_common::{
    abi::{limits, program::Tracepoint, record::FLAG_STACK_TRUNCATED, stack},
    wire::event::{DetachReason, Event, Frame, Hit},
};

use super::{
    record::Record,
    session::{self, Session, site, tracepoint},
    target::{Build, Target},
};

const FRAMES: u32 = 16;

fn with_stack() -> Tracepoint {
    Tracepoint { stack_frames: FRAMES, ..tracepoint() }
}

/// One record with frames, then only their hash; gives the frames.
fn sent_once(records: &[Record]) -> &[u64] {
    let (first, rest) = records.split_first().unwrap();
    assert_eq!(first.stack_hash, None);
    let hash = stack::hash(first.header.tgid, &first.frames);
    assert!(hash.is_some());
    for record in rest {
        assert_eq!((record.stack_hash, record.header.stack_frames), (hash, 0));
        let truncated = |record: &Record| record.header.flags & FLAG_STACK_TRUNCATED;
        assert_eq!(truncated(record), truncated(first), "what holds for the frames holds for the hash");
    }
    &first.frames
}

#[test]
fn frames_are_sent_once_and_again_when_they_are_asked_for() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &with_stack()) else { return };
    let plan = site(&target, "main.Leaf", vec![]);
    let (sites, attachment) = session.arm(&target, std::slice::from_ref(&plan), Scope::Process(target.pid()));
    target.call("Shallow", 100, 1);
    let records = session.records();
    assert_eq!(records.len(), 100);
    let shallow = sent_once(&records).to_vec();
    assert_eq!(shallow.len(), 7);
    let saved = records[0].header.total_bytes - records[99].header.total_bytes;
    assert_eq!(saved, 6 * 8);

    target.call("Deep", 100, 1);
    let records = session.records();
    assert_eq!(sent_once(&records).len(), FRAMES as usize);

    // What was sent stays sent when the place is armed again.
    session.kernel.detach(attachment).unwrap();
    session.kernel.remove_sites(&sites).unwrap();
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    target.call("Shallow", 1, 1);
    let hash = stack::hash(target.pid(), &shallow).unwrap();
    assert_eq!(session.records()[0].stack_hash, Some(hash));
    session.kernel.forget_stack(hash).unwrap();
    target.call("Shallow", 3, 1);
    assert_eq!(sent_once(&session.records()), shallow);
}

#[test]
fn a_stack_of_one_frame_is_always_sent() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &Tracepoint { stack_frames: 1, ..tracepoint() }) else {
        return;
    };
    session.arm(&target, &[site(&target, "main.Leaf", vec![])], Scope::Process(target.pid()));
    target.call("Deep", 3, 1);
    let leaf = target.symbol("main.Leaf");
    assert!(session.records().iter().all(|record| record.frames == [leaf]));
}

#[test]
fn each_process_has_its_own_stacks() {
    let mut targets: [Target; 2] = Target::start_own();
    let tgids = targets.each_ref().map(Target::pid);
    let options = KernelOptions::default();
    let Some(mut session) = Session::with(&options, &targets[0], &with_stack(), &tgids) else { return };
    session.arm(&targets[0], &[site(&targets[0], "main.Leaf", vec![])], Scope::AllProcesses);
    for _ in 0..2 {
        targets.iter_mut().for_each(|target| {
            target.call("Deep", 5, 1);
        });
    }
    let (first, second): (Vec<Record>, Vec<Record>) =
        session.records().into_iter().partition(|record| record.header.tgid == tgids[0]);
    assert_eq!((first.len(), second.len()), (10, 10));
    assert_eq!(sent_once(&first), sent_once(&second), "the same code, not moved");
}

#[test]
fn frames_that_the_ring_had_no_room_for_are_sent_later() {
    let mut target = Target::start(Build::Static);
    let options = KernelOptions { ring_bytes: 2 * limits::MAX_RECORD_BYTES, ..KernelOptions::default() };
    let Some(mut session) = Session::with(&options, &target, &with_stack(), &[target.pid()]) else { return };
    session.arm(&target, &[site(&target, "main.Leaf", vec![])], Scope::Process(target.pid()));
    target.call("Shallow", 1000, 1);
    let full = session.counters().dropped;
    assert!(full > 0);
    target.call("Deep", 5, 1);
    assert_eq!(session.counters().dropped, full + 5);
    sent_once(&session.records());
    target.call("Deep", 5, 1);
    assert_eq!(sent_once(&session.records()).len(), FRAMES as usize);
}

#[test]
fn every_hit_has_its_stack() {
    // One slot: the two stacks take it from each other.
    for sent_stacks in [1, limits::MAX_SENT_STACKS] {
        let options = KernelOptions { sent_stacks, ..KernelOptions::default() };
        let Some(kernel) = session::kernel(&options) else { return };
        let mut target = Target::start(Build::Static);
        let mut planner = Planner::default();
        let options = DebugOptions { cache: Cache::none(), ..DebugOptions::from_environment(None) };
        let image = planner.add_image(Image::load(target.executable.clone(), &options, &|_| ()));
        let wanted = Wanted::at(LocationRequest::Function { name: "main.Leaf".into() });
        let plans = planner.plan(image, &wanted).unwrap().plans;
        let mut tracer = Tracer::start(kernel, planner).unwrap();
        let (path, pid) = (target.path.clone(), target.pid());
        let arm = |tracer: &mut Tracer| {
            let (plans, scope) = (plans.clone(), ProcessScope::Only(vec![pid]));
            let request = Request {
                stack_frames: FRAMES,
                ..Request::of("t_1", image, path.clone(), plans, scope, wanted.clone())
            };
            tracer.arm(request).unwrap().0
        };
        let id = arm(&mut tracer);
        // What is thrown away is known all the same.
        target.call("Deep", 1, 1);
        tracer.discard();
        let deep = stacks(&mut tracer, &mut target, "Deep");
        let shallow = stacks(&mut tracer, &mut target, "Shallow");
        assert_eq!(shallow.len(), 7, "{shallow:?}");
        assert_eq!(deep.len(), FRAMES as usize);
        assert_eq!(deep[..2], [shallow[0].clone(), shallow[1].clone()]);
        assert_eq!(stacks(&mut tracer, &mut target, "Deep"), deep);
        tracer.remove(id, DetachReason::Limit).unwrap();
        arm(&mut tracer);
        assert_eq!(stacks(&mut tracer, &mut target, "Shallow"), shallow);
    }
}

/// The stack that all hits of these calls have.
fn stacks(tracer: &mut Tracer, target: &mut Target, call: &str) -> Vec<Frame> {
    target.call(call, 20, 1);
    let mut hits: Vec<Hit> = Vec::new();
    let _ = tracer.poll_all(&mut |event| {
        match event {
            Event::Hit(hit) => hits.push(*hit),
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    });
    assert_eq!(hits.len(), 20);
    let first = hits[0].stack.clone().unwrap();
    for hit in &hits {
        assert_eq!(hit.stack.as_ref(), Some(&first));
        assert_eq!((hit.stack_unavailable, hit.stack_truncated), (false, call == "Deep"));
    }
    first
}
