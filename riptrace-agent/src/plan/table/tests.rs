use riptrace_common::abi::program::{LIMIT_FIXED, LIMIT_STRING, TYPE_BYTES, TYPE_FIRST};

use super::*;

fn pointer(word: u32, target: u32) -> Slot {
    Slot { word, target, repeat: 1, limit: LIMIT_FIXED, max_count: 1, deeper: 1, ..Slot::default() }
}

fn string(word: u32) -> Slot {
    Slot {
        word,
        count: word + 8,
        target: TYPE_BYTES,
        repeat: 1,
        count_rule: COUNT_WORD,
        limit: LIMIT_STRING,
        ..Slot::default()
    }
}

/// `TYPE_FIRST`: a list's node, a name and the next one; then a map.
fn uploaded() -> Uploaded {
    let plain = |bytes| Type { bytes, ..Type::default() };
    let mut uploaded = Uploaded::default();
    uploaded.add(&Upload {
        types: vec![
            (TYPE_BYTES, plain(1)),
            (TYPE_FIRST, Type { slots: 2, ..plain(24) }),
            (TYPE_FIRST + 1, Type { flags: TYPE_TORN_CHECK, ..plain(48) }),
        ],
        slots: vec![(0, string(0)), (1, pointer(16, TYPE_FIRST))],
        ..Upload::default()
    });
    uploaded
}

fn shapes(tabled: &Tabled) -> Vec<(u8, u16, u8)> {
    tabled.table.ops[..tabled.ops.into()].iter().map(|op| (op.from, op.word, op.flags)).collect()
}

#[test]
fn what_lies_behind_pointers_follows_them() {
    let tabled = Tabled::new(&[string(0), pointer(16, TYPE_FIRST)], &uploaded(), 1);
    assert_eq!(
        shapes(&tabled),
        [(0, 0, OP_PLAIN), (0, 16, OP_PLAIN), (2, 0, OP_PLAIN)],
        "the next node is a level too deep"
    );
    assert_eq!(tabled.first_walked_slot, NO_SLOT);
}

#[test]
fn what_finds_no_room_is_scanned() {
    let tabled = Tabled::new(&[pointer(0, TYPE_FIRST)], &uploaded(), 100);
    assert_eq!(usize::from(tabled.ops), TABLE_OPS - 1, "two operations a node, and the first");
    assert_eq!(shapes(&tabled).last(), Some(&(13, 16, OP_SCAN)));
    assert_eq!(tabled.first_walked_slot, NO_SLOT);
    let many = vec![string(0); 20];
    let tabled = Tabled::new(&many, &uploaded(), 1);
    assert_eq!((usize::from(tabled.ops), usize::from(tabled.first_walked_slot)), (TABLE_OPS, TABLE_OPS));
    assert_eq!(tabled.root_slots.len(), 20);
}

#[test]
fn what_only_the_walk_can_follow_comes_last() {
    let slots = [
        Slot { repeat: 2, stride: 8, ..pointer(0, TYPE_FIRST) },
        pointer(16, TYPE_FIRST + 1),
        // Not uploaded.
        pointer(24, TYPE_FIRST + 9),
        string(32),
    ];
    let tabled = Tabled::new(&slots, &uploaded(), 4);
    assert_eq!(tabled.root_slots, [slots[3], slots[0], slots[1], slots[2]]);
    assert_eq!((tabled.ops, tabled.first_walked_slot), (1, 1));
    assert_eq!(Tabled::new(&slots[..3], &uploaded(), 4), Tabled::walked(&slots[..3]));
    assert_eq!(Tabled::new(&[], &uploaded(), 4).first_walked_slot, NO_SLOT);
}

#[test]
fn an_interface_is_one_operation_and_no_plain_one() {
    let interface = Slot { word: 0, count: 8, action: ACTION_INTERFACE, ..pointer(0, 0) };
    let tabled = Tabled::new(&[interface], &uploaded(), 4);
    assert_eq!(shapes(&tabled), [(0, 0, 0)]);
}

#[test]
fn only_a_fixed_limit_is_the_operation_s_own() {
    let tabled = Tabled::new(&[string(0), pointer(16, TYPE_FIRST)], &uploaded(), 1);
    let counts: Vec<u32> = tabled.table.ops[..2].iter().map(|op| op.max_count).collect();
    assert_eq!(counts, [u32::MAX, 1]);
}
