//! Each kind, whole, cut and unreadable.

use riptrace_common::{
    abi::{
        program::{TYPE_BYTES, TYPE_CLOSURE_WORD, TYPE_ITAB, TYPE_SPAN, TYPE_UNKNOWN},
        record::{
            CHUNK_CUT_BYTES, CHUNK_TORN, FLAG_BYTES_EXHAUSTED, FLAG_GOROUTINE, FLAG_STACK_SENT,
            FLAG_STACK_TRUNCATED, FLAG_STEPS_EXHAUSTED,
        },
    },
    wire::{
        number::Scalar,
        value::{Kind, Limit, Truncated, Unavailable},
    },
};

use super::super::testing::{BIAS, Bench, Capture, GO_STATEMENT, ROOT, index, variable, words};
use crate::{
    decode::{DecodeError, RecordError},
    dwarf::DictIndex,
    golang::types::Shape,
    plan::{DictionaryPlan, RootPiece, RootPlace, ValueSource},
};

const HEAP: u64 = 0xc000_0000_1000;
const HEAP_2: u64 = 0xc000_0000_2000;
const HEAP_3: u64 = 0xc000_0000_3000;

#[test]
fn scalars_are_read_by_kind_and_width() {
    for (name, kind, bytes, data, expect) in [
        ("bool", Kind::Bool, 1, vec![1], "true"),
        ("int8", Kind::Int8, 1, vec![0x80], "-128"),
        ("int16", Kind::Int16, 2, vec![0xff, 0xff], "-1"),
        ("int32", Kind::Int32, 4, vec![1, 0, 0, 0x80], "-2147483647"),
        ("int", Kind::Int, 8, words(&[u64::MAX]), "-1"),
        ("uint8", Kind::Uint8, 1, vec![200], "200"),
        ("uint64", Kind::Uint64, 8, words(&[u64::MAX]), "18446744073709551615"),
        ("uintptr", Kind::Uintptr, 8, words(&[4096]), "4096"),
        ("float32", Kind::Float32, 4, 0.1_f32.to_le_bytes().to_vec(), "0.1"),
        ("float64", Kind::Float64, 8, 2.5e-9_f64.to_le_bytes().to_vec(), "2.5e-09"),
        ("float64", Kind::Float64, 8, 1e300_f64.to_le_bytes().to_vec(), "1e+300"),
        ("float64", Kind::Float64, 8, f64::NAN.to_le_bytes().to_vec(), "NaN"),
        (
            "complex64",
            Kind::Complex64,
            8,
            [1.5_f32.to_le_bytes(), (-2_f32).to_le_bytes()].concat(),
            "(1.5 + -2i)",
        ),
        (
            "complex128",
            Kind::Complex128,
            16,
            [f64::INFINITY.to_le_bytes(), 0_f64.to_le_bytes()].concat(),
            "(+Inf + 0i)",
        ),
    ] {
        let mut bench = Bench::default();
        let ty = bench.types.scalar(name, kind, bytes);
        assert_eq!(bench.text(ty, &Capture::of(&data)), expect, "{name}");
    }
}

