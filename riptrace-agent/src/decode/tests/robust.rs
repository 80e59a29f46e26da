//! Arbitrary and damaged records: never a panic, never an unbounded hit.

use proptest::prelude::*;
use riptrace_common::{
    abi::{
        program::{TYPE_BYTES, TYPE_ITAB, TYPE_UNKNOWN},
        record::Header,
    },
    wire::event::{Event, Hit},
};

use super::super::testing::{BIAS, Bench, Capture, ROOT, index, variable, words};
use crate::{
    golang::types::{FieldLayout, Kind, Shape, TypeId},
    plan::{RootPiece, RootPlace, ValueSource},
    render,
};

const HEAP: u64 = 0xc000_0000_1000;

/// A binary whose one variable leads to every kind.
fn everything() -> (Bench, TypeId) {
    let mut bench = Bench::default();
    let types = &mut bench.types;
    let (int, byte, string) = (types.int(), types.byte(), types.string());
    let (any, error, func) = (types.any(), types.error(), types.func());
    let node = types.structure("main.Node", &[("V", int), ("Next", int)]);
    let next = types.pointer(node);
    let (strings, bytes, chan) = (types.slice(string), types.slice(byte), types.chan(any));
    let (classic, _) = types.classic_map(string, any);
    let (swiss, _, _) = types.swiss_map(int, any, true);
    let (paired, _, _) = types.swiss_map(any, next, false);
    let word = types.scalar("uint64", Kind::Uint64, 8);
    let time = types.structure("time.Time", &[("wall", word), ("ext", int), ("loc", next)]);
    let array = types.array(3, next);
    let own = types.structure(
        "main.Node",
        &[
            ("Next", next),
            ("S", string),
            ("SS", strings),
            ("B", bytes),
            ("A", any),
            ("E", error),
            ("F", func),
            ("C", chan),
            ("M", classic),
            ("W", swiss),
            ("P", paired),
            ("T", time),
            ("R", array),
        ],
    );
    let shape = types.get_shape(own);
    let bytes = types.get_bytes(own);
    types.replace(node, shape);
    types.resize(node, bytes);
    for (at, ty) in [int, string, next, func, chan, classic, swiss, node, time].into_iter().enumerate() {
        types.runtime_type(0x9000 + at as u64 * 64, ty);
    }
    bench.binary.functions.insert(0x4a_0000, "main.f");
    bench.binary.closures.insert(0x4a_0000, vec![("n", 8, node, false), ("m", 8, next, true)]);
    (bench, node)
}

fn check(bench: &Bench, ty: TypeId, record: &[u8], root_bytes: usize) -> Option<Hit> {
    let bytes = u32::try_from(bench.types.get_bytes(ty)).unwrap();
    let place = RootPlace::At { root_offset: ROOT, window: Some(0) };
    let pieces = vec![RootPiece { value_offset: 0, bytes, place }];
    let through =
        ValueSource::Through { word: ROOT, chunk_type: index(ty), offset: 8, by_reference: Some(0) };
    let plan = bench
        .plan(vec![variable("v", ty, ValueSource::Root(pieces)), variable("w", ty, through)], root_bytes);
    let decoded = bench.decode(&plan, record).ok()?;
    let event = Event::Hit(Box::new(decoded.hit));
    let json = render::json::line(&event);
    assert!(json.len() <= 1 << 20, "{} bytes", json.len());
    let back: Event = serde_json::from_str(&json).expect("a reader with the usual nesting limit reads it");
    // What JSON can't tell apart (integers and whole floats) is not compared: the text is the same.
    assert_eq!(render::json::line(&back).len(), json.len());
    let _ = render::text::event(&event, &render::text::TextOptions::default());
    match event {
        Event::Hit(hit) => Some(*hit),
        _ => None,
    }
}

