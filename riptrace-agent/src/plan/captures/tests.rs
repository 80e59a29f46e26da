use proptest::prelude::*;
use riptrace_common::{
    abi::{
        limits::{MAX_SLOTS_PER_TYPE, MAX_WINDOWS_PER_SITE},
        program::{
            COUNT_ONE, REGISTER_BYTES, WINDOW_IMAGE_ADDRESS, WINDOW_STACK, WINDOW_STACK_ADDRESS, register,
        },
    },
    wire::{
        event::{Location, Trigger},
        number::Address,
    },
};

use super::*;
use crate::{
    dwarf::Piece,
    golang::table::TypeTable,
    plan::{RootPlace, ValueSource, fast::Stretch},
};

const RAX: Place = Place::Register(0);
const RBX: Place = Place::Register(3);
const CFA_FROM_SP: i32 = 0x60;

fn site() -> Site {
    Site {
        link_address: 0x40_1000,
        location: Location {
            file: "main.go".into(),
            line: 1,
            function: "main.f".into(),
            pc: Address(0x40_1000),
            inlined_into: None,
        },
        trigger: Trigger::Line,
        function: None,
        instance: None,
        scope_address: 0x40_1000,
        instruction: "nop".into(),
        fast: true,
        entry_address: 0x40_1000,
        branch: None,
        stretch: Stretch::default(),
        candidates: Vec::new(),
        choice: "".into(),
    }
}

fn plan_with(
    types: &TypeTable,
    registry: &mut TypeRegistry,
    limits: CaptureLimits,
    variables: &[VisibleVariable],
    expressions: &[&str],
) -> Result<SitePlan, PlanError> {
    let site = site();
    let context = SiteContext {
        exact: false,
        image: 1,
        types,
        site: &site,
        file_offset: 0x1000,
        cfa_from_sp: Some(CFA_FROM_SP),
        dictionary: None,
        limits,
        contexts: variables,
    };
    let expressions: Vec<_> = expressions.iter().map(|text| PathExpression::parse(text).unwrap()).collect();
    plan_site(registry, &context, variables, &expressions)
}

fn plan(types: &TypeTable, variables: &[VisibleVariable], expressions: &[&str]) -> SitePlan {
    plan_with(types, &mut TypeRegistry::new(), CaptureLimits::default(), variables, expressions).unwrap()
}

fn variable(name: &str, ty: TypeId, location: VariableLocation) -> VisibleVariable {
    VisibleVariable { name: name.into(), role: Role::Local, ty, decl_line: 1, location, dict_index: None }
}

fn pieces(pieces: &[(u32, Place)]) -> VariableLocation {
    VariableLocation::Pieces(pieces.iter().map(|&(bytes, place)| Piece { bytes, place }).collect())
}

fn at(root_offset: u32, window: Option<u32>) -> RootPlace {
    RootPlace::At { root_offset, window }
}

fn source<'a>(plan: &'a SitePlan, name: &str) -> &'a ValueSource {
    &plan.variables.iter().find(|variable| &*variable.name == name).unwrap().source
}

#[test]
fn values_in_registers_need_no_window() {
    let types = TypeTable::default();
    let plan = plan(&types, &[variable("s", types.string(), pieces(&[(8, RAX), (8, RBX)]))], &[]);
    assert_eq!((plan.windows.len(), plan.root_bytes), (0, REGISTER_BYTES));
    let [slot] = plan.root_slots[..] else { panic!("{:?}", plan.root_slots) };
    assert_eq!((slot.word, slot.count, slot.repeat), (register::RAX, register::RBX, 1));
    assert_eq!(plan.info.variables[0].place, "rax, rbx");
}

