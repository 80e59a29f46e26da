//! Records of the kernel side, against the plan of a site whose variables lead to every kind of value.

use std::sync::Arc;

use riptrace_common::{
    abi::{
        ABI_VERSION,
        program::{TYPE_BYTES, TYPE_FIRST, TYPE_ITAB, TYPE_UNKNOWN},
        record::Header,
    },
    wire::{
        event::{Event, Frame, Role},
        number::Address,
    },
};

use super::{
    Input,
    plan::{every_kind, planned},
};
use crate::{
    decode::{DecodeContext, FunctionName, HostFacts, ProcessFacts, Symbols, decode, record as records},
    dwarf::{
        CapturedVariable, ClosureLayout, NamedConstant, Piece, Place, VariableLocation, VisibleVariable,
    },
    golang::{
        layout::Target,
        table::TypeTable,
        types::{TypeId, TypeSource},
    },
    plan::{CaptureLimits, path::PathExpression, types::TypeRegistry},
    render,
};

const BIAS: u64 = 0x1000_0000;
const HEAP: u64 = 0xc000_0000_1000;
const CODE: u64 = 0x4a_0000;

/// A record: the first byte's lowest bit says whether the rest is one, or a script that one is made by.
pub fn record(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let types = TypeTable::default();
    let node = every_kind(&types);
    let mut registry = TypeRegistry::new();
    let Ok(index) = registry.reserve(0, Target::value(node)) else { return };
    let _ = registry.compile(0, &types, &[(index, 4)], 4);
    let bytes = u32::try_from(types.get(node).bytes).unwrap_or(u32::MAX);
    let at = |offset| VariableLocation::Pieces(vec![Piece { bytes, place: Place::Frame(offset) }]);
    let variables = [
        ("v", at(0)),
        ("h", VariableLocation::Heap(vec![Piece { bytes: 8, place: Place::Register(3) }])),
        ("c", VariableLocation::Closure { register: 1, offset: 16, by_reference: flags & 2 == 0 }),
    ]
    .map(|(name, location)| VisibleVariable {
        name: name.into(),
        role: Role::Local,
        ty: node,
        decl_line: 1,
        location,
        dict_index: None,
    });
    let expressions: Vec<PathExpression> = ["v.N[1].SS[2]", "v.Next.Next.M", "h.R[2]", "c.B"]
        .iter()
        .filter(|_| flags & 4 != 0)
        .filter_map(|text| PathExpression::parse(text).ok())
        .collect();
    let Some(plan) = planned(&mut registry, &types, &variables, &expressions) else { return };

    let record = if flags & 1 == 0 {
        input.rest.to_vec()
    } else {
        scripted(&mut input, plan.root_bytes, registry.len())
    };
    let _ = records::header(&record);
    let symbols = Binary { captured: node, data: (0..=255).collect() };
    let text: Arc<str> = Arc::from("x");
    let host = HostFacts {
        host: Arc::clone(&text),
        boot_id: Arc::clone(&text),
        agent: Arc::clone(&text),
        session: None,
        realtime_minus_monotonic_ns: if flags & 8 == 0 { 1_795_607_876_543_210_988 } else { i64::MAX },
    };
    let process =
        ProcessFacts { pid: 1, start_ns: None, name: Arc::clone(&text), build_id: None, container: None };
    let max_items = if flags & 16 == 0 { 8 } else { u32::MAX };
    let context = DecodeContext {
        plan: &plan,
        types: &types,
        registry: &registry,
        image: 0,
        symbols: &symbols,
        limits: CaptureLimits { max_items, ..CaptureLimits::default() },
        tracepoint_id: &text,
        host: &host,
        process: &process,
        sent_stack: (flags & 64 != 0).then_some(&[BIAS + CODE, BIAS]),
        redaction: None,
    };
    let Ok(decoded) = decode(&record, &context) else { return };
    let event = Event::Hit(Box::new(decoded.hit));
    let json = render::json::line(&event);
    assert!(json.len() <= 1 << 20, "{} bytes of JSON", json.len());
    if flags & 32 != 0 {
        assert!(serde_json::from_str::<Event>(&json).is_ok(), "what is written can be read");
    }
    let _ = render::text::event(&event, &render::text::TextOptions::default());
}

