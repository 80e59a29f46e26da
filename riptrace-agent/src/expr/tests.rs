mod agreement;
mod random;

use std::{fmt::Write as _, sync::Arc};

use riptrace_common::wire::{event::Role, value::Unavailable};

use super::*;
use crate::{
    dwarf::{Piece, Place, VariableLocation, VisibleVariable},
    golang::{
        table::TypeTable,
        types::{Kind, Shape, TypeId},
    },
};

/// Constants and a type of a package.
struct Shop(TypeId);

impl Names for Shop {
    fn constant(&self, type_name: &str, name: &str) -> Option<i64> {
        (type_name == "main.Status" && name == "Busy").then_some(1)
    }

    fn type_named(&self, name: &str) -> Option<TypeId> {
        (name == "*Failure").then_some(self.0)
    }
}

fn in_register(bytes: &[u32]) -> VariableLocation {
    let pieces = bytes.iter().zip([0, 3, 2, 5]);
    VariableLocation::Pieces(
        pieces.map(|(&bytes, number)| Piece { bytes, place: Place::Register(number) }).collect(),
    )
}

fn variable(name: &str, ty: TypeId, location: VariableLocation) -> VisibleVariable {
    VisibleVariable { name: name.into(), role: Role::Local, ty, decl_line: 1, location, dict_index: None }
}

