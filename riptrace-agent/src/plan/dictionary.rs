//! Dictionaries of generic functions, by names and by the calling convention.
//!
//! All instantiations whose type arguments have the same underlying form share their code: `Map[go.shape.int]` runs as
//! `Map[int]` and as `Map[main.ID]`. Which it is, a hidden argument says: the address of a dictionary, read-only data
//! whose symbol names the type arguments (`main..dict.Map[int]`). Debug data of optimised code before Go 1.27 often
//! leaves that argument out.

use crate::golang::types::Kind;

/// What the name of a type argument that stands for many begins with.
const SHAPE: &str = "go.shape.";

/// The parts of a generic function's name: `a/b.(*List[go.shape.int]).Push.func1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericName<'a> {
    /// `a/b`.
    pub package: &'a str,
    /// `List`: the generic type of a method, or the generic function.
    pub base: &'a str,
    /// `go.shape.int`.
    pub arguments: Vec<&'a str>,
    /// Whose dictionary the function gets.
    pub role: GenericRole,
}

/// What has type parameters in a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericRole {
    /// The function itself.
    Function,
    /// The type that a pointer receiver points at.
    PointerMethod,
    /// The receiver's type.
    ValueMethod,
    /// The function or method around it.
    Closure,
}

impl<'a> GenericName<'a> {
    /// Takes a name apart. `None`: it is not one of a generic function that shares its code.
    #[must_use]
    pub fn of(name: &'a str) -> Option<Self> {
        let open = name.find('[')?;
        let front = name.get(..open)?;
        let after_slash = front.rfind('/').map_or(0, |slash| slash + 1);
        let dot = after_slash + front.get(after_slash..)?.find('.')?;
        let (package, rest) = (front.get(..dot)?, front.get(dot + 1..)?);
        let pointer = rest.strip_prefix("(*");
        let base = pointer.unwrap_or(rest);
        if base.is_empty() || base.contains(['.', '(', ')', '·']) {
            return None;
        }
        let inside = name.get(open + 1..)?;
        let close = closing_bracket(inside)?;
        let arguments = split_arguments(inside.get(..close)?);
        if !arguments.iter().any(|argument| argument.contains(SHAPE)) {
            return None;
        }
        let behind = inside.get(close + 1..)?;
        let role = match (pointer, behind.strip_prefix(if pointer.is_some() { ")." } else { "." })) {
            (None, None) if behind.is_empty() => GenericRole::Function,
            (_, Some(method)) if is_plain(method) => match pointer {
                Some(_) => GenericRole::PointerMethod,
                None => GenericRole::ValueMethod,
            },
            (_, Some(_)) => GenericRole::Closure,
            _ => return None,
        };
        Some(Self { package, base, arguments, role })
    }

    /// What the symbols of its dictionaries begin with.
    #[must_use]
    pub fn dictionary_prefix(&self) -> String {
        format!("{}..dict.{}[", self.package, self.base)
    }

    /// Whether a dictionary of this name may be one of the function's. `kind_of` tells the kind of a named type, where
    /// it is known.
    #[must_use]
    pub fn may_have(&self, symbol: &str, kind_of: impl Fn(&str) -> Option<Kind>) -> bool {
        let Some(rest) = symbol.strip_prefix(&self.dictionary_prefix()) else { return false };
        // A name that is not understood may be anything.
        let Some(close) = closing_bracket(rest) else { return true };
        if close + 1 != rest.len() || rest.contains(';') {
            return true;
        }
        let arguments = rest.get(..close).map(split_arguments).unwrap_or_default();
        arguments.len() == self.arguments.len()
            && arguments
                .iter()
                .zip(&self.arguments)
                .all(|(argument, shape)| has_shape(argument, shape, &kind_of))
    }

    /// Behind how many of its parameters a call passes the dictionary: behind the receiver. `None`: it comes another way.
    #[must_use]
    pub fn dictionary_behind(&self) -> Option<usize> {
        match self.role {
            GenericRole::Function => Some(0),
            GenericRole::PointerMethod | GenericRole::ValueMethod => Some(1),
            GenericRole::Closure => None,
        }
    }
}

