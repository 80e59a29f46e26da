use riptrace_common::abi::program::{ACTION_FOLLOW, ACTION_FUNC, TYPE_FIRST};

use super::*;
use crate::{dwarf::CapturedVariable, golang::table::TypeTable};

const IMAGE: u32 = 3;

fn compile(registry: &mut TypeRegistry, types: &TypeTable, ty: TypeId, levels: u32) -> u32 {
    let index = registry.reserve(IMAGE, Target::value(ty)).unwrap();
    registry.compile(IMAGE, types, &[(index, levels)], levels).unwrap();
    index
}

/// `type node struct { next *node; name string }`, as pointer and struct.
fn list(types: &TypeTable) -> (TypeId, TypeId) {
    let node = types.declare();
    let pointer = types.pointer(node);
    types.describe(node, types.structure("node", &[("next", pointer), ("name", types.string())]));
    (pointer, node)
}

#[test]
fn a_recursive_type_is_one_entry_that_names_itself() {
    let types = TypeTable::default();
    let (_, node) = list(&types);
    let mut registry = TypeRegistry::new();
    let index = compile(&mut registry, &types, node, 4);
    assert_eq!(index, TYPE_FIRST);
    let upload = registry.take_upload();
    assert_eq!(upload.types.len(), 1);
    let (_, ty) = upload.types[0];
    assert_eq!((ty.bytes, ty.first_slot, ty.slots), (24, 0, 2));
    assert_eq!(upload.slots[0].1.target, index);
    assert_eq!(upload.slots[1].1.target, TYPE_BYTES);
    assert_eq!(registry.type_at(index), Some((IMAGE, node)));
    assert_eq!(registry.index_of(IMAGE, node), Some(index));
    assert_eq!(registry.index_of(IMAGE + 1, node), None);
}

#[test]
fn types_behind_the_depth_are_numbered_but_written_only_when_a_plan_needs_them() {
    let types = TypeTable::default();
    let int = types.int();
    let inner = types.structure("inner", &[("p", types.pointer(int))]);
    let middle = types.structure("middle", &[("p", types.pointer(inner))]);
    let outer = types.structure("outer", &[("p", types.pointer(middle))]);
    let mut registry = TypeRegistry::new();
    compile(&mut registry, &types, outer, 1);
    let written = |upload: &Upload| upload.types.iter().map(|(index, _)| *index).collect::<Vec<_>>();
    let of = |registry: &TypeRegistry, ty| registry.index_of(IMAGE, ty);
    let first = registry.take_upload();
    assert_eq!(written(&first), [of(&registry, outer).unwrap(), of(&registry, middle).unwrap()]);
    let reserved = of(&registry, inner).unwrap();
    assert_eq!(of(&registry, int), None);
    compile(&mut registry, &types, outer, 4);
    let second = registry.take_upload();
    assert_eq!(written(&second), [reserved, of(&registry, int).unwrap()]);
    assert!(second.slots.iter().all(|(index, _)| !first.slots.iter().any(|(before, _)| before == index)));
    compile(&mut registry, &types, outer, 2);
    assert!(registry.take_upload().is_empty());
}

#[test]
fn dynamic_types_lead_to_what_the_data_word_points_at() {
    let types = TypeTable::default();
    let (pointer, node) = list(&types);
    let (string, empty) = (types.string(), types.structure("struct {}", &[]));
    for (ty, address) in [(pointer, 0x100), (string, 0x200), (types.func(), 0x300), (empty, 0x400)] {
        types.set_runtime_type(ty, address);
    }
    let mut registry = TypeRegistry::new();
    for address in [0x100, 0x200, 0x300, 0x400] {
        assert!(registry.add_dynamic(IMAGE, &types, address).unwrap());
    }
    assert!(!registry.add_dynamic(IMAGE, &types, 0x999).unwrap());
    let dynamic = registry.take_upload().dynamic;
    let index = |ty| registry.index_of(IMAGE, ty).unwrap();
    let entry = |link_address, target, how| {
        (DynamicKey { link_address, image: IMAGE, kind: DYNAMIC_TYPE }, Dynamic { target, how })
    };
    assert_eq!(
        dynamic,
        [
            entry(0x100, index(node), DYNAMIC_FOLLOW),
            entry(0x200, index(string), DYNAMIC_FOLLOW),
            entry(0x300, TYPE_BYTES, DYNAMIC_FUNC),
            entry(0x400, TYPE_BYTES, DYNAMIC_NOTHING),
        ]
    );
    assert!(registry.add_dynamic(IMAGE, &types, 0x100).unwrap());
    assert!(registry.take_upload().is_empty());
}

