use std::sync::Arc;

use super::*;
use crate::golang::{
    layout::{Target, layout_of},
    table::TypeTable,
    types::{FieldLayout, Kind, MapLayout, Shape, TypeId, TypeSource},
};

fn rules(has_defaults: bool, patterns: &[&str], allow: &[&str]) -> Rules {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let policy = Policy { allow: texts(allow), ..Policy::default() };
    Rules::new(has_defaults, &texts(patterns), Some(&policy)).unwrap()
}

fn forbids_variable(rules: &Rules, name: &str, sort: Sort) -> bool {
    rules.treat_variable(name, || sort) == Treatment::Redacted
}

fn forbids_field(rules: &Rules, holder: &str, name: &str, sort: Sort) -> bool {
    rules.treat_field(&TypeName::new(holder), name, || sort) == Treatment::Redacted
}

fn forbids_type(rules: &Rules, name: &str, sort: Sort) -> bool {
    rules.forbids_type(&TypeName::new(name), || sort)
}

#[test]
fn patterns_stand_for_whole_names_whatever_the_case() {
    for (pattern, name, holds) in [
        ("password", "password", true),
        ("PassWord", "password", true),
        ("password", "passwords", false),
        ("*word", "password", true),
        ("pass*", "pass", true),
        ("*a*b*c", "xxaxxbxxbc", true),
        ("*a*b*c", "xxaxxbxxbcd", false),
        ("p?n", "pin", true),
        ("p?n", "pn", false),
        ("*", "", true),
        ("ключ*", "ключик", true),
    ] {
        assert_eq!(Pattern::new(pattern).unwrap().matches(name), holds, "{pattern} {name}");
    }
    for bad in ["", "  ", "a b", &"x".repeat(300)] {
        assert!(Pattern::new(bad).is_err(), "{bad:?}");
    }
    // Would take for ever if every choice were tried.
    assert!(!Pattern::new(&"*a".repeat(100)).unwrap().matches(&"a".repeat(5000).replace('a', "ab")));
}

#[test]
fn default_rules_know_secrets_by_name_and_kind() {
    let rules = rules(true, &[], &[]);
    for (name, sort, secret) in [
        ("password", Sort::Text, true),
        ("DBPassword", Sort::Other, true),
        ("hasPassword", Sort::Harmless, false),
        ("ErrBadPassword", Sort::Other, false),
        ("clientSecret", Sort::Text, true),
        ("api_key", Sort::Text, true),
        ("APIKey", Sort::Other, true),
        ("access-key", Sort::Text, true),
        ("token", Sort::Text, true),
        ("refreshToken", Sort::Text, true),
        // A parser's.
        ("token", Sort::Other, false),
        ("tok", Sort::Text, false),
        ("tokenizer", Sort::Text, false),
        ("key", Sort::Text, false),
        ("keys", Sort::Text, false),
        ("pin", Sort::Text, true),
        ("pinned", Sort::Text, false),
        ("pass", Sort::Text, true),
        ("passes", Sort::Other, false),
        ("Authorization", Sort::Text, true),
        ("author", Sort::Text, false),
        ("main.adminPassword", Sort::Text, true),
    ] {
        assert_eq!(forbids_variable(&rules, name, sort), secret, "{name} {sort:?}");
    }
    assert!(forbids_field(&rules, "net/http.Cookie", "Value", Sort::Text));
    assert!(!forbids_field(&rules, "main.Option", "Value", Sort::Text));
    assert!(forbids_type(&rules, "crypto/rsa.PrivateKey", Sort::Other));
    assert!(forbids_type(&rules, "example.org/auth.Token", Sort::Text));
    assert!(!forbids_type(&rules, "go/token.Token", Sort::Other));
    assert!(!forbids_type(&rules, "*go/token.Token", Sort::Text));
    assert!(!forbids_type(&rules, "main.SecretStore", Sort::Other));
    let guards = |name| rules.guards_type(&TypeName::new(name));
    assert!(guards("net/http.Header") && guards("net/url.Values"));
    let headers = rules.treat_field(&TypeName::new("main.Mail"), "Headers", || Sort::Other);
    assert_eq!(headers, Treatment::Guarded);
    assert_eq!(rules.treat_variable("prices", || Sort::Other), Treatment::Copied);
    assert!(rules.allows_key("Content-Type") && !rules.allows_key("Authorization"));
    assert!(rules.forbids_key("X-Api-Key") && !rules.forbids_key("colour"));
}

#[test]
fn own_patterns_hold_for_any_kind_and_exceptions_win() {
    let rules = rules(true, &["salary", "hr.*", "main.User.Age"], &["*reset*", "auth.Public*"]);
    assert!(forbids_variable(&rules, "salary", Sort::Other));
    assert!(forbids_type(&rules, "example.org/x/hr.Person", Sort::Other));
    assert!(forbids_field(&rules, "main.User", "Age", Sort::Other));
    assert!(!forbids_field(&rules, "main.Dog", "Age", Sort::Other));
    assert!(!forbids_variable(&rules, "passwordResetCount", Sort::Other));
}