#[test]
fn neighbours_on_the_stack_are_read_at_once() {
    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let near = [
        variable("a", int, pieces(&[(8, Place::Frame(-0x50))])),
        variable("b", string, pieces(&[(16, Place::Frame(-0x20))])),
        variable("c", types.byte(), pieces(&[(1, Place::Frame(13))])),
    ];
    let one = plan(&types, &near, &[]);
    let [window] = one.windows[..] else { panic!("{:?}", one.windows) };
    assert_eq!((window.offset, window.bytes, window.base), (0x10, 0x60, WINDOW_STACK));
    assert_eq!(one.root_slots[0].word, REGISTER_BYTES + 0x30);
    let RootPlace::At { root_offset, .. } = (match source(&one, "c") {
        ValueSource::Root(pieces) => pieces[0].place,
        other => panic!("{other:?}"),
    }) else {
        panic!()
    };
    assert_eq!(root_offset, REGISTER_BYTES + 0x5d);
    assert_eq!(one.info.variables[1].place, "sp+64");
    let far = [near[0].clone(), variable("d", int, pieces(&[(8, Place::Frame(0x4000))]))];
    assert_eq!(plan(&types, &far, &[]).windows.len(), 2);
}

#[test]
fn words_that_are_not_readable_lead_nowhere() {
    let types = TypeTable::default();
    let string = types.string();
    for (location, place, reason) in [
        (pieces(&[(8, RAX), (8, Place::Missing)]), "rax, -", Unavailable::OptimizedOut),
        (pieces(&[(8, Place::FloatRegister(17)), (8, RBX)]), "xmm0, rbx", Unavailable::RegisterFloat),
        (pieces(&[(8, RAX)]), "rax", Unavailable::BadDebugInfo),
        (VariableLocation::Unavailable(Unavailable::NotInitialized), "-", Unavailable::NotInitialized),
    ] {
        let plan = plan(&types, &[variable("s", string, location)], &[]);
        assert_eq!(plan.root_slots, []);
        assert_eq!(plan.info.variables[0].place, place);
        assert_eq!(plan.info.variables[0].unavailable, Some(reason));
    }
}

#[test]
fn an_escaped_variable_is_followed_without_depth() {
    let types = TypeTable::default();
    let holder = types.structure("holder", &[("n", types.int()), ("s", types.string())]);
    let location = VariableLocation::Heap(vec![Piece { bytes: 8, place: Place::Frame(-0x50) }]);
    let mut registry = TypeRegistry::new();
    let limits = CaptureLimits { max_depth: 0, ..CaptureLimits::default() };
    let plan = plan_with(&types, &mut registry, limits, &[variable("x", holder, location)], &[]).unwrap();
    let chunk_type = registry.index_of(1, holder).unwrap();
    let through = ValueSource::Through { word: REGISTER_BYTES, chunk_type, offset: 0, by_reference: None };
    assert_eq!(*source(&plan, "x"), through);
    let slot = plan.root_slots[0];
    assert_eq!((slot.target, slot.count_rule, slot.deeper), (chunk_type, COUNT_ONE, 0));
    assert!(registry.take_upload().types.iter().any(|(index, ty)| *index == chunk_type && ty.bytes == 24));
    assert_eq!(plan.info.variables[0].place, "heap through sp+16");
}

#[test]
fn captured_variables_of_one_closure_share_its_object() {
    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let in_closure = |offset, by_reference| VariableLocation::Closure { register: 1, offset, by_reference };
    let mut registry = TypeRegistry::new();
    let variables = [variable("n", int, in_closure(8, true)), variable("s", string, in_closure(16, false))];
    let limits = CaptureLimits::default();
    let plan = plan_with(&types, &mut registry, limits, &variables, &[]).unwrap();
    let [slot] = plan.root_slots[..] else { panic!("{:?}", plan.root_slots) };
    assert_eq!(slot.word, register::RDX);
    let by_reference = registry.index_of(1, int);
    assert!(by_reference.is_some());
    let through = |offset, by_reference| ValueSource::Through {
        word: register::RDX,
        chunk_type: slot.target,
        offset,
        by_reference,
    };
    assert_eq!(*source(&plan, "n"), through(8, by_reference));
    assert_eq!(*source(&plan, "s"), through(16, None));
    let upload = registry.take_upload();
    let (_, object) = upload.types.iter().find(|(index, _)| *index == slot.target).unwrap();
    assert_eq!((object.bytes, object.slots), (32, 2));
}

