//! What a tracepoint captures on each step of the budget's ladder.

use std::ops::ControlFlow;

use riptrace_agent::{
    binary::{cache::Cache, debug::DebugOptions},
    plan::sites::LocationRequest,
    probe::KernelOptions,
    trace::{Image, Planner, ProcessScope, Request, Tracer, Wanted, budget::Level},
};
use riptrace_common::wire::event::{Event, Hit, Role};

use super::{
    session,
    target::{Build, Target},
};

#[test]
fn each_step_captures_less() {
    let Some(kernel) = session::kernel(&KernelOptions::default()) else { return };
    let mut target = Target::start(Build::Static);
    let mut planner = Planner::default();
    let options = DebugOptions { cache: Cache::none(), ..DebugOptions::from_environment(None) };
    let image = planner.add_image(Image::load(target.executable.clone(), &options, &|_| ()));
    let wanted =
        Wanted { globals: true, ..Wanted::at(LocationRequest::Function { name: "main.Framed".into() }) };
    let planned = planner.plan(image, &wanted).unwrap();
    let mut tracer = Tracer::start(kernel, planner).unwrap();
    let scope = ProcessScope::Only(vec![target.pid()]);
    let request = Request {
        stack_frames: 8,
        ..Request::of("t_1", image, target.path.clone(), planned.plans, scope, wanted)
    };
    let (id, _) = tracer.arm(request).unwrap();
    let mut hits = |tracer: &mut Tracer| {
        target.call("Framed", 3, 1);
        let mut hits: Vec<Hit> = Vec::new();
        let _ = tracer.poll_all(&mut |event| {
            match event {
                Event::Hit(hit) => hits.push(*hit),
                other => panic!("{other:?}"),
            }
            ControlFlow::Continue(())
        });
        hits
    };
    let roles = |hit: &Hit| hit.variables.iter().map(|variable| variable.role).collect::<Vec<_>>();

    let whole = hits(&mut tracer);
    assert_eq!(whole.len(), 3);
    assert!(roles(&whole[0]).contains(&Role::Global) && whole[0].stack.is_some());
    let arguments = |hit: &Hit| {
        let arguments = hit.variables.iter().filter(|variable| variable.role == Role::Argument);
        arguments.cloned().collect::<Vec<_>>()
    };

    assert_eq!(tracer.lower(id, Level::Arguments).unwrap(), Level::Arguments);
    let reduced = hits(&mut tracer);
    assert_eq!(reduced.len(), 3);
    assert_eq!(roles(&reduced[0]), [Role::Argument; 3]);
    assert_eq!(arguments(&whole[0]), reduced[0].variables, "the values are those of the whole capture");
    assert!(reduced[0].stack.is_none());
    assert_eq!(reduced.iter().map(|hit| hit.seq).collect::<Vec<_>>(), [3, 4, 5]);

    assert_eq!(tracer.lower(id, Level::Count).unwrap(), Level::Count);
    assert!(hits(&mut tracer).is_empty());
    let counted = tracer.stats(id).unwrap();
    assert_eq!((counted.hits, counted.emitted, counted.throttled), (9, 6, 3));

    assert_eq!(tracer.lower(id, Level::Detached).unwrap(), Level::Detached);
    assert!(hits(&mut tracer).is_empty());
    assert_eq!(tracer.stats(id).unwrap().hits, 9);
    assert!(tracer.is_budget_exhausted());
}