/// A record whose parts fit together and whose words often lead somewhere.
fn scripted(input: &mut Input<'_>, root_bytes: u32, types: usize) -> Vec<u8> {
    let flags = u32::from(input.u8());
    let stack: Vec<u64> = (0..input.u8() % 8).map(|_| word(input)).collect();
    let mut body = Vec::new();
    chunk(&mut body, 0, 0, 0, 0, root_bytes as usize, input);
    while !input.is_empty() && body.len() < 1 << 16 {
        let address = HEAP + u64::from(input.u8()) * 8;
        let type_index = match input.u8() {
            255 => TYPE_BYTES,
            254 => TYPE_UNKNOWN,
            253 => TYPE_ITAB,
            other => TYPE_FIRST + u32::from(other) % u32::try_from(types.max(1)).unwrap_or(1),
        };
        let (depth, chunk_flags) = (input.u8() & 7, input.u8() & 15);
        let words = usize::from(input.u8());
        chunk(&mut body, address, type_index, depth, chunk_flags, words * 8, input);
    }
    let stack_offset = size_of::<Header>() + body.len();
    let mut out = Vec::new();
    let half = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let total = stack_offset + stack.len() * 8;
    for word in [ABI_VERSION, half(total), 3, 1, 2, flags, half(stack_offset), half(stack.len())] {
        out.extend(word.to_le_bytes());
    }
    for word in [17_u64, 123_456_789_012] {
        out.extend(word.to_le_bytes());
    }
    for word in [4242_u32, 4250, 1, flags >> 6] {
        out.extend(word.to_le_bytes());
    }
    for word in [812_u64, 18, 1, 256, BIAS, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(body);
    out.extend(stack.iter().flat_map(|word| word.to_le_bytes()));
    out
}

fn chunk(
    out: &mut Vec<u8>,
    address: u64,
    type_index: u32,
    depth: u8,
    flags: u8,
    bytes: usize,
    input: &mut Input<'_>,
) {
    out.extend(address.to_le_bytes());
    for half in [type_index, 1, u32::try_from(bytes).unwrap_or(0)] {
        out.extend(half.to_le_bytes());
    }
    out.extend([depth, flags, 0, 0]);
    let end = out.len() + bytes;
    while out.len() < end {
        out.extend(word(input).to_le_bytes());
    }
    out.truncate(end);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// A word that leads somewhere in these records, or is just odd.
fn word(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        small @ 0..=31 => u64::from(small),
        at @ 32..=159 => HEAP + u64::from(at - 32) * 8,
        at @ 160..=191 => BIAS + 0x9000 + u64::from(at - 160) * 64,
        at @ 192..=199 => BIAS + CODE + u64::from(at - 192) * 8,
        200..=209 => u64::MAX,
        210..=219 => u64::from_le_bytes([input.u8(); 8]),
        _ => input.u64(),
    }
}

/// A binary with one closure, and a little read-only data.
struct Binary {
    captured: TypeId,
    data: Vec<u8>,
}

impl Symbols for Binary {
    fn frames(&self, link_pc: u64, is_return_address: bool) -> Vec<Frame> {
        self.function(link_pc.wrapping_sub(u64::from(is_return_address)))
            .map(|found| Frame {
                function: found.name,
                file: found.file,
                line: found.line,
                pc: Address(link_pc),
                inlined: false,
            })
            .into_iter()
            .collect()
    }

    fn function(&self, link_pc: u64) -> Option<FunctionName> {
        (CODE..CODE + 64).contains(&link_pc).then(|| FunctionName {
            name: "main.f.func1".into(),
            file: "/src/main.go".into(),
            line: 7,
        })
    }

    fn read_only(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        let start = usize::try_from(link_address.checked_sub(0x9000)?).ok()?;
        self.data.get(start..start.checked_add(bytes)?)
    }

    fn closure(&self, code: u64) -> Option<ClosureLayout> {
        (code == CODE).then(|| ClosureLayout {
            function: "main.f.func1".into(),
            captured: [(8, false), (u64::MAX - 4, true)]
                .map(|(offset, by_reference)| CapturedVariable {
                    name: "n".into(),
                    offset,
                    ty: self.captured,
                    by_reference,
                })
                .to_vec(),
            bytes: 512,
        })
    }

    fn constants(&self, _: &str) -> Arc<[NamedConstant]> {
        Arc::from([])
    }
}