#[test]
fn package_variables_and_large_ones_are_chunks_of_their_own() {
    let types = TypeTable::default();
    let byte = types.byte();
    let huge = types.array(types.structure("row", &[("a", types.array(byte, 64))]), 1 << 20);
    let mut registry = TypeRegistry::new();
    let variables = [
        variable("global", types.string(), pieces(&[(16, Place::Address(0x50_0000))])),
        variable("huge", huge, pieces(&[(1 << 26, Place::Frame(-0x50))])),
        variable("bytes", types.array(byte, 100), pieces(&[(100, Place::Frame(0x10))])),
    ];
    let limits = CaptureLimits::default();
    let plan = plan_with(&types, &mut registry, limits, &variables, &[]).unwrap();
    let bases: Vec<_> = plan.windows.iter().map(|window| (window.base, window.offset)).collect();
    assert_eq!(
        bases,
        [(WINDOW_STACK, 0x70), (WINDOW_IMAGE_ADDRESS, 0x50_0000), (WINDOW_STACK_ADDRESS, 0x10)]
    );
    let ValueSource::Through { chunk_type, .. } = *source(&plan, "huge") else { panic!() };
    let upload = registry.take_upload();
    let (_, ty) = upload.types.iter().find(|(index, _)| *index == chunk_type).unwrap();
    assert_eq!(ty.bytes, 64 * 64);
    // Of an array no more is read than is shown, and the rest is no lack of anything.
    let ValueSource::Root(bytes) = source(&plan, "bytes") else { panic!() };
    assert_eq!((bytes[0].bytes, bytes[1].bytes), (64, 36));
    assert_eq!(bytes[1].place, RootPlace::Unavailable(Unavailable::Budget));
    assert_eq!(plan.info.variables[2].unavailable, None);
}

#[test]
fn what_does_not_fit_says_so() {
    let types = TypeTable::default();
    let int = types.int();
    let many: Vec<_> = (0..200)
        .map(|n| variable(&format!("v{n}"), int, pieces(&[(8, Place::Frame(i64::from(n) * 0x1000))])))
        .collect();
    let plan = plan(&types, &many, &[]);
    assert_eq!(plan.windows.len(), MAX_WINDOWS_PER_SITE as usize);
    let lacking = plan.info.variables.iter().filter(|v| v.unavailable == Some(Unavailable::Budget)).count();
    assert_eq!(lacking, 200 - MAX_WINDOWS_PER_SITE as usize);
}

#[test]
fn a_path_within_pieces_reads_that_part_only() {
    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let order = types.structure("order", &[("ID", int), ("Name", string)]);
    let variables = [
        variable("o", order, pieces(&[(24, Place::Frame(-0x50))])),
        variable("p", int, pieces(&[(8, Place::Frame(0x4000))])),
    ];
    let plan = plan(&types, &variables, &["o.Name"]);
    assert_eq!((plan.windows[0].offset, plan.windows[0].bytes), (0x18, 16));
    let ValueSource::Root(found) = source(&plan, "o.Name") else { panic!() };
    assert_eq!(found[0].place, at(REGISTER_BYTES, Some(0)));
    assert_eq!((plan.variables[0].role, plan.variables[0].ty), (Role::Expression, string));
}

