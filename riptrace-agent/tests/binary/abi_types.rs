//! What the runtime knows of its types against what debug data says of the same ones.

use riptrace_agent::{
    binary::{Constants, DebugOptions, Executable, cache::Cache},
    dwarf::DebugInfo,
    golang::{
        abi_type::AbiTypes,
        types::{GoType, Kind, Shape, TypeSource},
    },
};

use crate::build::{Builder, PLAIN, VARIANTS, VERSIONS};

/// What has to agree: everything but the numbers by which types name each other.
fn essence(ty: &GoType) -> (u64, Kind, String) {
    let shape = match &ty.shape {
        Shape::Struct { fields } => {
            // Debug data names what is embedded by its type, with the package in front.
            fields
                .iter()
                .map(|field| format!("{} {} {}, ", field.name, field.embedded, field.offset))
                .collect()
        }
        Shape::Array { len, .. } => format!("{len}"),
        Shape::Pointer { elem } => format!("pointer {}", elem.is_some()),
        other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
    };
    (ty.bytes, ty.kind, shape)
}

#[test]
fn the_runtime_s_types_are_those_of_debug_data() {
    for version in VERSIONS {
        let Some(builder) = Builder::new(version) else { continue };
        for variant in [&PLAIN, &VARIANTS[1]] {
            let executable = Executable::open(&builder.build(variant).unwrap()).unwrap();
            let options = DebugOptions { cache: Cache::none(), ..DebugOptions::from_environment(None) };
            let debug = DebugInfo::load(executable.debug(&options, &|_| {}).unwrap()).unwrap();
            let constants = Constants::of(&executable);
            let (base, end) = executable.runtime_types().unwrap();
            let types = AbiTypes::new(&constants, base);
            let mut compared = 0;
            for (address, id) in debug.runtime_types() {
                let described = debug.get(id);
                // Types that the linker left out have an address all the same.
                if address >= end || matches!(described.kind, Kind::Map | Kind::Chan) {
                    continue;
                }
                let at = format!("{version} {} {} at {address:#x}", variant.name, described.name);
                let found = types.read(address, |_| None).unwrap_or_else(|| panic!("{at}: nothing"));
                assert_eq!(essence(&found), essence(&described), "{at}");
                if !described.name.contains(['[', '{', '(', '·']) {
                    assert_eq!(found.name, described.name, "{at}");
                }
                compared += 1;
            }
            assert!(compared > 100, "{version}: {compared} types");
        }
    }
}
