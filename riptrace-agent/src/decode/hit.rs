//! Puts a hit together: who, when, where, and the variables within the bounds of one hit.

use std::sync::Arc;

use riptrace_common::{
    abi::record::{
        FLAG_CALL_SEEN, FLAG_GOEXIT, FLAG_GOROUTINE, FLAG_PANIC, FLAG_STACK_TRUNCATED, FLAG_SYSTEM_STACK,
        Header,
    },
    wire::{
        event::{Frame, Hit, Location, Trigger, Variable},
        number::Address,
        value::{Limit, Value},
    },
};

use super::{
    DecodeContext, DecodeError, Decoded,
    budget::{MAX_HIT_JSON_BYTES, has_content, json_bytes},
    memory::{Lack, Memory},
    record::{CarriedStack, Record},
    root::{Assembled, Root},
    time, trace_context,
    value::Decoder,
};
use crate::golang::types::{GoType, TypeId};

/// What a frame takes beside its names.
const FRAME_BYTES: usize = 96;
/// What a hit takes beside its location, its variables and its stack.
const HIT_BYTES: usize = 1024;
/// Function name of a frame outside the binary.
const UNKNOWN_FUNCTION: &str = "?";
/// The function through which C calls Go.
const CALLED_BY_C: &str = "runtime.cgocallback";

pub(super) fn decode(bytes: &[u8], context: &DecodeContext<'_>) -> Result<Decoded, DecodeError> {
    let record = Record::parse(bytes)?;
    if record.header.flags & (FLAG_PANIC | FLAG_GOEXIT) != 0 {
        let hit = frame_of_hit(&record.header, context);
        return Ok(Decoded { hit, span: None, unknown_types: Vec::new(), unknown_code: Vec::new() });
    }
    if record.root.data.len() != context.plan.root_bytes as usize {
        return Err(DecodeError::OtherPlan {
            found: record.root.data.len(),
            planned: context.plan.root_bytes,
        });
    }
    let memory = Memory::new(&record, context.limits.max_depth, context.symbols, context.registry);
    let root = Root::new(record.root.data, &record.header, &context.plan.windows);
    let types = real_types(root, &memory, context);
    let assembled: Vec<(Assembled<'_>, TypeId)> = context
        .plan
        .variables
        .iter()
        .zip(types)
        .map(|(variable, ty)| (root.assemble(variable, context.types.get(variable.ty).bytes, &memory), ty))
        .collect();

    let mut decoder = Decoder::new(context, &memory);
    let mut variables = decode_variables(&mut decoder, &assembled, true);
    if decoder.budget.exhausted() {
        // Too large: show each object once in the hit, not once in each variable.
        decoder = Decoder::new(context, &memory);
        variables = decode_variables(&mut decoder, &assembled, false);
    }
    let taken = decoder.budget.taken();
    let (unknown_types, unknown_code) = (decoder.unknown_types, decoder.unknown_code);

    let mut hit = Hit { variables, ..frame_of_hit(&record.header, context) };
    let span = trace_context::of_record(&record).or_else(|| trace_context::of_requests(&hit.variables));
    if let Some(span) = span {
        (hit.trace_id, hit.span_id) = (Some(span.trace_id()), Some(span.span_id()));
    }
    let frames = match &record.stack {
        CarriedStack::Frames(frames) => Some(frames.as_slice()).filter(|frames| !frames.is_empty()),
        CarriedStack::Hash(_) => {
            hit.stack_unavailable = context.sent_stack.is_none();
            context.sent_stack
        }
    };
    if let Some(frames) = frames {
        let frames = stack(frames, &memory, context);
        hit.stack_truncated = record.header.flags & FLAG_STACK_TRUNCATED != 0 || ends_in_c(&frames);
        hit.stack = Some(frames);
    }
    // To count the bytes takes as long as to write them; a character of a name takes six at the most.
    if (taken + names_bytes(&hit)).saturating_mul(6) > MAX_HIT_JSON_BYTES {
        shrink(&mut hit);
    }
    Ok(Decoded { hit, span, unknown_types, unknown_code })
}

/// The variables' types; in an instantiated generic function the real ones, as far as its dictionary tells them.
fn real_types(root: Root<'_>, memory: &Memory<'_>, context: &DecodeContext<'_>) -> Vec<TypeId> {
    let mut types: Vec<TypeId> = context.plan.variables.iter().map(|variable| variable.ty).collect();
    let Some(plan) = &context.plan.dictionary else { return types };
    let Some(dictionary) = root.word(plan.word).map(|address| memory.link_address(address)) else {
        return types;
    };
    for (variable, index) in &plan.variables {
        let real = dictionary
            .checked_add(u64::from(index.word) * 8)
            .and_then(|entry| context.symbols.pointer(entry))
            .and_then(|runtime_type| context.types.by_runtime_type(runtime_type))
            .and_then(|real| index.real_type(context.types, real));
        // A shape type and the real one have the same layout; anything else is not the real one.
        if let (Some(ty), Some(real)) = (types.get_mut(*variable), real)
            && same_layout(&context.types.get(*ty), &context.types.get(real))
        {
            *ty = real;
        }
    }
    types
}

fn same_layout(shape: &GoType, real: &GoType) -> bool {
    shape.bytes == real.bytes && shape.kind == real.kind
}

fn decode_variables<'a>(
    decoder: &mut Decoder<'a>,
    assembled: &'a [(Assembled<'a>, TypeId)],
    each_whole: bool,
) -> Vec<Variable> {
    decoder
        .context
        .plan
        .variables
        .iter()
        .zip(assembled)
        .map(|(planned, (assembled, ty))| {
            if each_whole {
                decoder.forget_shown();
            }
            decoder.budget.take(planned.name.len() + 64);
            let value = decoder.value(*ty, assembled.view());
            Variable { name: Arc::clone(&planned.name), role: planned.role, value }
        })
        .collect()
}