#[test]
fn a_path_through_pointers_plans_the_chain_alone() {
    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let item = types.structure("item", &[("Name", string), ("Price", int)]);
    let customer = types.structure("customer", &[("Age", int), ("Name", string)]);
    let fields = [("ID", int), ("Customer", types.pointer(customer)), ("Items", types.slice(item))];
    let order = types.structure("order", &fields);
    let variables = [variable("o", types.pointer(order), pieces(&[(8, RAX)]))];
    let mut registry = TypeRegistry::new();
    let expressions = ["o.Customer.Name", "o.Items[2].Price", "o.ID", "*o"];
    let limits = CaptureLimits::default();
    let plan = plan_with(&types, &mut registry, limits, &variables, &expressions).unwrap();
    let upload = registry.take_upload();
    let bytes = |index: u32| upload.types.iter().find(|(at, _)| *at == index).unwrap().1.bytes;
    let ValueSource::Chain { word, hops } = source(&plan, "o.Customer.Name") else { panic!() };
    assert_eq!(*word, register::RAX);
    assert_eq!(
        hops.iter().map(|hop| (hop.offset, bytes(hop.chunk_type))).collect::<Vec<_>>(),
        [(8, 16), (8, 24)]
    );
    let ValueSource::Chain { hops, .. } = source(&plan, "o.Items[2].Price") else { panic!() };
    assert_eq!(
        hops.iter().map(|hop| (hop.offset, bytes(hop.chunk_type))).collect::<Vec<_>>(),
        [(16, 32), (64, 72)]
    );
    let bound = hops[1].bound.unwrap();
    assert_eq!((bound.index, bound.length), (2, 24));
    let ValueSource::Through { offset: 0, .. } = source(&plan, "o.ID") else { panic!() };
    let whole = registry.index_of(1, order);
    let ValueSource::Through { chunk_type, .. } = source(&plan, "*o") else { panic!() };
    assert_eq!(Some(*chunk_type), whole);
}