/// Words that lead somewhere in these records, or are just odd.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..40_u64).prop_map(|at| HEAP + at * 8),
        2 => (0..10_u64).prop_map(|at| BIAS + 0x9000 + at * 64),
        2 => 0..6_u64,
        1 => Just(BIAS + 0x4a_0000),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (bench, ty) = everything();
        check(&bench, ty, &bytes, 300);
    }

    #[test]
    fn records_of_arbitrary_words_stay_bounded(
        root in prop::collection::vec(word(), 0..60),
        chunks in prop::collection::vec((0..40_u64, 0..90_u32, 0..6_u8, 0..8_u8, prop::collection::vec(word(), 0..80)), 0..20),
        flags in 0..32_u32,
        max_items in 0..70_u32,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (mut bench, ty) = everything();
        bench.limits.max_items = max_items;
        let mut capture = Capture::of(&words(&root)).flags(flags);
        for (at, type_index, depth, chunk_flags, data) in &chunks {
            let type_index = match type_index { 0 => TYPE_BYTES, 1 => TYPE_UNKNOWN, 2 => TYPE_ITAB, other => *other };
            capture = capture.chunk_with(HEAP + at * 8, type_index, *depth, *chunk_flags, &words(data));
        }
        let root_bytes = capture.root.len();
        let mut record = capture.record().to_vec();
        check(&bench, ty, &record, root_bytes).expect("a well-formed record is decoded");
        for (at, byte) in damage {
            let at = at.index(record.len());
            record[at] = byte;
        }
        check(&bench, ty, &record, root_bytes);
        record.truncate(record.len() / 2);
        check(&bench, ty, &record, root_bytes);
    }
}

#[test]
fn a_hit_stays_below_a_mebibyte() {
    let mut bench = Bench::default();
    bench.limits.max_items = 100_000;
    let int = bench.types.int();
    let ints = bench.types.slice(int);
    let many = bench.types.slice(ints);
    // 1,000 slices, all of the same 2,000 numbers.
    let headers: Vec<u64> = (0..1_000).flat_map(|_| [HEAP, 2_000, 2_000]).collect();
    let numbers: Vec<u64> = (0..2_000).collect();
    let capture = Capture::of(&words(&[HEAP + (1 << 20), 1_000, 1_000]))
        .chunk(HEAP + (1 << 20), index(ints), &words(&headers))
        .chunk(HEAP, index(int), &words(&numbers));
    let hit = check_slice(&bench, many, &capture);
    let text = render::text::hit(&hit, &render::text::TextOptions::default());
    assert!(text.contains(" more]"), "what was left out is labelled");
}

fn check_slice(bench: &Bench, ty: TypeId, capture: &Capture) -> Hit {
    check(bench, ty, &capture.record(), capture.root.len()).unwrap()
}

#[test]
fn types_that_contain_themselves_end() {
    let mut bench = Bench::default();
    let int = bench.types.int();
    let endless = bench.types.structure("main.Endless", &[("A", int), ("B", int)]);
    let field = |name: &str, offset| FieldLayout { name: name.into(), embedded: false, offset, ty: endless };
    bench.types.replace(endless, Shape::Struct { fields: vec![field("A", 0), field("B", 0)] });
    let capture = Capture::of(&words(&[1, 2]));
    check_slice(&bench, endless, &capture);

    let list = bench.types.slice(endless);
    bench.types.replace(endless, Shape::Slice { elem: endless });
    bench.types.resize(endless, 24);
    let capture =
        Capture::of(&words(&[HEAP, 2, 2])).chunk(HEAP, index(endless), &words(&[HEAP, 2, 2, HEAP, 2, 2]));
    check_slice(&bench, list, &capture);
}

#[test]
fn a_record_is_cut_anywhere_without_a_panic() {
    let (bench, ty) = everything();
    let capture = Capture::of(&words(&[HEAP; 30]))
        .chunk(HEAP, index(ty), &words(&[HEAP + 8; 40]))
        .chunk(HEAP, TYPE_BYTES, b"text");
    let record = capture.record();
    for end in 0..record.len() {
        check(&bench, ty, &record[..end], capture.root.len());
    }
    assert!(record.len() > size_of::<Header>());
}