#[test]
fn rules_say_what_they_are() {
    let of = |defaults, patterns: &[String], policy: Option<&str>| {
        let policy = policy.map(|text| Policy::parse(text).unwrap());
        Rules::new(defaults, patterns, policy.as_ref()).unwrap().description().to_string()
    };
    assert_eq!(of(true, &[], None), "defaults");
    assert_eq!(of(false, &[], None), "off");
    assert_eq!(of(true, &["x".to_owned()], Some("redact = ['y']")), "defaults+options+file");
    assert!(Rules::new(false, &[], None).unwrap().are_off());
    for (bad, part) in
        [("redact = 'x'", "redact"), ("redakt = ['x']", "redakt"), ("redact = [", "policy has")]
    {
        let error = Policy::parse(bad).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = Rules::new(true, &["a b".to_owned()], None).unwrap_err().to_string();
    assert!(error.contains("\"a b\" contains a space"), "{error}");
}

fn field(name: &str, offset: u64, ty: TypeId) -> FieldLayout {
    FieldLayout { name: name.into(), embedded: false, offset, ty }
}

#[test]
fn a_field_that_is_not_copied_is_a_hole_in_everything_that_holds_it() {
    let table = TypeTable::default();
    let (int, string) = (table.int(), table.string());
    let fields = vec![field("id", 0, int), field("password", 8, string), field("name", 24, string)];
    let user = table.add("main.User", 40, Kind::Struct, Shape::Struct { fields });
    let two = table.add("[2]main.User", 80, Kind::Array, Shape::Array { elem: user, len: 2 });
    let fields = vec![field("n", 0, int), field("users", 8, two)];
    let holder = table.add("main.Holder", 88, Kind::Struct, Shape::Struct { fields });
    let many = table.add("[500]main.User", 20_000, Kind::Array, Shape::Array { elem: user, len: 500 });
    let pointer = table.add("*main.User", 8, Kind::Pointer, Shape::Pointer { elem: Some(user) });

    let seen = RedactedTypes::new(table, Arc::new(rules(true, &[], &[])));
    let layout = |ty| layout_of(&seen, Target::value(ty));
    assert_eq!((layout(user).holes.len(), layout(user).holes.first()), (1, Some(&(8..24))));
    assert_eq!(layout(user).kept(), [0..8, 24..40]);
    assert_eq!(layout(user).slots.iter().map(|slot| slot.word).collect::<Vec<_>>(), [24]);
    assert_eq!(layout(holder).holes, [16..32, 56..72]);
    assert_eq!(layout(pointer).holes, []);
    // Too many holes to be left out one by one: nothing is copied.
    assert_eq!((layout(many).bytes, layout(many).slots.len(), layout(many).redacts), (0, 0, true));

    let whole = RedactedTypes::new(seen.types, Arc::new(rules(true, &["main.User"], &[])));
    assert_eq!(whole.get(user).shape, Shape::Redacted);
    assert!(layout_of(&whole, Target::value(pointer)).slots.is_empty());
    let off = RedactedTypes::new(whole.types, Arc::new(rules(false, &[], &[])));
    assert!(layout_of(&off, Target::value(holder)).holes.is_empty() && !off.redacts());
}

#[test]
fn values_of_a_guarded_map_are_followed_by_their_own_keys() {
    let table = TypeTable::default();
    let (string, byte) = (table.string(), table.byte());
    let texts = table.add("[]string", 24, Kind::Slice, Shape::Slice { elem: string });
    let slot = table.add(
        "struct { key string; elem []string }",
        40,
        Kind::Struct,
        Shape::Struct { fields: vec![field("key", 0, string), field("elem", 16, texts)] },
    );
    let slots = table.add("[8]slot", 320, Kind::Array, Shape::Array { elem: slot, len: 8 });
    let ctrl = table.add("[8]uint8", 8, Kind::Array, Shape::Array { elem: byte, len: 8 });
    let fields = vec![field("ctrl", 0, ctrl), field("slots", 8, slots)];
    let group = table.add("noalg.map.group[string][]string", 328, Kind::Struct, Shape::Struct { fields });
    let plain = MapLayout { key: string, value: texts, header: group, is_guarded: false };
    let header = table.add("net/http.Header", 8, Kind::Map, Shape::Map(plain));
    let ordinary = table.add("map[string][]string", 8, Kind::Map, Shape::Map(plain));

    let seen = RedactedTypes::new(table, Arc::new(rules(true, &["key"], &[])));
    let map_of = |ty| match seen.get(ty).shape {
        Shape::Map(map) => map,
        ref other => panic!("{other:?}"),
    };
    assert!(map_of(header).is_guarded && !map_of(ordinary).is_guarded);
    let part = crate::golang::layout::Part::MapGroup;
    let layout = |map| layout_of(&seen, Target { ty: group, part: part(map) });
    assert_eq!(layout(map_of(ordinary)).slots.len(), 2);
    let guarded = layout(map_of(header));
    let guards: Vec<(u32, u32)> =
        guarded.slots.iter().filter(|slot| slot.guard != 0).map(|slot| (slot.word, slot.guard)).collect();
    let expected: Vec<(u32, u32)> = (0..8).map(|index| (24 + 40 * index, 9 + 40 * index)).collect();
    assert_eq!(guards, expected);
    assert!(guarded.holes.is_empty() && guarded.redacts);
}