#[test]
fn an_expression_that_names_nothing_says_what_there_is() {
    let types = TypeTable::default();
    let order = types.structure("order", &[("ID", types.int()), ("Name", types.string())]);
    let variables = [variable("order", order, pieces(&[(24, Place::Frame(0))]))];
    for (expression, expected) in [
        ("ordr.ID", "no variable ordr here; there is order"),
        ("order.Nam", "order has no field Nam; there is Name"),
        ("order.ID.x", "taking a field of a int is not supported"),
        ("order[1]", "taking an element of a order is not supported"),
    ] {
        let mut registry = TypeRegistry::new();
        let error = plan_with(&types, &mut registry, CaptureLimits::default(), &variables, &[expression])
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    for (text, column) in [("", 1), ("a.", 3), ("a[", 2), ("a[b]", 3), ("a b", 2), ("a.1", 3)] {
        let error = PathExpression::parse(text).unwrap_err().to_string();
        assert!(error.contains(&format!("column {column}")), "{text:?}: {error}");
    }
}

fn places() -> impl Strategy<Value = Place> {
    prop_oneof![
        (0u16..20).prop_map(Place::Register),
        (15u16..40).prop_map(Place::FloatRegister),
        (-2000i64..2000).prop_map(Place::Frame),
        any::<i64>().prop_map(Place::Frame),
        any::<u64>().prop_map(Place::Address),
        any::<u64>().prop_map(Place::Constant),
        Just(Place::Missing),
    ]
}

fn locations() -> impl Strategy<Value = VariableLocation> {
    let pieces = || {
        prop::collection::vec(
            (prop_oneof![Just(8u32), Just(16), Just(24), 0u32..300, any::<u32>()], places()),
            0..6,
        )
        .prop_map(|pieces| {
            pieces.into_iter().map(|(bytes, place)| Piece { bytes, place }).collect::<Vec<_>>()
        })
    };
    prop_oneof![
        6 => pieces().prop_map(VariableLocation::Pieces),
        2 => places().prop_map(|place| VariableLocation::Heap(vec![Piece { bytes: 8, place }])),
        1 => pieces().prop_map(VariableLocation::Heap),
        1 => (0u16..20, 0u64..200, any::<bool>()).prop_map(|(register, offset, by_reference)| {
            VariableLocation::Closure { register, offset, by_reference }
        }),
    ]
}

proptest! {
    #[test]
    fn every_offset_of_a_plan_lies_in_its_root_chunk(
        variables in prop::collection::vec((locations(), 0usize..7, any::<bool>()), 0..30),
        max_bytes in 0u32..70_000,
    ) {
        let types = TypeTable::default();
        let (int, string) = (types.int(), types.string());
        let pair = types.structure("pair", &[("s", string), ("n", int)]);
        let all = [int, string, types.byte(), pair, types.array(string, 7), types.slice(pair), types.array(pair, 1 << 30)];
        // Half of the variables get pieces that add up, so that more than the error path runs.
        let variables: Vec<_> = variables
            .into_iter()
            .map(|(location, ty, sized)| {
                let ty = all[ty];
                let bytes = u32::try_from(types.get(ty).bytes).unwrap_or(u32::MAX);
                let location = match location {
                    VariableLocation::Pieces(found) if sized && !found.is_empty() => {
                        pieces(&[(bytes.min(8), found[0].place), (bytes - bytes.min(8), found[found.len() - 1].place)])
                    }
                    other => other,
                };
                variable("v", ty, location)
            })
            .collect();
        let mut registry = TypeRegistry::new();
        let limits = CaptureLimits { max_bytes, ..CaptureLimits::default() };
        let plan = plan_with(&types, &mut registry, limits, &variables, &[]).unwrap();
        let upload = registry.take_upload();
        prop_assert!(plan.root_bytes <= MAX_ROOT_BYTES && plan.root_bytes >= REGISTER_BYTES);
        prop_assert!(plan.windows.len() <= MAX_WINDOWS_PER_SITE as usize);
        prop_assert!(plan.root_slots.len() <= MAX_SLOTS_PER_TYPE as usize);
        let mut end = REGISTER_BYTES;
        for window in &plan.windows {
            prop_assert_eq!(window.root_offset, end);
            prop_assert!(window.root_offset % 8 == 0 && window.bytes % 8 == 0 && window.bytes > 0);
            end += window.bytes;
        }
        prop_assert_eq!(end, plan.root_bytes);
        let indexes: Vec<u32> = upload.types.iter().map(|(index, _)| *index).collect();
        for slot in &plan.root_slots {
            let last = (slot.repeat - 1) * slot.stride;
            prop_assert!(slot.word.max(slot.count) + last + 8 <= plan.root_bytes);
            prop_assert!(slot.target == 0 || indexes.contains(&slot.target));
        }
        for variable in &plan.variables {
            if let ValueSource::Root(found) = &variable.source {
                let mut covered = 0;
                for piece in found {
                    prop_assert_eq!(piece.value_offset, covered);
                    covered += piece.bytes;
                    if let RootPlace::At { root_offset, window } = piece.place {
                        let (start, end) = match window {
                            None => (0, REGISTER_BYTES),
                            Some(window) => {
                                let window = plan.windows[window as usize];
                                (window.root_offset, window.root_offset + window.bytes)
                            }
                        };
                        prop_assert!(start <= root_offset && root_offset + piece.bytes <= end);
                    }
                }
                prop_assert_eq!(u64::from(covered), types.get(variable.ty).bytes);
            }
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}", go in "[a-z.*()\\[\\]:0-9/]{0,30}") {
        for text in [text, go] {
            let _ = PathExpression::parse(&text);
            let _ = text.parse::<crate::plan::sites::LocationRequest>();
        }
    }
}

#[test]
fn values_of_interfaces_in_the_root_are_looked_up() {
    let types = TypeTable::default();
    let variables = [variable("err", types.error(), pieces(&[(8, RAX), (8, RBX)]))];
    let plan = plan(&types, &variables, &[]);
    assert_eq!((plan.root_slots[0].word, plan.root_slots[0].count), (register::RAX, register::RBX));
    assert_eq!(plan.root_slots[0].target, 0);
}

#[test]
fn elements_of_maps_and_strings_are_looked_up() {
    use crate::plan::path::looks_up;

    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let map = types.swiss_map(int, string, false);
    let order =
        types.structure("main.Order", &[("Name", string), ("ByID", map), ("Items", types.slice(string))]);
    let pointer = types.pointer(order);
    for (text, ty, expect) in [
        ("m[9]", map, true),
        ("m[9][0]", map, true),
        ("s[1]", string, true),
        ("o.Name[3]", pointer, true),
        ("o.Items[2][0]", pointer, true),
        ("o.Items[2]", pointer, false),
        ("o.ByID", pointer, false),
        ("o.Nome[3]", pointer, false),
    ] {
        assert_eq!(looks_up(&types, &PathExpression::parse(text).unwrap(), ty), expect, "{text}");
    }
}
