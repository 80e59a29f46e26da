use serde_json::json;

use super::*;

fn findings(truth: &Value, got: &Value) -> Findings {
    Comparison::new(Limits::default(), std::iter::once(got)).variable("v", truth, got)
}

fn int(value: i64) -> Value {
    json!({"type": "int", "kind": "int", "value": value})
}

#[test]
fn equal_values_have_no_findings_and_different_ones_have() {
    let string = |text: &str| json!({"type": "string", "kind": "string", "len": text.len(), "value": text});
    let map = |entries: Value| json!({"type": "map[int]int", "kind": "map", "len": 2, "entries": entries});
    let zero = |text: &str| json!({"type": "float64", "kind": "float64", "value": serde_json::from_str::<Value>(text).unwrap()});
    let cases = [
        (int(1), int(1), true),
        (int(1), int(2), false),
        (string("a"), string("a"), true),
        (string("a"), string("b"), false),
        (zero("0"), zero("0.0"), true),
        (zero("0"), zero("-0.0"), false),
        (zero("-0"), zero("-0.0"), true),
        (
            map(json!([[int(1), int(2)], [int(3), int(4)]])),
            map(json!([[int(3), int(4)], [int(1), int(2)]])),
            true,
        ),
        (
            map(json!([[int(1), int(2)], [int(3), int(4)]])),
            map(json!([[int(3), int(4)], [int(1), int(4)]])),
            false,
        ),
        (
            map(json!([[int(1), int(2)], [int(3), int(4)]])),
            map(json!([[int(3), int(4)], [int(3), int(4)]])),
            false,
        ),
    ];
    for (truth, got, equal) in cases {
        assert_eq!(findings(&truth, &got).wrong.is_empty(), equal, "{truth} {got}");
    }
}

#[test]
fn a_truncation_counts_only_when_a_limit_was_reached() {
    let long = "x".repeat(300);
    let truth = json!({"type": "string", "kind": "string", "len": 300, "value": long});
    let cut = |captured: usize| {
        json!({"type": "string", "kind": "string", "len": 300, "value": long[..captured],
               "truncated": {"by": "max_string", "captured": captured}})
    };
    assert!(findings(&truth, &cut(256)).wrong.is_empty());
    let short = json!({"type": "string", "kind": "string", "len": 3, "value": "abc"});
    let needless = json!({"type": "string", "kind": "string", "len": 3, "value": "ab",
                          "truncated": {"by": "max_string", "captured": 2}});
    assert!(!findings(&short, &needless).wrong.is_empty());
}

#[test]
fn a_cycle_is_followed_to_the_object_that_was_shown() {
    let node = |value: i64, next: Value| json!({"type": "main.node", "kind": "struct", "fields": [{"name": "V", "value": int(value)}, {"name": "Next", "value": next}]});
    let pointer = |elem: Value| json!({"type": "*main.node", "kind": "ptr", "addr": "0x10", "elem": elem});
    let deep = json!({"type": "*main.node", "kind": "ptr", "addr": "0x10", "deep": true});
    let truth = pointer(node(1, pointer(node(1, deep))));
    let got = |value| {
        pointer(node(value, json!({"type": "*main.node", "kind": "ptr", "addr": "0x10", "cycle": true})))
    };
    assert!(findings(&truth, &got(1)).wrong.is_empty());
    assert!(!findings(&truth, &got(2)).wrong.is_empty());
}

#[test]
fn spelling_of_unnamed_types_does_not_matter() {
    let cases = [
        ("struct { fixtures/a.x int; Y string }", "struct { x int; Y string }", true),
        ("*struct { F main.T }", "*struct { F other.T }", false),
        ("main.Pair[int,string]", "main.Pair[int, string]", true),
        ("[]int", "[]int8", false),
    ];
    for (a, b, same) in cases {
        assert_eq!(same_type(a, b), same, "{a} {b}");
    }
}