#[test]
fn a_deeper_plan_deepens_what_interfaces_hold() {
    let types = TypeTable::default();
    let far = types.structure("far", &[("name", types.string())]);
    let near = types.structure("near", &[("far", types.pointer(far))]);
    let value = types.structure("value", &[("n", types.int()), ("near", types.pointer(near))]);
    types.set_runtime_type(value, 0x100);
    let mut registry = TypeRegistry::new();
    let any = types.any();
    compile(&mut registry, &types, any, 1);
    registry.add_dynamic(IMAGE, &types, 0x100).unwrap();
    assert_eq!(registry.index_of(IMAGE, far), None);
    compile(&mut registry, &types, any, 3);
    let index = registry.index_of(IMAGE, far).unwrap();
    assert!(registry.take_upload().types.iter().any(|(written, _)| *written == index));
}

#[test]
fn a_closure_object_holds_values_and_references() {
    let types = TypeTable::default();
    let (int, string) = (types.int(), types.string());
    let captured = |name: &str, offset, ty, by_reference| CapturedVariable {
        name: name.into(),
        offset,
        ty,
        by_reference,
    };
    let func = types.func();
    let layout = ClosureLayout {
        function: "main.main.func1".into(),
        captured: vec![
            captured("s", 8, string, false),
            captured("n", 24, int, true),
            captured("f", 32, func, false),
        ],
        bytes: 40,
    };
    let mut registry = TypeRegistry::new();
    let index = registry.add_closure(IMAGE, &types, 0x4000, &layout).unwrap();
    assert_eq!(registry.closure_index(IMAGE, 0x4000), Some(index));
    assert_eq!(registry.type_at(index), None);
    let upload = registry.take_upload();
    let (_, ty) = upload.types.iter().find(|(written, _)| *written == index).unwrap();
    assert_eq!((ty.bytes, ty.slots), (40, 3));
    let slots: Vec<_> = upload.slots.iter().map(|(_, slot)| (slot.word, slot.action, slot.deeper)).collect();
    assert_eq!(slots, [(8, ACTION_FOLLOW, 0), (24, ACTION_FOLLOW, 0), (32, ACTION_FUNC, 1)]);
    let key = DynamicKey { link_address: 0x4000, image: IMAGE, kind: DYNAMIC_CODE };
    assert_eq!(upload.dynamic, [(key, Dynamic { target: index, how: DYNAMIC_FOLLOW })]);
}

#[test]
fn a_full_map_of_types_is_an_error_that_says_what_to_do() {
    let types = TypeTable::default();
    let int = types.int();
    let mut registry = TypeRegistry::new();
    let error = (0..).find_map(|image| registry.reserve(image, Target::value(int)).err()).unwrap();
    assert_eq!(error, RegistryError::TooManyTypes { limit: FIRST_ROOT_TYPE - TYPE_FIRST });
    assert!(error.to_string().contains("--capture"));
}

#[test]
fn preloading_stops_at_its_bound() {
    let types = TypeTable::default();
    let candidates: Vec<TypeId> = (0..100)
        .map(|n| {
            let ty = types.structure("s", &[("a", types.int())]);
            types.set_runtime_type(ty, 0x1000 + n);
            ty
        })
        .collect();
    let mut registry = TypeRegistry::new();
    assert_eq!(registry.preload(IMAGE, &types, candidates.clone(), 10).unwrap(), 10);
    assert_eq!(registry.preload(IMAGE, &types, candidates, 1000).unwrap(), 90);
}