fn frame_of_hit(header: &Header, context: &DecodeContext<'_>) -> Hit {
    let DecodeContext { plan, host, process, tracepoint_id, .. } = context;
    let goroutine = (header.flags & FLAG_GOROUTINE != 0).then_some(header.goid);
    let seen = header.flags & FLAG_CALL_SEEN != 0;
    let time_ns = header.ktime_ns.saturating_add_signed(host.realtime_minus_monotonic_ns);
    Hit {
        session: host.session.clone(),
        tracepoint: Arc::clone(tracepoint_id),
        seq: header.seq,
        host: Arc::clone(&host.host),
        boot_id: Arc::clone(&host.boot_id),
        agent: Arc::clone(&host.agent),
        pid: process.pid,
        process_start_ns: process.start_ns,
        tid: header.tid,
        process: Arc::clone(&process.name),
        build_id: process.build_id.clone(),
        container: process.container.clone(),
        goroutine,
        parent_goroutine: goroutine.and(Some(header.parent_goid)).filter(|goid| *goid != 0),
        system_stack: header.flags & FLAG_SYSTEM_STACK != 0,
        time: time::rfc3339_utc(time_ns),
        time_ns,
        ktime_ns: header.ktime_ns,
        cpu: header.cpu,
        cpu_seq: header.cpu_seq,
        location: plan.location.clone(),
        event: match header.flags {
            flags if flags & FLAG_PANIC != 0 => Trigger::Panic,
            flags if flags & FLAG_GOEXIT != 0 => Trigger::Goexit,
            _ => plan.trigger,
        },
        duration_ns: seen.then_some(header.duration_ns),
        entry_seq: seen.then_some(header.entry_seq),
        variables: Vec::new(),
        message: None,
        stack: None,
        stack_truncated: false,
        stack_unavailable: false,
        started_at: goroutine.and_then(|_| started_at(header, context)),
        uncertainty_ns: None,
        clock_epoch: None,
        trace_id: None,
        span_id: None,
        edge: None,
        order: None,
        certificate: None,
        late: false,
    }
}

/// The `go` statement that made the goroutine.
fn started_at(header: &Header, context: &DecodeContext<'_>) -> Option<Frame> {
    // What no goroutine started was started by the runtime, by no statement.
    let is_known = header.gopc != 0 && header.parent_goid != 0;
    let link_pc = is_known.then(|| header.gopc.wrapping_sub(header.load_bias))?;
    context.symbols.frames(link_pc, true).into_iter().next()
}

fn stack(counters: &[u64], memory: &Memory<'_>, context: &DecodeContext<'_>) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (index, counter) in counters.iter().enumerate() {
        let link_pc = memory.link_address(*counter);
        // The hit's own frame is where its location is; the armed instruction may belong to another line.
        let is_own = index == 0 && link_pc == context.plan.link_address;
        let at = if is_own { context.plan.entry_address } else { link_pc };
        let mut found = context.symbols.frames(at, index != 0);
        if is_own {
            let pc = context.plan.fault_address.unwrap_or(link_pc);
            found.iter_mut().for_each(|frame| frame.pc = Address(pc));
        }
        if found.is_empty() {
            frames.push(Frame {
                function: Arc::from(UNKNOWN_FUNCTION),
                file: Arc::from(""),
                line: 0,
                pc: Address(*counter),
                inlined: false,
            });
        } else {
            frames.extend(found);
        }
    }
    frames
}

/// Where C called Go the frame pointers lead into the C stack, and the Go frames behind it are not found.
fn ends_in_c(frames: &[Frame]) -> bool {
    frames.last().is_some_and(|frame| &*frame.function == CALLED_BY_C)
}

/// About what a hit takes beside its variables.
fn names_bytes(hit: &Hit) -> usize {
    let frames = hit.stack.iter().flatten().chain(&hit.started_at);
    let frames = frames.map(|frame| frame.function.len() + frame.file.len() + FRAME_BYTES);
    let Location { file, function, inlined_into, .. } = &hit.location;
    let location = file.len() + function.len() + inlined_into.as_ref().map_or(0, |name| name.len());
    frames.sum::<usize>() + location + HIT_BYTES
}

/// The budget is an estimate; what is promised is the size itself.
fn shrink(hit: &mut Hit) {
    let mut excess = json_bytes(hit).saturating_sub(MAX_HIT_JSON_BYTES);
    while excess > 0 {
        let largest = hit
            .variables
            .iter_mut()
            .filter(|variable| has_content(&variable.value))
            .max_by_key(|variable| json_bytes(&variable.value));
        match largest {
            Some(variable) => variable.value = cut(&variable.value),
            None if hit.stack.is_some() => {
                hit.stack = None;
                hit.stack_truncated = true;
            }
            None => break,
        }
        excess = json_bytes(hit).saturating_sub(MAX_HIT_JSON_BYTES);
    }
}

fn cut(value: &Value) -> Value {
    let mut cut = Value {
        type_name: value.type_name.clone(),
        kind: value.kind,
        len: value.len,
        cap: value.cap,
        addr: value.addr,
        ..Value::default()
    };
    Lack::Limit(Limit::MaxBytes).label(&mut cut);
    cut
}