#[test]
fn strings_show_their_captured_part_and_their_true_length() {
    let mut bench = Bench::default();
    bench.limits.max_string = 8;
    let ty = bench.types.string();
    let at = |len: u64| Capture::of(&words(&[HEAP, len]));
    for (capture, expect) in [
        (Capture::of(&words(&[0, 0])), r#""""#),
        (at(6).chunk(HEAP, TYPE_BYTES, b"widget"), r#""widget""#),
        (at(20).chunk(HEAP, TYPE_BYTES, b"01234567"), r#""01234567"…+12 more"#),
        (at(20).chunk_with(HEAP, TYPE_BYTES, 0, CHUNK_CUT_BYTES, b"0123"), r#""0123"…+16 more"#),
        // Cut within "π": the character is left out, not shown broken.
        (at(20).chunk(HEAP, TYPE_BYTES, b"0123456\xcf"), r#""0123456"…+13 more"#),
        (at(3).chunk(HEAP, TYPE_BYTES, b"a\xff\x1b"), r#""a\xff\x1b""#),
        (at(6).fault(HEAP, TYPE_BYTES), "(unreadable memory)"),
        (at(6), "(past the capture's budget)"),
        (at(6).flags(FLAG_BYTES_EXHAUSTED), "string len: 6 … (max bytes)"),
        (at(6).flags(FLAG_STEPS_EXHAUSTED), "(past the capture's budget)"),
        // A part of a longer string that was captured for another variable.
        (at(3).chunk(HEAP - 2, TYPE_BYTES, b"xxabcyy"), r#""abc""#),
        (at(u64::MAX), "(bad debug info)"),
    ] {
        assert_eq!(bench.text(ty, &capture), expect);
    }
    let cut = bench.value(ty, &at(20).chunk_with(HEAP, TYPE_BYTES, 0, CHUNK_CUT_BYTES, b"0123"));
    assert_eq!(cut.truncated, Some(Truncated { by: Limit::MaxBytes, captured: 4 }));
    assert_eq!(cut.len, Some(20));
    let cut = bench.value(ty, &at(20).chunk(HEAP, TYPE_BYTES, b"01234567"));
    assert_eq!(cut.truncated, Some(Truncated { by: Limit::MaxString, captured: 8 }));
    let binary = bench.value(ty, &at(3).chunk(HEAP, TYPE_BYTES, b"a\xff\x1b"));
    assert_eq!((binary.base64.as_deref(), binary.value), (Some("Yf8b"), None));
}

#[test]
fn constant_strings_come_from_the_file_when_their_page_was_not_resident() {
    let mut bench = Bench::default();
    bench.limits.max_string = 4;
    let ty = bench.types.string();
    bench.binary.read_only = vec![(0x5000, b"constant".to_vec())];
    let capture = Capture::of(&words(&[BIAS + 0x5000, 8])).fault(BIAS + 0x5000, TYPE_BYTES);
    assert_eq!(bench.text(ty, &capture), r#""cons"…+4 more"#);
}

#[test]
fn slices_and_arrays_show_elements_up_to_the_limits() {
    let mut bench = Bench::default();
    bench.limits.max_items = 3;
    let (int, byte, string) = (bench.types.int(), bench.types.byte(), bench.types.string());
    let (ints, bytes, strings) = (bench.types.slice(int), bench.types.slice(byte), bench.types.slice(string));
    let (four, two) = (bench.types.array(4, int), bench.types.array(2, int));
    let at = |len: u64, cap: u64| Capture::of(&words(&[HEAP, len, cap]));
    for (ty, capture, expect) in [
        (ints, Capture::of(&words(&[0, 0, 0])), "[]int len: 0, cap: 0, nil"),
        (ints, at(0, 4), "[]int len: 0, cap: 4, []"),
        (ints, at(2, 4).chunk(HEAP, index(int), &words(&[1, 2])), "[]int len: 2, cap: 4, [1,2]"),
        (
            ints,
            at(5, 5).chunk(HEAP, index(int), &words(&[1, 2, 3])),
            "[]int len: 5, cap: 5, [1,2,3,…+2 more]",
        ),
        (
            ints,
            at(3, 5).chunk_with(HEAP, index(int), 1, CHUNK_CUT_BYTES, &words(&[1, 2])[..12]),
            "[]int len: 3, cap: 5, [1,…+2 more]",
        ),
        (ints, at(3, 5).fault(HEAP, index(int)), "(unreadable memory)"),
        (ints, at(3, 2), "(bad debug info)"),
        (
            strings,
            at(2, 2).chunk(HEAP, index(string), &words(&[HEAP_2, 1, 0, 0])).chunk(HEAP_2, TYPE_BYTES, b"a"),
            r#"[]string len: 2, cap: 2, ["a",""]"#,
        ),
        (bytes, at(5, 8).chunk(HEAP, index(byte), b"hi\n"), r#"[]uint8 len: 5, cap: 8, "hi\n"…+2 more"#),
        (two, Capture::of(&words(&[1, 2])), "[2]int [1,2]"),
        (four, Capture::of(&words(&[1, 2, 3, 4])), "[4]int [1,2,3,…+1 more]"),
    ] {
        assert_eq!(bench.text(ty, &capture), expect);
    }
    let value = bench.value(bytes, &at(5, 8).chunk(HEAP, index(byte), b"hi\n"));
    assert_eq!(value.truncated, Some(Truncated { by: Limit::MaxItems, captured: 3 }));
    assert_eq!((value.base64.as_deref(), value.elems), (Some("aGkK"), None));
}

#[test]
fn structs_keep_their_fields_in_order() {
    let mut bench = Bench::default();
    let (int, string) = (bench.types.int(), bench.types.string());
    let inner = bench.types.structure("main.Inner", &[("A", int)]);
    let order =
        bench.types.structure("main.Order", &[("ID", int), ("+Inner", inner), ("_", int), ("Name", string)]);
    let pointer = bench.types.pointer(order);
    let capture = Capture::of(&words(&[HEAP]))
        .chunk(HEAP, index(order), &words(&[7, 1, 0, HEAP_2, 6]))
        .chunk(HEAP_2, TYPE_BYTES, b"widget");
    assert_eq!(
        bench.text(pointer, &capture),
        r#"*main.Order {ID: 7, Inner: main.Inner {A: 1}, _: 0, Name: "widget"}"#
    );
    let value = bench.value(pointer, &capture);
    let fields = value.elem.unwrap().fields.unwrap();
    assert!(fields[1].embedded && !fields[0].embedded);
}

#[test]
fn pointers_are_followed_as_far_as_was_captured() {
    let mut bench = Bench::default();
    bench.limits.max_depth = 1;
    let int = bench.types.int();
    let node = bench.types.structure("main.Node", &[("V", int), ("Next", int)]);
    let pointer = bench.types.pointer(node);
    let own = bench.types.structure("main.Node", &[("V", int), ("Next", pointer)]);
    // main.Node's Next is a *main.Node.
    let shape = bench.types_shape(own);
    bench.types.replace(node, shape);
    let at = || Capture::of(&words(&[HEAP]));
    for (capture, expect) in [
        (Capture::of(&words(&[0])), "*main.Node nil"),
        (at().chunk(HEAP, index(node), &words(&[1, 0])), "*main.Node {V: 1, Next: *main.Node nil}"),
        (
            at().chunk(HEAP, index(node), &words(&[1, HEAP_2])),
            "*main.Node {V: 1, Next: (*main.Node)(0xc00000002000) … (max depth)}",
        ),
        (
            at().chunk(HEAP, index(node), &words(&[1, HEAP])),
            "*main.Node {V: 1, Next: (*main.Node)(0xc00000001000) (shown before)}",
        ),
        (at().fault(HEAP, index(node)), "(*main.Node)(0xc00000001000) (unreadable memory)"),
        (at(), "(*main.Node)(0xc00000001000) (past the capture's budget)"),
        (at().flags(FLAG_BYTES_EXHAUSTED), "(*main.Node)(0xc00000001000) … (max bytes)"),
        (
            at().chunk_with(HEAP, index(node), 1, CHUNK_CUT_BYTES, &words(&[1])),
            "*main.Node {V: 1, Next: *main.Node … (max bytes)}",
        ),
        (
            at().chunk_with(HEAP, index(node), 1, CHUNK_TORN, &words(&[1, 0])),
            "*main.Node {V: 1, Next: *main.Node nil} (torn)",
        ),
    ] {
        assert_eq!(bench.text(pointer, &capture), expect);
    }
}

#[test]
fn a_value_in_pieces_keeps_the_pieces_that_are_there() {
    let mut bench = Bench::default();
    let (int, string) = (bench.types.int(), bench.types.string());
    let pair = bench.types.structure("main.Pair", &[("A", int), ("B", int), ("S", string)]);
    let at = |root_offset, window| RootPlace::At { root_offset, window };
    let piece = |value_offset, place| RootPiece { value_offset, bytes: 8, place };
    let gone = RootPlace::Unavailable(Unavailable::OptimizedOut);
    let capture = Capture::of(&words(&[HEAP, 3])).chunk(HEAP, TYPE_BYTES, b"abc");
    for (pieces, window_faults, expect) in [
        (
            vec![
                piece(0, RootPlace::Constant(7)),
                piece(8, gone),
                piece(16, at(ROOT, Some(0))),
                piece(24, at(ROOT + 8, Some(0))),
            ],
            0,
            r#"main.Pair {A: 7, B: (optimized out), S: "abc"}"#,
        ),
        (
            vec![piece(0, at(0, None)), piece(8, gone), piece(16, gone), piece(24, RootPlace::Constant(3))],
            0,
            "main.Pair {A: 0, B: (optimized out), S: (optimized out)}",
        ),
        (
            vec![piece(0, RootPlace::Constant(1)), piece(8, at(ROOT, Some(0)))],
            1,
            "main.Pair {A: 1, B: (unreadable memory), S: (bad debug info)}",
        ),
        (vec![piece(0, gone), piece(8, gone), piece(16, gone), piece(24, gone)], 0, "(optimized out)"),
        (
            vec![RootPiece { value_offset: 0, bytes: 32, place: at(ROOT + 4096, None) }],
            0,
            "(past the capture's budget)",
        ),
    ] {
        let plan = bench.plan(vec![variable("v", pair, ValueSource::Root(pieces))], capture.root.len());
        let mut capture = capture.clone();
        capture.window_faults = window_faults;
        let hit = bench.decode(&plan, &capture.record()).unwrap().hit;
        assert_eq!(crate::render::text::value(&hit.variables[0].value), expect);
    }
    let unavailable = ValueSource::Unavailable(Unavailable::RegisterFloat);
    let plan = bench.plan(vec![variable("v", int, unavailable)], capture.root.len());
    let hit = bench.decode(&plan, &capture.record()).unwrap().hit;
    assert_eq!(hit.variables[0].value.unavailable, Some(Unavailable::RegisterFloat));
}

#[test]
fn a_string_whose_address_is_gone_keeps_its_length() {
    let mut bench = Bench::default();
    let string = bench.types.string();
    let pieces = vec![
        RootPiece { value_offset: 0, bytes: 8, place: RootPlace::Unavailable(Unavailable::OptimizedOut) },
        RootPiece { value_offset: 8, bytes: 8, place: RootPlace::Constant(5) },
    ];
    let capture = Capture::of(&[]);
    let plan = bench.plan(vec![variable("s", string, ValueSource::Root(pieces))], capture.root.len());
    let value = bench.decode(&plan, &capture.record()).unwrap().hit.variables.remove(0).value;
    assert_eq!((value.len, value.unavailable), (Some(5), Some(Unavailable::OptimizedOut)));
}

#[test]
fn variables_on_the_heap_and_in_closures_are_found_through_their_word() {
    let mut bench = Bench::default();
    let int = bench.types.int();
    let through =
        |offset, by_reference| ValueSource::Through { word: ROOT, chunk_type: 99, offset, by_reference };
    let at = || Capture::of(&words(&[HEAP]));
    for (source, capture, expect) in [
        (through(0, None), at().chunk(HEAP, 99, &words(&[5])), "5"),
        (through(8, None), at().chunk(HEAP, 99, &words(&[5, 6])), "6"),
        (
            through(8, Some(index(int))),
            at().chunk(HEAP, 99, &words(&[5, HEAP_2])).chunk(HEAP_2, index(int), &words(&[9])),
            "9",
        ),
        (through(8, Some(index(int))), at().chunk(HEAP, 99, &words(&[5, 0])), "(not initialized)"),
        (through(0, None), Capture::of(&words(&[0])), "(not initialized)"),
        (through(0, None), at().fault(HEAP, 99), "(unreadable memory)"),
    ] {
        let plan = bench.plan(vec![variable("v", int, source)], capture.root.len());
        let hit = bench.decode(&plan, &capture.record()).unwrap().hit;
        assert_eq!(crate::render::text::value(&hit.variables[0].value), expect);
    }
    let mut faulted = Capture::of(&words(&[HEAP])).chunk(HEAP, 99, &words(&[5]));
    faulted.window_faults = 1;
    let plan = bench.plan(vec![variable("v", int, through(0, None))], faulted.root.len());
    let hit = bench.decode(&plan, &faulted.record()).unwrap().hit;
    assert_eq!(hit.variables[0].value.unavailable, Some(Unavailable::Fault));
}

#[test]
fn interfaces_show_what_they_hold() {
    const INT_TYPE: u64 = 0x9000;
    const POINTER_TYPE: u64 = 0x9100;
    const BOXED_TYPE: u64 = 0x9200;
    let mut bench = Bench::default();
    let (int, any, error) = (bench.types.int(), bench.types.any(), bench.types.error());
    let pointer = bench.types.pointer(int);
    let empty = bench.types.structure("struct {}", &[]);
    let boxed = bench.types.structure("main.Boxed", &[("_", empty), ("p", pointer)]);
    bench.types.runtime_type(INT_TYPE, int);
    bench.types.runtime_type(POINTER_TYPE, pointer);
    bench.types.runtime_type(BOXED_TYPE, boxed);
    let of = |type_word: u64, data: u64| Capture::of(&words(&[type_word, data]));
    for (ty, capture, expect, unknown) in [
        (any, of(0, 0), "interface {} nil", vec![]),
        (error, of(0, 0), "error nil", vec![]),
        (any, of(BIAS + INT_TYPE, HEAP).chunk(HEAP, index(int), &words(&[7])), "interface {}(int) 7", vec![]),
        (
            any,
            of(BIAS + POINTER_TYPE, HEAP).chunk(HEAP, index(int), &words(&[7])),
            "interface {}(*int) *7",
            vec![],
        ),
        (any, of(BIAS + POINTER_TYPE, 0), "interface {}(*int) nil", vec![]),
        (
            error,
            of(HEAP_2, HEAP).chunk(HEAP_2, TYPE_ITAB, &words(&[BIAS + INT_TYPE])).chunk(
                HEAP,
                index(int),
                &words(&[7]),
            ),
            "error(int) 7",
            vec![],
        ),
        (error, of(HEAP_2, HEAP).fault(HEAP_2, TYPE_ITAB), "(unreadable memory)", vec![]),
        (any, of(BIAS + 0x7777, HEAP), "(unknown type)", vec![0x7777]),
        // Known here, but not to the kernel side.
        (
            any,
            of(BIAS + INT_TYPE, HEAP).chunk(HEAP, TYPE_UNKNOWN, &words(&[7])),
            "interface {}(int) 7",
            vec![INT_TYPE],
        ),
        (
            any,
            of(BIAS + POINTER_TYPE, HEAP),
            "interface {}(*int) (*int)(0xc00000001000) (unknown type)",
            vec![POINTER_TYPE],
        ),
        (any, of(BIAS + INT_TYPE, HEAP), "interface {}(int) (unknown type)", vec![INT_TYPE]),
        (
            any,
            of(BIAS + INT_TYPE, HEAP).fault(HEAP, index(int)),
            "interface {}(int) (unreadable memory)",
            vec![],
        ),
        // Whether it lies in the data word depends on Go's version, and nothing says which it was.
        (any, of(BIAS + BOXED_TYPE, HEAP), "interface {}(main.Boxed) (unknown type)", vec![BOXED_TYPE]),
        (
            any,
            of(BIAS + BOXED_TYPE, HEAP).chunk(HEAP, index(boxed), &words(&[HEAP_3])).chunk(
                HEAP_3,
                index(int),
                &words(&[1]),
            ),
            "interface {}(main.Boxed) {_: struct {} {}, p: *1}",
            vec![],
        ),
    ] {
        let decoded = bench.decoded(ty, &capture);
        assert_eq!(crate::render::text::value(&decoded.hit.variables[0].value), expect);
        assert_eq!(decoded.unknown_types, unknown, "{expect}");
    }
    // abi.Type with TFlagDirectIface.
    let mut runtime_type = vec![0; 24];
    runtime_type[20] = 1 << 5;
    bench.binary.read_only = vec![(BOXED_TYPE, runtime_type)];
    let direct = of(BIAS + BOXED_TYPE, HEAP_3).chunk(HEAP_3, index(int), &words(&[1]));
    assert_eq!(bench.text(any, &direct), "interface {}(main.Boxed) {_: struct {} {}, p: *1}");
}

#[test]
fn values_of_types_that_the_kernel_side_did_not_know_are_shallow() {
    let mut bench = Bench::default();
    let (int, any) = (bench.types.int(), bench.types.any());
    let pointer = bench.types.pointer(int);
    let holder = bench.types.structure("main.Holder", &[("P", pointer), ("N", int)]);
    bench.types.runtime_type(0x9000, holder);
    let capture = Capture::of(&words(&[BIAS + 0x9000, HEAP])).chunk(HEAP, TYPE_UNKNOWN, &words(&[HEAP_2, 3]));
    let decoded = bench.decoded(any, &capture);
    assert_eq!(decoded.unknown_types, [0x9000]);
    assert_eq!(
        crate::render::text::value(&decoded.hit.variables[0].value),
        "interface {}(main.Holder) {P: (*int)(0xc00000002000) (unknown type), N: 3}"
    );
}

#[test]
fn channels_show_their_buffer_oldest_first() {
    let mut bench = Bench::default();
    bench.limits.max_items = 4;
    let int = bench.types.int();
    let ty = bench.types.chan(int);
    let Shape::Chan { header, .. } = bench.types_shape(ty) else { unreachable!() };
    let with = |count: u64, size: u64, closed: u64, oldest: u64, data: &[u64]| {
        Capture::of(&words(&[HEAP]))
            .chunk(HEAP, index(header), &words(&[count, size, HEAP_2, closed, 0, oldest]))
            .chunk(HEAP_2, index(int), &words(data))
    };
    for (capture, expect) in [
        (Capture::of(&words(&[0])), "chan int nil"),
        (with(0, 0, 0, 0, &[]), "chan int 0/0"),
        (with(3, 4, 0, 2, &[3, 0, 1, 2]), "chan int 3/4 [1,2,3]"),
        (with(0, 4, 1, 0, &[0, 0, 0, 0]), "chan int 0/4 (closed)"),
        (with(6, 8, 0, 0, &[1, 2, 3, 4]), "chan int 6/8 [1,2,3,4,…+2 more]"),
        (
            with(3, 8, 0, 6, &[9, 0, 0, 0]),
            "chan int 3/8 [(past the capture's budget),(past the capture's budget),9]",
        ),
        (with(5, 4, 0, 0, &[]), "chan int 5/4 (torn)"),
    ] {
        assert_eq!(bench.text(ty, &capture), expect);
    }
}

#[test]
fn funcs_show_their_function_and_what_they_captured() {
    const CODE: u64 = 0x4a_0000;
    let mut bench = Bench::default();
    let (int, func) = (bench.types.int(), bench.types.func());
    bench.binary.functions.insert(CODE, "main.main.func1");
    bench.binary.closures.insert(CODE, vec![("n", 8, int, false), ("total", 16, int, true)]);
    bench.binary.functions.insert(CODE + 64, "main.plain");
    bench.binary.read_only = vec![(0x6000, words(&[BIAS + CODE + 64]))];
    let at = || Capture::of(&words(&[HEAP]));
    for (capture, expect, unknown) in [
        (Capture::of(&words(&[0])), "func() nil", vec![]),
        (
            at().chunk(HEAP, 77, &words(&[BIAS + CODE, 4, HEAP_2])).chunk(HEAP_2, index(int), &words(&[10])),
            "main.main.func1 {n: 4, total: 10}",
            vec![],
        ),
        (
            at().chunk(HEAP, TYPE_CLOSURE_WORD, &words(&[BIAS + CODE])),
            "main.main.func1 {n: (unknown type), total: (unknown type)}",
            vec![CODE],
        ),
        // A function that captures nothing: its closure object is a constant of the binary.
        (Capture::of(&words(&[BIAS + 0x6000])).fault(BIAS + 0x6000, TYPE_CLOSURE_WORD), "main.plain", vec![]),
        (at().chunk(HEAP, TYPE_CLOSURE_WORD, &words(&[0x42])), "(func())(0x42)", vec![]),
        (at().fault(HEAP, TYPE_CLOSURE_WORD), "(unreadable memory)", vec![]),
    ] {
        let decoded = bench.decoded(func, &capture);
        assert_eq!(crate::render::text::value(&decoded.hit.variables[0].value), expect);
        assert_eq!(decoded.unknown_code, unknown, "{expect}");
    }
}

#[test]
fn variables_of_generic_functions_get_the_real_type_that_the_dictionary_names() {
    let mut bench = Bench::default();
    let shape = bench.types.scalar("go.shape.int", Kind::Int, 8);
    let int = bench.types.int();
    let string = bench.types.string();
    bench.types.runtime_type(0x9000, int);
    bench.types.runtime_type(0x9100, string);
    bench.binary.read_only = vec![(0x7000, words(&[0x9000, 0x9100, 0]))];
    let capture = Capture::of(&words(&[BIAS + 0x7000, 5]));
    for (entry, expect) in [(0, "int"), (1, "go.shape.int"), (2, "go.shape.int"), (9, "go.shape.int")] {
        let place = RootPlace::At { root_offset: ROOT + 8, window: Some(0) };
        let source = ValueSource::Root(vec![RootPiece { value_offset: 0, bytes: 8, place }]);
        let mut plan = bench.plan(vec![variable("v", shape, source)], capture.root.len());
        let at = |word| DictIndex { word, of_pointer: false };
        plan.dictionary = Some(DictionaryPlan { word: ROOT, variables: vec![(0, at(entry)), (7, at(0))] });
        let value = bench.decode(&plan, &capture.record()).unwrap().hit.variables.remove(0).value;
        assert_eq!((value.type_name.as_deref(), value.value), (Some(expect), Some(Scalar::Int(5))));
    }
}

#[test]
fn a_stack_goes_on_behind_a_call_from_c() {
    const PC: u64 = 0x4a_1b2c;
    let mut bench = Bench::default();
    let int = bench.types.int();
    for (outermost, truncated) in [("runtime.goexit", false), ("runtime.cgocallback", true)] {
        bench.binary.functions.insert(PC, outermost);
        let mut capture = Capture::of(&words(&[1])).flags(FLAG_GOROUTINE);
        capture.stack = vec![BIAS + PC, BIAS + PC + 1];
        assert_eq!(bench.decoded(int, &capture).hit.stack_truncated, truncated, "{outermost}");
    }
}

#[test]
fn the_hit_says_who_when_and_where() {
    const PC: u64 = 0x4a_1b2c;
    let mut bench = Bench::default();
    let int = bench.types.int();
    bench.binary.functions.insert(PC, "main.f");
    bench.binary.functions.insert(PC + 0xff, "main.main");
    bench.binary.functions.insert(GO_STATEMENT - 1, "main.start");
    let mut capture = Capture::of(&words(&[1])).flags(FLAG_GOROUTINE | FLAG_STACK_TRUNCATED);
    capture.stack = vec![BIAS + PC, BIAS + PC + 0x100, 0x10];
    let hit = bench.decoded(int, &capture).hit;
    assert_eq!((hit.seq, hit.pid, hit.tid, hit.cpu, hit.cpu_seq), (17, 4242, 4250, 1, 812));
    assert_eq!((hit.goroutine, hit.parent_goroutine), (Some(18), Some(1)));
    assert_eq!(
        (hit.time.as_str(), hit.time_ns),
        ("2026-11-25T12:00:00.000000000Z", 1_795_608_000_000_000_000)
    );
    assert_eq!(hit.started_at.map(|frame| frame.function.to_string()).as_deref(), Some("main.start"));
    let stack = hit.stack.unwrap();
    let names: Vec<&str> = stack.iter().map(|frame| &*frame.function).collect();
    assert_eq!(names, ["main.f", "main.main", "?"]);
    assert!(hit.stack_truncated);
    let without = bench.decoded(int, &Capture::of(&words(&[1]))).hit;
    assert_eq!((without.goroutine, without.parent_goroutine, without.stack), (None, None, None));
    assert_eq!(without.started_at, None);
}

#[test]
fn the_hit_s_span_is_the_last_chunk() {
    let mut bench = Bench::default();
    let int = bench.types.int();
    let mut span: Vec<u8> = (0x10..0x28).collect();
    span.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    span.extend(words(&[0, 0, 0, 1]));
    let capture =
        Capture::of(&words(&[1])).chunk(0x9000, 20, &words(&[7])).chunk_with(0, TYPE_SPAN, 0, 0, &span);
    let decoded = bench.decoded(int, &capture);
    assert_eq!(decoded.hit.trace_id.as_deref(), Some("101112131415161718191a1b1c1d1e1f"));
    assert_eq!(decoded.hit.span_id.as_deref(), Some("2021222324252627"));
    let found = decoded.span.unwrap();
    assert!(found.is_remote());
    assert_eq!(found.traceparent(), "00-101112131415161718191a1b1c1d1e1f-2021222324252627-01");
    for cut in [0, 16, 24, 56] {
        let cut = Capture::of(&words(&[1])).chunk_with(0, TYPE_SPAN, 0, 0, &span[..cut]);
        assert_eq!(bench.decoded(int, &cut).span, None);
    }
    let zero = Capture::of(&words(&[1])).chunk_with(0, TYPE_SPAN, 0, 0, &[0; 64]);
    assert_eq!(bench.decoded(int, &zero).hit.trace_id, None);
}

#[test]
fn a_stack_that_was_sent_before_is_named() {
    const PC: u64 = 0x4a_1b2c;
    let mut bench = Bench::default();
    let int = bench.types.int();
    bench.binary.functions.insert(PC, "main.f");
    bench.binary.functions.insert(PC + 0xff, "main.main");
    let mut capture = Capture::of(&words(&[1])).flags(FLAG_STACK_TRUNCATED);
    capture.stack = vec![BIAS + PC, BIAS + PC + 0x100];
    let carried = bench.decoded(int, &capture).hit;
    let mut named = Capture::of(&words(&[1])).flags(FLAG_STACK_TRUNCATED | FLAG_STACK_SENT);
    named.stack_hash = Some(0x8000_0000_0000_1234);

    let missing = bench.decoded(int, &named).hit;
    assert_eq!((missing.stack, missing.stack_truncated, missing.stack_unavailable), (None, false, true));
    bench.sent_stack = Some(capture.stack);
    assert_eq!(bench.decoded(int, &named).hit, carried);
    assert_eq!(bench.decoded(int, &Capture::of(&words(&[1]))).hit.stack, None, "none was asked for");
}

#[test]
fn a_record_of_another_version_or_plan_is_refused() {
    let mut bench = Bench::default();
    let int = bench.types.int();
    let capture = Capture::of(&words(&[1]));
    let plan = bench.plan(vec![variable("v", int, ValueSource::Root(vec![]))], capture.root.len() + 8);
    assert_eq!(
        bench.decode(&plan, &capture.record()),
        Err(DecodeError::OtherPlan { found: 176, planned: 184 })
    );
    let mut other = capture.record().to_vec();
    other[0] = 200;
    assert_eq!(bench.decode(&plan, &other), Err(DecodeError::Record(RecordError::AbiVersion { found: 200 })));
    assert!(bench.decode(&plan, &[]).is_err());
}

#[test]
fn text_that_is_no_number_is_no_scalar() {
    let mut bench = Bench::default();
    let odd = bench.types.scalar("main.odd", Kind::Int, 3);
    let wide = bench.types.scalar("main.wide", Kind::Int, 16);
    assert_eq!(bench.value(odd, &Capture::of(&[1, 0, 0x80])).value, Some(Scalar::Int(-8_388_607)));
    assert_eq!(bench.value(wide, &Capture::of(&[0; 16])).unavailable, Some(Unavailable::BadDebugInfo));
}
