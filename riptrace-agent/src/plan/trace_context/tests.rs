use super::*;
use crate::{
    dwarf::VariableLocation,
    golang::{
        table::TypeTable,
        types::{FieldLayout, Kind},
    },
    plan::captures::Placed,
};

struct World {
    types: TypeTable,
    context: TypeId,
    key: TypeId,
    contexts: Vec<Implementation>,
    spans: Vec<TypeId>,
}

/// `context`, OpenTelemetry and `net/http`, as far as they matter.
fn world() -> World {
    let types = TypeTable::default();
    let (any, int, string) = (types.any(), types.int(), types.string());
    let context = types.add(CONTEXT, 16, Kind::Interface, Shape::Interface);
    let key = types.add(SPAN_KEY, 8, Kind::Int, Shape::Scalar);
    types.set_runtime_type(key, 0x100);
    let embeds = |name: &str, offset: u64, bytes: u64, ty: TypeId, more: &[(&str, u64, TypeId)]| {
        let mut fields = vec![FieldLayout { name: "Context".into(), embedded: true, offset, ty }];
        fields.extend(more.iter().map(|&(name, offset, ty)| FieldLayout {
            name: name.into(),
            embedded: false,
            offset,
            ty,
        }));
        types.add(name, bytes, Kind::Struct, Shape::Struct { fields })
    };
    let cancel = embeds("context.cancelCtx", 0, 80, context, &[]);
    let timer = embeds("context.timerCtx", 0, 112, cancel, &[("deadline", 88, int)]);
    let value = embeds("context.valueCtx", 0, 48, context, &[("key", 16, any), ("val", 32, any)]);
    let own = embeds("main.own", 24, 40, context, &[("padding", 0, string)]);
    let without = types.structure("main.rootless", &[("name", string)]);
    let contexts = [cancel, timer, value, own, without]
        .into_iter()
        .zip(1..)
        .map(|(ty, number)| Implementation { itab: 0x1000 * number, ty: types.pointer(ty) })
        .collect();

    let (bytes_16, bytes_8, byte) =
        (types.array(types.byte(), 16), types.array(types.byte(), 8), types.byte());
    let fields =
        [("traceID", 0, bytes_16), ("spanID", 16, bytes_8), ("traceFlags", 24, byte), ("remote", 56, byte)]
            .map(|(name, offset, ty)| FieldLayout { name: name.into(), embedded: false, offset, ty });
    let span_context =
        types.add(SPAN_CONTEXT, 64, Kind::Struct, Shape::Struct { fields: fields.into_iter().collect() });
    let recording =
        types.structure("sdk.recordingSpan", &[("parent", span_context), ("spanContext", span_context)]);
    let remote = types.structure("trace.nonRecordingSpan", &[("sc", span_context)]);
    let other = types.structure("main.fakeSpan", &[("name", string)]);
    let recording = types.pointer(recording);
    let spans = vec![recording, remote, other];
    for (ty, address) in [(recording, 0x200), (remote, 0x201), (other, 0x202)] {
        types.set_runtime_type(ty, address);
    }
    World { types, context, key, contexts, spans }
}

#[test]
fn each_context_leads_to_its_parent_and_a_value_s_context_to_a_span() {
    let world = world();
    let mut found: Vec<_> = links(&world.types, &world.contexts, &world.spans, world.key)
        .into_iter()
        .map(|link| (link.address, link.how, link.offset))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            (0x100, CONTEXT_KEY, 0),
            (0x200, CONTEXT_SPAN, 64),
            (0x201, CONTEXT_SPAN, 0),
            (0x1000, CONTEXT_PARENT, 0),
            (0x2000, CONTEXT_PARENT, 0),
            (0x3000, CONTEXT_VALUE, 0),
            (0x4000, CONTEXT_PARENT, 24),
        ]
    );
}

#[test]
fn a_program_without_spans_has_no_links() {
    let world = world();
    assert_eq!(links(&world.types, &world.contexts, &world.spans[2..], world.key), []);
    assert_eq!(links(&world.types, &world.contexts, &world.spans, world.context), [], "no key");
}

#[test]
fn contexts_come_before_requests_and_requests_before_what_holds_one() {
    let World { types, context, .. } = world();
    let string = types.string();
    let request = types.pointer(types.structure(REQUEST, &[("Method", string), ("ctx", context)]));
    let server = types.pointer(types.structure("main.server", &[("name", string), ("base", context)]));
    let gin = types.pointer(types.structure("gin.Context", &[("name", string), ("Request", request)]));
    let variable = |name: &str, ty| VisibleVariable {
        name: name.into(),
        role: riptrace_common::wire::event::Role::Local,
        ty,
        decl_line: 1,
        location: VariableLocation::Pieces(Vec::new()),
        dict_index: None,
    };
    let variables = [
        variable("gin", gin),
        variable("text", string),
        variable("server", server),
        variable("r", request),
        variable("ctx", context),
    ];
    let found: Vec<_> = ways(&types, &variables)
        .into_iter()
        .map(|(variable, way)| {
            let words: Vec<u64> = way.hops.iter().map(|hop| hop.word).collect();
            (variable.name.to_string(), words, way.offset)
        })
        .collect();
    let expected: [(&str, &[u64], u64); 4] =
        [("ctx", &[], 0), ("r", &[0], 16), ("server", &[0], 16), ("gin", &[0, 16], 16)];
    assert_eq!(found, expected.map(|(name, words, offset)| (name.to_owned(), words.to_vec(), offset)));
    let names = names(&types, &variables);
    assert!(!names.contains("text") && names.len() == 4);
}

#[test]
fn a_chain_begins_in_two_words_or_behind_pointers() {
    let pieces = [(0, Spot::Register(80)), (8, Spot::Register(40))].map(|(value_offset, spot)| Placed {
        value_offset,
        bytes: 8,
        spot,
    });
    let split = chain(&Access::Pieces(pieces.into())).unwrap();
    let on_stack = Placed { value_offset: 0, bytes: 16, spot: Spot::Stack(24) };
    let whole = chain(&Access::Pieces(vec![on_stack])).unwrap();
    assert_eq!((whole.word, whole.data), (Spot::Stack(24), Some(Spot::Stack(32))));
    let half = Placed { value_offset: 0, bytes: 8, spot: Spot::Register(80) };
    assert_eq!(chain(&Access::Pieces(vec![half])), None, "the data word has no place");

    let place = |spot: Spot| match spot {
        Spot::Register(at) => Some(at),
        Spot::Stack(at) => u32::try_from(200 + at).ok(),
        _ => None,
    };
    let behind = Chain { word: Spot::Stack(0), data: None, offsets: vec![16, 40] };
    let roots = plan(&[split, whole, behind], &place).unwrap().roots;
    let shown = roots.map(|root| (root.word, root.data, root.hops, root.offsets));
    assert_eq!(
        shown,
        [(80, 40, 0, [0; 3]), (224, 232, 0, [0; 3]), (200, 0, 2, [16, 40, 0]), (0, 0, NO_CONTEXT, [0; 3]),]
    );
    assert_eq!(plan(&[], &place), None);
}
