//! Types, package variables, constants.

use super::fixture::{Mode, VERSIONS, program, programs};
use crate::{
    dwarf::{Place, VariableLocation},
    golang::types::{GoType, Kind, Shape, TypeSource},
};

fn named(debug: &crate::dwarf::DebugInfo, name: &str) -> std::sync::Arc<GoType> {
    debug.get(debug.type_named(name).unwrap_or_else(|| panic!("no type {name}")))
}

#[test]
fn a_struct_has_the_fields_of_its_declaration() {
    for program in programs() {
        let debug = &program.debug;
        let ty = named(debug, "main.T");
        let Shape::Struct { fields } = &ty.shape else { panic!("{}: {ty:?}", program.name()) };
        let described: Vec<(&str, bool, u64, String, Kind, u64)> = fields
            .iter()
            .map(|field| {
                let ty = debug.get(field.ty);
                (&*field.name, field.embedded, field.offset, ty.name.to_string(), ty.kind, ty.bytes)
            })
            .collect();
        let expected = [
            ("A", false, 0, "int", Kind::Int, 8),
            ("B", false, 8, "string", Kind::String, 16),
            ("Inner", true, 24, "*main.Inner", Kind::Pointer, 8),
            ("_", false, 32, "int32", Kind::Int32, 4),
            ("S", false, 36, "main.Status", Kind::Uint8, 1),
            ("p", false, 40, "main.Pair[string,int]", Kind::Struct, 24),
            ("f", false, 64, "func(int) string", Kind::Func, 8),
            ("c", false, 72, "chan main.T", Kind::Chan, 8),
            ("m", false, 80, "map[string][]main.T", Kind::Map, 8),
            ("e", false, 88, "error", Kind::Interface, 16),
            ("a", false, 104, "interface {}", Kind::Interface, 16),
            ("arr", false, 120, "[3]complex128", Kind::Array, 48),
            ("sl", false, 168, "[]*main.T", Kind::Slice, 24),
            ("u", false, 192, "unsafe.Pointer", Kind::UnsafePointer, 8),
            ("up", false, 200, "uintptr", Kind::Uintptr, 8),
            ("fl", false, 208, "float32", Kind::Float32, 4),
            ("none", false, 212, "struct {}", Kind::Struct, 0),
        ];
        assert_eq!(described.len(), expected.len(), "{}: {described:#?}", program.name());
        for (found, expected) in described.iter().zip(expected) {
            let (name, embedded, offset, ty, kind, bytes) = expected;
            assert_eq!(*found, (name, embedded, offset, ty.to_owned(), kind, bytes), "{}", program.name());
        }
    }
}

#[test]
fn named_types_keep_their_names_and_have_the_shape_of_their_kind() {
    for program in programs() {
        let debug = &program.debug;
        let globals = debug.globals("main").unwrap();
        let of = |name: &str| {
            let variable = globals
                .iter()
                .find(|variable| *variable.name == *name)
                .unwrap_or_else(|| panic!("{}: no {name}", program.name()));
            let VariableLocation::Pieces(pieces) = &variable.location else { panic!("{variable:?}") };
            let Place::Address(address) = pieces[0].place else { panic!("{variable:?}") };
            assert_eq!(program.symbols.get(name), Some(&address), "{} {name}", program.name());
            let ty = debug.get(variable.ty);
            assert_eq!(u64::from(pieces[0].bytes), ty.bytes, "{} {name}", program.name());
            ty
        };
        let map = of("main.Global");
        assert_eq!((&*map.name, map.kind), ("main.Named", Kind::Map));
        let Shape::Map(layout) = &map.shape else { panic!("{map:?}") };
        assert_eq!(&*debug.get(layout.key).name, "string");
        assert_eq!(&*debug.get(layout.value).name, "[]main.T");
        let header = debug.get(layout.header);
        let Shape::Struct { fields } = &header.shape else { panic!("{header:?}") };
        let fields: Vec<&str> = fields.iter().map(|field| &*field.name).collect();
        let expected = if program.minor() < 24 { ["count", "buckets"] } else { ["used", "dirPtr"] };
        assert!(expected.iter().all(|name| fields.contains(name)), "{}: {fields:?}", program.name());

        let chan = of("main.GlobalChan");
        assert_eq!((&*chan.name, chan.kind), ("main.NamedChan", Kind::Chan));
        let Shape::Chan { elem, header } = &chan.shape else { panic!("{chan:?}") };
        assert_eq!(&*debug.get(*elem).name, "main.T");
        let header = debug.get(*header);
        let Shape::Struct { fields } = &header.shape else { panic!("{header:?}") };
        assert!(fields.iter().any(|field| &*field.name == "qcount"), "{}", program.name());

        let pointer = of("main.GlobalPointer");
        assert_eq!((&*pointer.name, pointer.kind), ("main.NamedPointer", Kind::Pointer));
        let Shape::Pointer { elem: Some(elem) } = pointer.shape else { panic!("{pointer:?}") };
        assert_eq!(&*debug.get(elem).name, "main.T");

        let slice = of("main.GlobalSlice");
        assert_eq!((&*slice.name, slice.kind, slice.bytes), ("main.NamedSlice", Kind::Slice, 24));
        let Shape::Slice { elem } = slice.shape else { panic!("{slice:?}") };
        assert_eq!(debug.get(elem).shape, Shape::String);

        let array = of("main.GlobalArray");
        assert_eq!((&*array.name, array.bytes), ("main.NamedArray", 8));
        assert!(matches!(array.shape, Shape::Array { len: 4, .. }), "{array:?}");

        for (global, name, kind, shape) in [
            ("main.GlobalFunc", "main.NamedFunc", Kind::Func, Shape::Func),
            ("main.GlobalString", "main.NamedString", Kind::String, Shape::String),
            ("main.GlobalInterface", "main.NamedInterface", Kind::Interface, Shape::Interface),
            ("main.GlobalSmall", "int16", Kind::Int16, Shape::Scalar),
        ] {
            let ty = of(global);
            assert_eq!((&*ty.name, ty.kind, &ty.shape), (name, kind, &shape), "{}", program.name());
        }
        assert_eq!(named(debug, "interface {}").shape, Shape::EmptyInterface, "{}", program.name());
        assert_eq!(named(debug, "error").shape, Shape::Interface, "{}", program.name());
    }
}

