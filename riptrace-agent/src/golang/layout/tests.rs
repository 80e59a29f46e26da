use proptest::prelude::*;
use riptrace_common::abi::{
    limits::{MAX_CHUNK_BYTES, MAX_SLOTS_PER_TYPE},
    program::{
        ACTION_EMPTY_INTERFACE, ACTION_FOLLOW, ACTION_FUNC, ACTION_INTERFACE, COUNT_MASK_PLUS_ONE,
        COUNT_OLD_BUCKETS, COUNT_ONE_IF_ZERO, COUNT_POWER_OF_TWO, COUNT_WORD, LIMIT_ITEMS, LIMIT_STRING,
    },
};

use super::*;
use crate::golang::table::TypeTable;

/// (word, count, repeat, stride, deeper) of every slot.
fn shape(slots: &[TypeSlot]) -> Vec<(u32, u32, u32, u32, u8)> {
    slots.iter().map(|slot| (slot.word, slot.count, slot.repeat, slot.stride, slot.deeper)).collect()
}

fn target(slot: &TypeSlot) -> Target {
    match slot.target {
        SlotTarget::Type(target) => target,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scalars_and_empty_things_lead_nowhere() {
    let types = TypeTable::default();
    let empty = types.structure("struct {}", &[]);
    let string = types.string();
    for ty in
        [types.int(), empty, types.array(string, 0), types.slice(empty), types.pointer(empty), TypeId(9999)]
    {
        assert_eq!(slots_of(&types, ty), []);
    }
}

#[test]
fn string_bytes_are_as_deep_and_slice_elements_are_deeper() {
    let types = TypeTable::default();
    let string = slots_of(&types, types.string());
    assert_eq!(shape(&string), [(0, 8, 1, 0, 0)]);
    assert_eq!(
        (string[0].count_rule, string[0].limit, string[0].target),
        (COUNT_WORD, LIMIT_STRING, SlotTarget::Bytes)
    );
    let elem = types.string();
    let slice = slots_of(&types, types.slice(elem));
    assert_eq!(shape(&slice), [(0, 8, 1, 0, 1)]);
    assert_eq!(
        (slice[0].count_rule, slice[0].limit, target(&slice[0])),
        (COUNT_WORD, LIMIT_ITEMS, Target::value(elem))
    );
}

#[test]
fn structs_and_arrays_are_flattened_with_repetitions() {
    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let pair = types.structure("pair", &[("n", int), ("s", string)]);
    assert_eq!(shape(&slots_of(&types, types.array(string, 5))), [(0, 8, 5, 16, 0)]);
    let nested = types.array(types.array(string, 5), 3);
    assert_eq!(shape(&slots_of(&types, nested)), [(0, 8, 15, 16, 0)]);
    assert_eq!(shape(&slots_of(&types, types.array(pair, 4))), [(8, 16, 4, 24, 0)]);
    let holder = types.structure("holder", &[("n", int), ("two", types.array(string, 2))]);
    // Two repetitions in each of ten elements: the shorter run is unrolled.
    assert_eq!(shape(&slots_of(&types, types.array(holder, 10))), [(8, 16, 10, 40, 0), (24, 32, 10, 40, 0)]);
    let long = types.structure("long", &[("n", int), ("many", types.array(string, 9))]);
    assert_eq!(shape(&slots_of(&types, types.array(long, 2))), [(8, 16, 9, 16, 0), (160, 168, 9, 16, 0)]);
}

#[test]
fn a_type_with_more_slots_than_the_kernel_takes_is_cut_and_says_so() {
    let types = TypeTable::default();
    let string = types.string();
    let fields: Vec<(&str, TypeId)> = (0..600).map(|_| ("s", string)).collect();
    let wide = types.structure("wide", &fields);
    let layout = layout_of(&types, Target::value(wide));
    assert_eq!(layout.slots.len(), MAX_SLOTS_PER_TYPE as usize);
    assert!(layout.cut);
}

#[test]
fn a_struct_that_contains_itself_ends() {
    let types = TypeTable::default();
    let broken = types.declare();
    types.describe(broken, types.structure("broken", &[("a", broken), ("b", broken)]));
    assert!(layout_of(&types, Target::value(broken)).cut);
}

#[test]
fn interfaces_and_funcs_are_looked_up_at_run_time() {
    let types = TypeTable::default();
    let any = types.any();
    let slots = slots_of(&types, any);
    assert_eq!((slots[0].action, slots[0].word, slots[0].count), (ACTION_EMPTY_INTERFACE, 0, 8));
    assert_eq!(slots_of(&types, types.error())[0].action, ACTION_INTERFACE);
    assert_eq!(slots_of(&types, types.func())[0].action, ACTION_FUNC);
    let both = types.array(types.structure("both", &[("a", any), ("b", any)]), 3);
    assert_eq!(layout_of(&types, Target::value(both)).interfaces, [any]);
}

#[test]
fn a_classic_map_leads_to_buckets_keys_values_and_overflow() {
    let types = TypeTable::default();
    let (string, int) = (types.string(), types.int());
    let map = types.classic_map(string, int);
    let slots = slots_of(&types, map);
    assert_eq!(shape(&slots), [(0, 0, 1, 0, 1)]);
    let header = layout_of(&types, target(&slots[0]));
    assert!(header.torn_check);
    assert_eq!(header.bytes, 48);
    assert_eq!(shape(&header.slots), [(16, 9, 1, 0, 0), (24, 9, 1, 0, 0)]);
    assert_eq!(header.slots[0].count_rule, COUNT_POWER_OF_TWO);
    assert_eq!(header.slots[1].count_rule, COUNT_OLD_BUCKETS);
    let bucket = layout_of(&types, target(&header.slots[0]));
    assert_eq!(shape(&bucket.slots), [(8, 16, 8, 16, 0), (200, 200, 1, 0, 0)]);
    assert_eq!(target(&bucket.slots[1]), target(&header.slots[0]));
}

#[test]
fn large_keys_and_values_lie_behind_pointers_that_add_no_depth() {
    let types = TypeTable::default();
    let int = types.int();
    let large = types.array(int, 20);
    let pointer_to_large = types.pointer(large);
    for (map, split) in [
        (types.classic_map(large, pointer_to_large), false),
        (types.swiss_map(large, pointer_to_large, true), true),
    ] {
        let header = layout_of(&types, target(&slots_of(&types, map)[0]));
        let inner = layout_of(&types, target(&header.slots[0]));
        // The key is stored behind a pointer; the value is a pointer of the program's own.
        assert_eq!(shape(&inner.slots)[..2], [(8, 8, 8, 8, 0), (72, 72, 8, 8, 1)], "{split}");
        assert_eq!(target(&inner.slots[0]), Target::value(large));
        assert_eq!(target(&inner.slots[1]), Target::value(large));
    }
}

#[test]
fn a_swiss_map_leads_to_one_group_or_to_tables() {
    let types = TypeTable::default();
    let (string, int) = (types.string(), types.int());
    let map = types.swiss_map(string, int, false);
    let header = layout_of(&types, target(&slots_of(&types, map)[0]));
    assert!(header.torn_check);
    assert_eq!(shape(&header.slots), [(16, 24, 1, 0, 0), (16, 24, 1, 0, 0)]);
    assert_eq!([header.slots[0].count_rule, header.slots[1].count_rule], [COUNT_ONE_IF_ZERO, COUNT_WORD]);
    let group = layout_of(&types, target(&header.slots[0]));
    assert_eq!(shape(&group.slots), [(8, 16, 8, 24, 0)]);
    let directory = layout_of(&types, target(&header.slots[1]));
    assert_eq!((directory.bytes, shape(&directory.slots)), (8, vec![(0, 0, 1, 0, 0)]));
    let table = layout_of(&types, target(&directory.slots[0]));
    assert_eq!(shape(&table.slots), [(16, 24, 1, 0, 0)]);
    assert_eq!(table.slots[0].count_rule, COUNT_MASK_PLUS_ONE);
    assert_eq!(target(&table.slots[0]), target(&header.slots[0]));
}

#[test]
fn a_channel_leads_to_its_buffer_of_elements() {
    let types = TypeTable::default();
    let string = types.string();
    let header = target(&slots_of(&types, types.channel(string))[0]);
    let slots = layout_of(&types, header).slots;
    assert_eq!(shape(&slots), [(16, 8, 1, 0, 0)]);
    assert_eq!(target(&slots[0]), Target::value(string));
    let signal = target(&slots_of(&types, types.channel(types.structure("struct {}", &[])))[0]);
    assert_eq!(layout_of(&types, signal).slots, []);
}

#[test]
fn the_data_word_of_an_interface_is_the_value_when_the_type_is_one_pointer() {
    let types = TypeTable::default();
    let int = types.int();
    let pointer = types.pointer(int);
    let wrapped = types.array(types.structure("w", &[("p", pointer)]), 1);
    let empty = types.structure("struct {}", &[]);
    let with_empty = types.structure("e", &[("z", empty), ("p", pointer)]);
    let follow = |ty| Some(DynamicTarget::Follow(Target::value(ty)));
    let string = types.string();
    for (ty, expected) in [
        (pointer, follow(int)),
        (wrapped, follow(int)),
        (string, follow(string)),
        (int, follow(int)),
        (empty, Some(DynamicTarget::Nothing)),
        (types.func(), Some(DynamicTarget::Func)),
        (types.structure("f", &[("f", types.func())]), Some(DynamicTarget::Func)),
        (
            types.add("unsafe.Pointer", 8, crate::golang::types::Kind::UnsafePointer, Shape::UnsafePointer),
            Some(DynamicTarget::Nothing),
        ),
        // Direct since Go 1.26, indirect before.
        (with_empty, None),
    ] {
        assert_eq!(dynamic_of(&types, ty), expected, "{:?}", types.get(ty));
    }
    let number = types.structure("n", &[("n", int)]);
    assert_eq!(dynamic_of(&types, number), follow(number));
}

/// Fills a table with types that refer to earlier ones (and, by pointers, to any).
fn random_types(choices: &[(u8, u16, u16, u8)]) -> (TypeTable, Vec<TypeId>) {
    let types = TypeTable::default();
    let mut ids = vec![types.int(), types.string(), types.byte()];
    for &(what, a, b, n) in choices {
        let (one, two) = (ids[usize::from(a) % ids.len()], ids[usize::from(b) % ids.len()]);
        ids.push(match what % 12 {
            0 => types.pointer(TypeId(u64::from(a) % (choices.len() as u64 * 2))),
            1 => types.slice(one),
            2 => types.array(one, u64::from(n)),
            3 => types.structure("s", &[("a", one), ("b", two)]),
            4 => types.structure("s", &[("a", one), ("b", two), ("c", one), ("d", two)]),
            5 => types.classic_map(one, two),
            6 => types.swiss_map(one, two, n % 2 == 0),
            7 => types.channel(one),
            8 => types.any(),
            9 => types.error(),
            10 => types.func(),
            _ => types.array(one, u64::from(a) << (n % 40)),
        });
    }
    (types, ids)
}

proptest! {
    #[test]
    fn every_slot_of_every_part_lies_within_the_element(
        choices in prop::collection::vec(any::<(u8, u16, u16, u8)>(), 0..40)
    ) {
        let (types, ids) = random_types(&choices);
        let mut work: Vec<Target> = ids.into_iter().map(Target::value).collect();
        let mut seen = std::collections::HashSet::new();
        while let Some(next) = work.pop() {
            if !seen.insert(next) || seen.len() > 400 {
                continue;
            }
            let layout = layout_of(&types, next);
            prop_assert!(layout.slots.len() <= MAX_SLOTS_PER_TYPE as usize);
            for slot in &layout.slots {
                prop_assert!(slot.repeat >= 1);
                let last = u64::from(slot.repeat - 1) * u64::from(slot.stride);
                let end = u64::from(slot.word.max(slot.count)) + last + 8;
                prop_assert!(end <= types.get(next.ty).bytes, "{slot:?} of {next:?}");
                prop_assert!(end <= u64::from(MAX_CHUNK_BYTES));
                if let SlotTarget::Type(target) = slot.target {
                    prop_assert_eq!(slot.action, ACTION_FOLLOW);
                    prop_assert!(types.get(target.ty).bytes > 0);
                    work.push(target);
                }
            }
        }
    }
}