/// A method's or function's name, not a closure's within it.
fn is_plain(name: &str) -> bool {
    !name.contains(['.', '-'])
        && !["func", "gowrap", "deferwrap"].iter().any(|made_up| {
            name.strip_prefix(made_up).is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// Where the bracket that is open before a text is closed.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' if depth == 0 => return Some(at),
            ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Splits at commas that are in no bracket.
fn split_arguments(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|character| {
        match character {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .collect()
}

/// Whether a type argument may be one that code for `shape` is run with. Says `true` where that can't be told.
fn has_shape(argument: &str, shape: &str, kind_of: impl Fn(&str) -> Option<Kind>) -> bool {
    let Some(shape) = shape.strip_prefix(SHAPE) else { return true };
    let Some(wanted) = kind_in(shape) else { return true };
    kind_in(argument).or_else(|| kind_of(argument)).is_none_or(|kind| kind == wanted)
}

/// The kind of a type that is written out.
fn kind_in(text: &str) -> Option<Kind> {
    Some(match text {
        "bool" => Kind::Bool,
        "int" => Kind::Int,
        "int8" => Kind::Int8,
        "int16" => Kind::Int16,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "uint" => Kind::Uint,
        "uint8" => Kind::Uint8,
        "uint16" => Kind::Uint16,
        "uint32" => Kind::Uint32,
        "uint64" => Kind::Uint64,
        "uintptr" => Kind::Uintptr,
        "float32" => Kind::Float32,
        "float64" => Kind::Float64,
        "complex64" => Kind::Complex64,
        "complex128" => Kind::Complex128,
        "string" => Kind::String,
        "unsafe.Pointer" => Kind::UnsafePointer,
        _ if text.starts_with('*') => Kind::Pointer,
        _ if text.starts_with("[]") => Kind::Slice,
        _ if text.starts_with('[') => Kind::Array,
        _ if text.starts_with("map[") => Kind::Map,
        _ if text.starts_with("func(") => Kind::Func,
        _ if text.starts_with("chan ") || text.starts_with("<-chan ") || text.starts_with("chan<- ") => {
            Kind::Chan
        }
        _ if text.starts_with("struct {") => Kind::Struct,
        _ if text.starts_with("interface {") => Kind::Interface,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let cases = [
            ("main.hold[go.shape.int]", Some(("main", "hold", 1, GenericRole::Function))),
            ("a/b.c/d.hold[go.shape.[]a/b.T]", Some(("a/b.c/d", "hold", 1, GenericRole::Function))),
            (
                "a.(*List[go.shape.struct { X int; Y int }]).Push",
                Some(("a", "List", 1, GenericRole::PointerMethod)),
            ),
            (
                "a.Pair[go.shape.map[string]int,go.shape.int].Swap",
                Some(("a", "Pair", 2, GenericRole::ValueMethod)),
            ),
            ("a.Pair[go.shape.func(int, int) error].Swap", Some(("a", "Pair", 1, GenericRole::ValueMethod))),
            ("a.hold[go.shape.int].func1", Some(("a", "hold", 1, GenericRole::Closure))),
            ("a.hold[go.shape.int].func1.2", Some(("a", "hold", 1, GenericRole::Closure))),
            ("a.(*List[go.shape.int]).All-range1", Some(("a", "List", 1, GenericRole::Closure))),
            ("a.(*List[go.shape.int]).Push.gowrap1", Some(("a", "List", 1, GenericRole::Closure))),
            ("a.List[int].Push", None),
            ("main.main", None),
            ("a.outer.inner[go.shape.int]", None),
            ("a.hold[go.shape.int", None),
        ];
        for (name, want) in cases {
            let found = GenericName::of(name);
            let found = found.as_ref().map(|name| (name.package, name.base, name.arguments.len(), name.role));
            assert_eq!(found, want, "{name}");
        }
    }

    #[test]
    fn only_a_dictionary_of_another_form_is_ruled_out() {
        let kinds = |name: &str| match name {
            "main.ID" => Some(Kind::Int),
            "main.Point" => Some(Kind::Struct),
            _ => None,
        };
        let one = GenericName::of("a/b.hold[go.shape.int]").unwrap();
        for (symbol, may) in [
            ("a/b..dict.hold[int]", true),
            ("a/b..dict.hold[main.ID]", true),
            ("a/b..dict.hold[main.Unheard]", true),
            ("a/b..dict.hold[main.Point]", false),
            ("a/b..dict.hold[string]", false),
            ("a/b..dict.hold[int,int]", false),
            ("a/b..dict.hold[main.T[int;string]]", true),
            ("a/b..dict.holder[int]", false),
            ("b..dict.hold[int]", false),
        ] {
            assert_eq!(one.may_have(symbol, kinds), may, "{symbol}");
        }
        let two = GenericName::of("a.f[go.shape.*uint8,go.shape.[]int]").unwrap();
        assert!(two.may_have("a..dict.f[*a.T,[]int]", kinds));
        assert!(!two.may_have("a..dict.f[*a.T,map[int]int]", kinds));
    }
}
