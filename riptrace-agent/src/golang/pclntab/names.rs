//! How what a user types is compared with full names of functions and paths of files.

use std::borrow::Cow;

/// Whether a function's full name is meant by what a user typed.
pub fn name_matches(full: &str, typed: &str) -> bool {
    if typed.is_empty() {
        return false;
    }
    suffix_matches(full, typed)
        || (!typed.contains('[') && full.contains('[') && suffix_matches(&without_type_arguments(full), typed))
        // The linker escapes dots in the last element of an import path: `gopkg.in/yaml%2ev3.Unmarshal`.
        || (full.contains("%2e") && !typed.contains("%2e") && name_matches(&full.replace("%2e", "."), typed))
}

fn suffix_matches(full: &str, typed: &str) -> bool {
    full.strip_suffix(typed).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// `pkg.F[...]` and `pkg.(*T[go.shape.int]).M` without what is in brackets.
fn without_type_arguments(full: &str) -> String {
    let mut depth = 0_u32;
    let mut out = String::with_capacity(full.len());
    for c in full.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// A function's name as the runtime prints it: type arguments as `[...]` (runtime/symtab.go, `funcNameForPrint`).
pub fn shortened(full: &str) -> Cow<'_, str> {
    match (full.find('['), full.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            let (before, after) = (full.get(..open), full.get(close + 1..));
            Cow::Owned(format!("{}[...]{}", before.unwrap_or_default(), after.unwrap_or_default()))
        }
        _ => Cow::Borrowed(full),
    }
}

/// Whether a path ends in what a user typed, at a `/`.
pub fn path_matches(path: &str, typed: &str) -> bool {
    !typed.is_empty() && suffix_matches(path, typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_matches_from_a_slash_on() {
        for (full, typed, expected) in [
            ("main.main", "main.main", true),
            ("example.com/shop/orders.(*Store).Add", "orders.(*Store).Add", true),
            ("example.com/shop/orders.(*Store).Add", "shop/orders.(*Store).Add", true),
            ("example.com/shop/orders.(*Store).Add", "example.com/shop/orders.(*Store).Add", true),
            ("example.com/shop/reorders.Add", "orders.Add", false),
            ("example.com/shop/orders.Add", "Add", false),
            ("example.com/shop/orders.Add.func1", "orders.Add", false),
            ("main.Map[go.shape.int,go.shape.string]", "main.Map", true),
            ("main.(*List[go.shape.int]).Push", "main.(*List).Push", true),
            ("main.(*List[example.com/a.T]).Push", "main.(*List[example.com/a.T]).Push", true),
            ("main.Map[go.shape.int].func1", "main.Map", false),
            ("gopkg.in/yaml%2ev3.Unmarshal", "yaml.v3.Unmarshal", true),
            ("main.main", "", false),
        ] {
            assert_eq!(name_matches(full, typed), expected, "{full} {typed}");
        }
        for (path, typed, expected) in [
            ("/src/shop/orders.go", "orders.go", true),
            ("/src/shop/orders.go", "shop/orders.go", true),
            ("/src/shop/orders.go", "/src/shop/orders.go", true),
            ("/src/shop/reorders.go", "orders.go", false),
            ("/src/shop/orders.go", "", false),
        ] {
            assert_eq!(path_matches(path, typed), expected, "{path} {typed}");
        }
    }

    #[test]
    fn type_arguments_are_shortened_as_the_runtime_does() {
        assert_eq!(shortened("main.Map[go.shape.int].func1"), "main.Map[...].func1");
        assert_eq!(shortened("main.(*L[a[b],c]).M"), "main.(*L[...]).M");
        assert_eq!(shortened("main.main"), "main.main");
        assert_eq!(shortened("broken]["), "broken][");
    }
}
