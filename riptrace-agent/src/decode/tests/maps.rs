//! Maps of both implementations.

use riptrace_common::abi::{
    program::TYPE_BYTES,
    record::{CHUNK_CUT_BYTES, CHUNK_TORN},
};

use super::super::testing::{Bench, Capture, index, words};
use crate::golang::types::{Kind, Shape, TypeId};

const HEADER: u64 = 0xc000_0000_1000;
const BUCKETS: u64 = 0xc000_0000_2000;
const OLD: u64 = 0xc000_0000_3000;
const OVERFLOW: u64 = 0xc000_0000_4000;
const TABLE: u64 = 0xc000_0000_5000;
const TABLE_2: u64 = 0xc000_0000_6000;
const GROUPS: u64 = 0xc000_0000_7000;
const GROUPS_2: u64 = 0xc000_0000_8000;

fn header_of(bench: &Bench, map: TypeId) -> TypeId {
    match bench.types_shape(map) {
        Shape::Map(layout) => layout.header,
        _ => unreachable!(),
    }
}

/// `runtime.hmap`.
fn hmap(count: u64, flags: u8, exponent: u8, buckets: u64, old: u64) -> Vec<u8> {
    let mut out = words(&[count]);
    out.extend([flags, exponent, 0, 0, 0, 0, 0, 0]);
    out.extend(words(&[buckets, old, 0]));
    out
}

/// A `map[int]int` bucket with these tophash bytes; slot i holds key `first + i` and ten times that as its value.
fn bucket(tophash: [u8; 8], first: u64, overflow: u64) -> Vec<u8> {
    let mut out = tophash.to_vec();
    out.extend((0..8).flat_map(|slot| (first + slot).to_le_bytes()));
    out.extend((0..8).flat_map(|slot| ((first + slot) * 10).to_le_bytes()));
    out.extend(overflow.to_le_bytes());
    out
}

struct Classic {
    bench: Bench,
    map: TypeId,
    header: u32,
    bucket: u32,
}

impl Classic {
    fn new() -> Self {
        let mut bench = Bench::default();
        let int = bench.types.int();
        let (map, bucket) = bench.types.classic_map(int, int);
        let header = index(header_of(&bench, map));
        Self { bench, map, header, bucket: index(bucket) }
    }

    fn at(&self, header: &[u8]) -> Capture {
        Capture::of(&words(&[HEADER])).chunk(HEADER, self.header, header)
    }

    fn text(&self, capture: &Capture) -> String {
        self.bench.text(self.map, capture)
    }
}

#[test]
fn classic_maps_show_full_slots_and_overflow_buckets_in_key_order() {
    let classic = Classic::new();
    let two =
        [bucket([9, 0, 0, 0, 0, 0, 0, 0], 50, 0), bucket([1, 7, 0, 8, 0, 0, 0, 0], 20, OVERFLOW)].concat();
    for (capture, expect) in [
        (Capture::of(&words(&[0])), "map[int]int nil"),
        (classic.at(&hmap(0, 0, 0, 0, 0)), "map[int]int []"),
        (
            // emptyRest ends a bucket, emptyOne does not.
            classic.at(&hmap(3, 0, 1, BUCKETS, 0)).chunk(BUCKETS, classic.bucket, &two).chunk(
                OVERFLOW,
                classic.bucket,
                &bucket([5, 0, 0, 0, 0, 0, 0, 0], 1, 0),
            ),
            "map[int]int [1: 10, 21: 210, 50: 500]",
        ),
        (
            classic.at(&hmap(3, 0, 1, BUCKETS, 0)).chunk(BUCKETS, classic.bucket, &two),
            "map[int]int [21: 210, 50: 500, …+1 more]",
        ),
        (
            classic
                .at(&hmap(3, 0, 1, BUCKETS, 0))
                .chunk(BUCKETS, classic.bucket, &two)
                .fault(OVERFLOW, classic.bucket),
            "map[int]int [21: 210, 50: 500] (unreadable memory)",
        ),
        (classic.at(&hmap(3, 0, 1, BUCKETS, 0)).fault(BUCKETS, classic.bucket), "(unreadable memory)"),
        (
            classic.at(&hmap(9, 0, 0, BUCKETS, 0)).chunk(BUCKETS, classic.bucket, &two[..144]),
            "map[int]int [50: 500] (torn)",
        ),
        (
            classic.at(&hmap(1, 4, 0, BUCKETS, 0)).chunk(BUCKETS, classic.bucket, &two[..144]),
            "map[int]int [50: 500] (torn)",
        ),
        (
            Capture::of(&words(&[HEADER]))
                .chunk_with(HEADER, classic.header, 1, CHUNK_TORN, &hmap(1, 0, 0, BUCKETS, 0))
                .chunk(BUCKETS, classic.bucket, &two[..144]),
            "map[int]int [50: 500] (torn)",
        ),
        (
            // An overflow chain that leads back to its start.
            classic.at(&hmap(1, 0, 0, BUCKETS, 0)).chunk(
                BUCKETS,
                classic.bucket,
                &bucket([9, 0, 0, 0, 0, 0, 0, 0], 50, BUCKETS),
            ),
            "map[int]int [50: 500] (torn)",
        ),
        (classic.at(&hmap(1, 0, 200, BUCKETS, 0)), "(past the capture's budget) (torn)"),
        (
            classic.at(&hmap(3, 0, 1, BUCKETS, 0)).chunk_with(
                BUCKETS,
                classic.bucket,
                0,
                CHUNK_CUT_BYTES,
                &two[..144],
            ),
            "map[int]int [50: 500, …+2 more]",
        ),
    ] {
        assert_eq!(classic.text(&capture), expect);
    }
}