fn with_scope<T>(run: impl FnOnce(Scope<'_>) -> T) -> T {
    let types = TypeTable::default();
    let (int, string, byte) = (types.int(), types.string(), types.byte());
    let float = types.add("float64", 8, Kind::Float64, Shape::Scalar);
    let boolean = types.add("bool", 1, Kind::Bool, Shape::Scalar);
    let status = types.add("main.Status", 8, Kind::Int, Shape::Scalar);
    let failure = types.pointer(types.structure("main.Failure", &[("Code", int)]));
    types.set_runtime_type(failure, 0x9000);
    let order = types.structure(
        "main.Order",
        &[
            ("ID", int),
            ("Name", string),
            ("Total", float),
            ("Items", types.slice(string)),
            ("Status", status),
        ],
    );
    let frame = |bytes| VariableLocation::Pieces(vec![Piece { bytes, place: Place::Frame(-0x40) }]);
    let variables = [
        variable("n", int, in_register(&[8])),
        variable("b", byte, in_register(&[1])),
        variable("s", string, in_register(&[8, 8])),
        variable("f", float, frame(8)),
        variable("ok", boolean, frame(1)),
        variable("o", types.pointer(order), frame(8)),
        variable("m", types.swiss_map(string, int, false), frame(8)),
        variable("err", types.error(), frame(16)),
        variable("gone", int, VariableLocation::Unavailable(Unavailable::OptimizedOut)),
        variable("grid", types.array(int, 3), frame(24)),
    ];
    run(Scope { types: &types, variables: &variables, names: &Shop(failure) })
}

fn compiled(text: &str) -> Result<Vec<String>, String> {
    with_scope(|scope| {
        let expr = parse(text).map_err(|error| error.to_string())?;
        let typed = check_condition(text, &expr, scope).map_err(|error| error.to_string())?;
        let places = Places { types: scope.types, variables: scope.variables, cfa_from_sp: Some(0x60) };
        compile(text, &typed, places).map(|condition| condition.listing()).map_err(|error| error.to_string())
    })
}

#[test]
fn errors_point_at_the_place() {
    let mut shown = String::new();
    for text in [
        "",
        "n ==",
        "n = 1",
        "(n == 1",
        "n == 1)",
        "n == 'ab'",
        "s == \"abc",
        "n == 0x",
        "n == 99999999999999999999",
        "n $ 1",
        "m + 1 == 1",
        "n",
        "nn == 1",
        "o.Nmae == \"x\"",
        "o.ID == \"x\"",
        "n == b",
        "b == 300",
        "b == -1",
        "n == 1.5",
        "n / 0 == 1",
        "n << -1 == 0",
        "f + 1 > 2",
        "s + s == \"\"",
        "s && n == 1",
        "nil == nil",
        "n == nil",
        "o < nil",
        "err == err",
        "o.Items == o.Items",
        "*n == 1",
        "n.x == 1",
        "n[0] == 1",
        "grid[3] == 1",
        "o.Items[-1] == \"\"",
        "o.Items[s] == \"\"",
        "m[1] == 1",
        "o.(*Failure)",
        "err.(*Missing)",
        "o.Status == Bsy",
        "len(n) == 1",
        "cap(s) == 1",
        "o.Method() == 1",
        "strings.Contains(s, s)",
        "gone == 1",
        "&n == nil",
    ] {
        let error = compiled(text).expect_err(text);
        let _ = writeln!(shown, "{error}\n");
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn conditions_become_few_steps() {
    let mut shown = String::new();
    for text in [
        "n == 5",
        "n > 5 && b < 3",
        "n == 1 || n == 2",
        "!(n == 1 || ok) && o != nil",
        "-n % 7 == 3",
        "f >= 1.5",
        "s == \"abc\"",
        "strings.HasPrefix(s, \"ab\") || \"b\" < s",
        "o.Name == \"x\" && len(o.Items) > 2",
        "o.Items[n] == s",
        "o.Status == Busy",
        "err.(*Failure) && err.(*Failure).Code == 2",
        "m[\"k\"] == 1",
        "grid[2] > grid[n]",
    ] {
        let _ = writeln!(shown, "{text}\n    {}\n", compiled(text).unwrap().join("\n    "));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn size_and_nesting_are_bounded() {
    let many = |part: &str, count: usize| part.repeat(count);
    for text in [
        many("n", 10_000),
        format!("{}n == 1{}", many("(", 2000), many(")", 2000)),
        format!("{}ok", many("!", 2000)),
        format!("n{} == 1", many("[0]", 900)),
        format!("n{} == 1", many("+n", 1500)),
        format!("{}n", many("-", 4000)),
        format!("len{}", many("(n", 1000)),
    ] {
        assert!(parse(&text).is_err(), "{}", &text[..20]);
    }
    let steps = format!("n == 0{}", many(" || grid[n] > grid[n]", 20));
    let error = compiled(&steps).unwrap_err();
    assert!(error.contains("steps") && error.lines().count() == 3, "{error}");
}

#[test]
fn precedence_is_go_s() {
    for (text, same) in [
        ("1 + 2 * 3 == 7", true),
        ("1 << 3 + 1 == 9", true),
        ("6 & 3 == 2", true),
        ("1 | 6 &^ 2 == 5", true),
        ("-5 / 2 == -2 && -5 % 2 == -1", true),
        ("true || false && false", true),
        ("!true || true", true),
        ("7 ^ 2 == 5 && ^0 == -1", true),
        ("1.5 * 2 == 3 && 0x10 == 0o20 && 0b11 == 3 && 1_000 == 1e3", true),
        ("'a' < 'b' && \"a\" < \"b\" && `\\` == \"\\\\\" && \"\\u00fc\" == \"ü\"", true),
        ("1 == 2", false),
    ] {
        let typed = with_scope(|scope| check_condition(text, &parse(text).unwrap(), scope).unwrap());
        let value = constant_of(&typed);
        assert_eq!(value, Some(same), "{text}");
    }
}

fn constant_of(typed: &Typed) -> Option<bool> {
    match &typed.kind {
        TypedKind::Constant(Constant::Bool(value)) => Some(*value),
        TypedKind::Not(inner) => Some(!constant_of(inner)?),
        TypedKind::And(left, right) => Some(constant_of(left)? && constant_of(right)?),
        TypedKind::Or(left, right) => Some(constant_of(left)? || constant_of(right)?),
        _ => None,
    }
}

#[test]
fn names_are_collected() {
    let names = names_in(&parse("orders.Open > 1 && len(o.Items[i]) == 0").unwrap());
    assert_eq!(names, ["i", "len", "o", "orders"].map(Arc::<str>::from));
}

#[test]
fn messages_are_text_and_expressions() {
    let template = parse_template("a {{{n}}} {m[\"}\"]} b").unwrap();
    let shown: Vec<String> = template
        .pieces
        .iter()
        .map(|piece| match piece {
            TemplatePiece::Text(text) => text.clone(),
            TemplatePiece::Value(text, _) => format!("<{text}>"),
        })
        .collect();
    assert_eq!(shown, ["a {", "<n>", "} ", "<m[\"}\"]>", " b"]);
    for (text, place) in [("a { b", 2), ("a } b", 2), ("a {n +} b", 6), ("{}", 1), ("{\"}", 0)] {
        let error = parse_template(text).unwrap_err();
        assert_eq!(error.span.start, place, "{text}: {error}");
    }
}

#[test]
fn a_call_s_end_is_told_from_what_its_entry_kept() {
    use riptrace_common::wire::{number::Scalar, value::Value};

    let int = |number| Value { value: Some(Scalar::Int(number)), ..Value::of("int".into(), Kind::Int) };
    let took = Value { display: Some("1.5µs".into()), ..int(1500) };
    let text = "n + ~r0 - duration_ns";
    let computed = Computed {
        text: text.into(),
        expr: parse(text).unwrap(),
        operands: vec![(0..1, Operand::Kept(0)), (4..7, Operand::Planned(0)), (10..21, Operand::DurationNs)],
        constants: Vec::new(),
    };
    let (n, result) = (int(40), int(1502));
    let (planned, kept) = ([&result], [n]);
    let given = Given { planned: &planned, kept: Some(&kept), duration: Some(&took) };
    assert_eq!(computed.value(given).value, Some(Scalar::Int(42)));
    // A call that a panic ended has no results, and of one that began before nothing of its entry is known.
    let panicked = Given { planned: &[], ..given };
    assert_eq!(computed.value(panicked).unavailable, Some(Unavailable::NotInitialized));
    for unseen in [Given { kept: None, ..given }, Given { duration: None, ..given }] {
        assert_eq!(computed.value(unseen).unavailable, Some(Unavailable::EntryNotSeen));
    }
    let whole = Computed {
        text: "duration".into(),
        expr: parse("duration").unwrap(),
        operands: vec![(0..8, Operand::Duration)],
        constants: Vec::new(),
    };
    assert_eq!(whole.value(given), took, "an operand by itself keeps its text");
}