#[test]
fn a_runtime_type_address_leads_to_its_type_and_back() {
    let all = programs().chain(VERSIONS.into_iter().filter_map(|version| program(version, Mode::Pie)));
    for program in all {
        let debug = &program.debug;
        for name in ["main.T", "main.Status", "*main.T", "main.Named", "string", "int"] {
            let ty = named(debug, name);
            let address = ty.runtime_type.unwrap_or_else(|| panic!("{} {name}", program.name()));
            let back = debug.get(debug.by_runtime_type(address).unwrap());
            assert_eq!(back.name, ty.name, "{} {name}", program.name());
            // Where the linker keeps a symbol for the type, it lies there.
            if let Some(symbol) = program.symbols.get(&format!("type:{name}")) {
                assert_eq!(*symbol, address, "{} {name}", program.name());
            }
        }
        assert_eq!(debug.by_runtime_type(0), None);
        assert_eq!(debug.by_runtime_type(u64::MAX), None);
        assert!(debug.runtime_types().count() > 100, "{}", program.name());
    }
}

#[test]
fn a_type_has_one_identity_however_it_is_reached() {
    for program in programs() {
        let debug = &program.debug;
        let ty = debug.type_named("main.T").unwrap();
        let pointer = named(debug, "*main.T");
        assert_eq!(pointer.shape, Shape::Pointer { elem: Some(ty) }, "{}", program.name());
        let address = debug.get(ty).runtime_type.unwrap();
        assert_eq!(debug.by_runtime_type(address), Some(ty), "{}", program.name());
    }
}

#[test]
fn constants_of_a_type_are_listed_with_their_values() {
    for program in programs() {
        let list = |name: &str| {
            program
                .debug
                .constants_of(name)
                .iter()
                .map(|constant| (constant.name.to_string(), constant.value))
                .collect::<Vec<_>>()
        };
        let expected = [("main.Ready", 0), ("main.Busy", 1), ("main.Gone", 200)];
        assert_eq!(
            list("main.Status"),
            expected.map(|(name, value)| (name.to_owned(), value)),
            "{}",
            program.name()
        );
        assert_eq!(list("main.Level"), [("main.Low".to_owned(), -3)], "{}", program.name());
        assert!(list("main.T").is_empty() && list("").is_empty());
    }
}

#[test]
fn the_runtime_s_own_structs_are_found_by_name() {
    for program in programs() {
        for (name, field) in [("runtime.g", "goid"), ("runtime.m", "curg"), ("runtime.hchan", "qcount")] {
            let ty = named(&program.debug, name);
            let Shape::Struct { fields } = &ty.shape else { panic!("{}: {ty:?}", program.name()) };
            assert!(fields.iter().any(|found| &*found.name == field), "{} {name}", program.name());
        }
    }
}