#[test]
fn a_growing_map_shows_each_entry_where_it_is_valid() {
    let classic = Classic::new();
    // Old bucket 0 is evacuated: its entries are in new buckets 0 and 2. Old bucket 1 still holds its entries, and what
    // lies in new buckets 1 and 3 is not there yet.
    let old = [bucket([2, 3, 4, 4, 4, 4, 4, 4], 100, 0), bucket([6, 0, 0, 0, 0, 0, 0, 0], 40, 0)].concat();
    let new = [
        bucket([5, 0, 0, 0, 0, 0, 0, 0], 100, 0),
        bucket([9, 9, 9, 9, 9, 9, 9, 9], 900, 0),
        bucket([5, 0, 0, 0, 0, 0, 0, 0], 200, 0),
        bucket([9, 9, 9, 9, 9, 9, 9, 9], 900, 0),
    ]
    .concat();
    let capture = classic.at(&hmap(3, 0, 2, BUCKETS, OLD)).chunk(BUCKETS, classic.bucket, &new).chunk(
        OLD,
        classic.bucket,
        &old,
    );
    assert_eq!(classic.text(&capture), "map[int]int [40: 400, 100: 1000, 200: 2000]");

    // Same-size growth: one new bucket for each old one.
    let same = classic.at(&hmap(2, 8, 1, BUCKETS, OLD)).chunk(BUCKETS, classic.bucket, &new[..288]).chunk(
        OLD,
        classic.bucket,
        &old,
    );
    assert_eq!(classic.text(&same), "map[int]int [40: 400, 100: 1000]");
}

#[test]
fn large_keys_and_values_are_behind_pointers() {
    for swiss in [false, true] {
        let mut bench = Bench::default();
        let int = bench.types.int();
        let large = bench.types.array(17, int);
        let entry = |data: &mut Vec<u8>| data.extend(words(&[OVERFLOW, 0, 0, 0, 0, 0, 0, 0]));
        let (map, capture) = if swiss {
            let (map, _, group) = bench.types.swiss_map(int, large, true);
            let mut data = vec![1, 0x80, 0x80, 0xfe, 0x80, 0x80, 0x80, 0x80];
            data.extend(words(&[5, 0, 0, 0, 0, 0, 0, 0]));
            entry(&mut data);
            let header = index(header_of(&bench, map));
            let capture = Capture::of(&words(&[HEADER]))
                .chunk(HEADER, header, &words(&[1, 0, GROUPS, 0, 0]))
                .chunk(GROUPS, index(group), &data);
            (map, capture)
        } else {
            let (map, bucket) = bench.types.classic_map(int, large);
            let mut data = vec![7, 0, 0, 0, 0, 0, 0, 0];
            data.extend(words(&[5, 0, 0, 0, 0, 0, 0, 0]));
            entry(&mut data);
            data.extend(words(&[0]));
            let capture = Capture::of(&words(&[HEADER]))
                .chunk(HEADER, index(header_of(&bench, map)), &hmap(1, 0, 0, BUCKETS, 0))
                .chunk(BUCKETS, index(bucket), &data);
            (map, capture)
        };
        let capture = capture.chunk(OVERFLOW, index(large), &words(&[3; 17]));
        assert_eq!(
            bench.text(map, &capture),
            "map[int][17]int [5: [3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3,3]]",
            "swiss: {swiss}"
        );
    }
}

/// A group of a `map[int]int`.
fn group(split: bool, ctrl: [u8; 8], first: u64) -> Vec<u8> {
    let mut out = ctrl.to_vec();
    if split {
        out.extend((0..8).flat_map(|slot| (first + slot).to_le_bytes()));
        out.extend((0..8).flat_map(|slot| ((first + slot) * 10).to_le_bytes()));
    } else {
        out.extend((0..8).flat_map(|slot| words(&[first + slot, (first + slot) * 10])));
    }
    out
}

fn table(groups: u64, last_group: u64) -> Vec<u8> {
    words(&[0, 0, groups, last_group])
}

#[test]
fn swiss_maps_show_full_slots_of_every_table_once() {
    const E: u8 = 0x80;
    const D: u8 = 0xfe;
    for split in [false, true] {
        let mut bench = Bench::default();
        let int = bench.types.int();
        let (map, table_type, group_type) = bench.types.swiss_map(int, int, split);
        let header = index(header_of(&bench, map));
        let (table_index, group_index) = (index(table_type), index(group_type));
        let at = |fields: [u64; 5]| Capture::of(&words(&[HEADER])).chunk(HEADER, header, &words(&fields));
        let small = group(split, [0x11, E, D, 0x7f, E, E, E, E], 1);
        let two =
            [group(split, [0, E, E, E, E, E, E, E], 20), group(split, [E, 5, E, E, E, E, E, E], 30)].concat();
        let directory = words(&[TABLE, TABLE, TABLE_2, TABLE_2]);
        let large = || {
            at([4, 0, OLD, 4, 2])
                .chunk(OLD, 50, &directory)
                .chunk(TABLE, table_index, &table(GROUPS, 1))
                .chunk(TABLE_2, table_index, &table(GROUPS_2, 0))
        };
        for (capture, expect) in [
            (Capture::of(&words(&[0])), "map[int]int nil"),
            (at([0, 0, 0, 0, 0]), "map[int]int []"),
            (at([2, 0, GROUPS, 0, 0]).chunk(GROUPS, group_index, &small), "map[int]int [1: 10, 4: 40]"),
            (
                at([3, 0, GROUPS, 0, 0]).chunk(GROUPS, group_index, &small),
                "map[int]int [1: 10, 4: 40] (torn)",
            ),
            (
                at([2, 0, GROUPS, 0, 1 << 16]).chunk(GROUPS, group_index, &small),
                "map[int]int [1: 10, 4: 40] (torn)",
            ),
            (
                large().chunk(GROUPS, group_index, &two).chunk(GROUPS_2, group_index, &small),
                "map[int]int [1: 10, 4: 40, 20: 200, 31: 310]",
            ),
            (large().chunk(GROUPS, group_index, &two), "map[int]int [20: 200, 31: 310, …+2 more]"),
            (
                large().chunk_with(GROUPS, group_index, 0, CHUNK_CUT_BYTES, &two[..140]).chunk(
                    GROUPS_2,
                    group_index,
                    &small,
                ),
                "map[int]int [1: 10, 4: 40, 20: 200, …+1 more]",
            ),
            (at([2, 0, GROUPS, 0, 0]).fault(GROUPS, group_index), "(unreadable memory)"),
        ] {
            assert_eq!(bench.text(map, &capture), expect, "split: {split}");
        }
    }
}

#[test]
fn max_items_limits_the_entries_in_key_order() {
    let mut bench = Bench::default();
    bench.limits.max_items = 2;
    let (int, string) = (bench.types.int(), bench.types.string());
    let (map, _, group) = bench.types.swiss_map(string, int, true);
    let mut data = vec![1, 2, 3, 0x80, 0x80, 0x80, 0x80, 0x80];
    for (at, len) in [(0, 1), (1, 1), (2, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)] {
        data.extend(words(&[TABLE + at, len]));
    }
    data.extend(words(&[1, 2, 3, 0, 0, 0, 0, 0]));
    let capture = Capture::of(&words(&[HEADER]))
        .chunk(HEADER, index(header_of(&bench, map)), &words(&[3, 0, GROUPS, 0, 0]))
        .chunk(GROUPS, index(group), &data)
        .chunk(TABLE, TYPE_BYTES, b"zab");
    assert_eq!(bench.text(map, &capture), r#"map[string]int ["a": 2, "b": 3, …+1 more]"#);
    assert_eq!(bench.types.scalar("int", Kind::Int, 8), int);
}
