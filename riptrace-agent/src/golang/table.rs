//! Types for tests, without debug data.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use super::types::{FieldLayout, GoType, Kind, MapLayout, Shape, TypeId, TypeSource};

/// A growing table of types.
#[derive(Default)]
pub(crate) struct TypeTable {
    types: RefCell<Vec<Arc<GoType>>>,
    by_runtime_type: RefCell<HashMap<u64, TypeId>>,
}

impl TypeTable {
    pub(crate) fn add(&self, name: &str, bytes: u64, kind: Kind, shape: Shape) -> TypeId {
        let at = self.types.borrow().len();
        self.put(at, GoType { name: name.into(), bytes, kind, shape, runtime_type: None })
    }

    fn put(&self, at: usize, ty: GoType) -> TypeId {
        let mut types = self.types.borrow_mut();
        if at == types.len() {
            types.push(Arc::new(ty));
        } else {
            types[at] = Arc::new(ty);
        }
        TypeId(at as u64)
    }

    /// A type that is described later, by [`Self::describe`].
    pub(crate) fn declare(&self) -> TypeId {
        self.add("?", 0, Kind::Invalid, Shape::Unknown)
    }

    pub(crate) fn describe(&self, id: TypeId, as_this: TypeId) {
        let ty = GoType::clone(&self.get(as_this));
        self.put(usize::try_from(id.0).unwrap_or(usize::MAX), ty);
    }

    pub(crate) fn set_runtime_type(&self, id: TypeId, link_address: u64) {
        let ty = GoType { runtime_type: Some(link_address), ..GoType::clone(&self.get(id)) };
        self.put(usize::try_from(id.0).unwrap_or(usize::MAX), ty);
        self.by_runtime_type.borrow_mut().insert(link_address, id);
    }

    pub(crate) fn int(&self) -> TypeId {
        self.add("int", 8, Kind::Int, Shape::Scalar)
    }

    pub(crate) fn byte(&self) -> TypeId {
        self.add("uint8", 1, Kind::Uint8, Shape::Scalar)
    }

    pub(crate) fn string(&self) -> TypeId {
        self.add("string", 16, Kind::String, Shape::String)
    }

    pub(crate) fn any(&self) -> TypeId {
        self.add("interface {}", 16, Kind::Interface, Shape::EmptyInterface)
    }

    pub(crate) fn error(&self) -> TypeId {
        self.add("error", 16, Kind::Interface, Shape::Interface)
    }

    pub(crate) fn func(&self) -> TypeId {
        self.add("func()", 8, Kind::Func, Shape::Func)
    }

    pub(crate) fn pointer(&self, elem: TypeId) -> TypeId {
        self.add("*T", 8, Kind::Pointer, Shape::Pointer { elem: Some(elem) })
    }

    pub(crate) fn slice(&self, elem: TypeId) -> TypeId {
        self.add("[]T", 24, Kind::Slice, Shape::Slice { elem })
    }

    pub(crate) fn array(&self, elem: TypeId, len: u64) -> TypeId {
        let bytes = self.get(elem).bytes.saturating_mul(len);
        self.add("[n]T", bytes, Kind::Array, Shape::Array { elem, len })
    }

    /// A struct with its fields one behind the other (every size is a multiple of 8, or the order is chosen well).
    pub(crate) fn structure(&self, name: &str, fields: &[(&str, TypeId)]) -> TypeId {
        let mut offset = 0;
        let mut layouts = Vec::new();
        for &(name, ty) in fields {
            layouts.push(FieldLayout { name: name.into(), embedded: false, offset, ty });
            offset = offset.saturating_add(self.get(ty).bytes);
        }
        self.add(name, offset, Kind::Struct, Shape::Struct { fields: layouts })
    }

    /// `map[key]value` as Go up to 1.23 lays it out.
    pub(crate) fn classic_map(&self, key: TypeId, value: TypeId) -> TypeId {
        let (byte, int) = (self.byte(), self.int());
        let stored = |ty: TypeId| if self.get(ty).bytes > 128 { self.pointer(ty) } else { ty };
        let bucket = self.declare();
        let overflow = self.pointer(bucket);
        let top = self.array(byte, 8);
        let (keys, values) = (self.array(stored(key), 8), self.array(stored(value), 8));
        let fields = [("tophash", top), ("keys", keys), ("values", values), ("overflow", overflow)];
        self.describe(bucket, self.structure("bucket", &fields));
        let buckets = self.pointer(bucket);
        let six = self.array(byte, 6);
        let fields = [
            ("count", int),
            ("flags", byte),
            ("B", byte),
            ("rest", six),
            ("buckets", buckets),
            ("oldbuckets", buckets),
            ("nevacuate", int),
            ("extra", int),
        ];
        let header = self.structure("hash", &fields);
        self.map_of(key, value, header)
    }

    /// `map[key]value` as Go 1.24 and newer lay it out; `split`: keys in front of values.
    pub(crate) fn swiss_map(&self, key: TypeId, value: TypeId, split: bool) -> TypeId {
        let int = self.int();
        let stored = |ty: TypeId| if self.get(ty).bytes > 128 { self.pointer(ty) } else { ty };
        let group = if split {
            let (keys, elems) = (self.array(stored(key), 8), self.array(stored(value), 8));
            self.structure("group", &[("ctrl", int), ("keys", keys), ("elems", elems)])
        } else {
            let slot = self.structure("slot", &[("key", stored(key)), ("elem", stored(value))]);
            self.structure("group", &[("ctrl", int), ("slots", self.array(slot, 8))])
        };
        let data = self.pointer(group);
        let groups = self.structure("groupReference", &[("data", data), ("lengthMask", int)]);
        let table = self.structure("table", &[("used", int), ("index", int), ("groups", groups)]);
        let directory = self.pointer(self.pointer(table));
        let fields = [
            ("used", int),
            ("seed", int),
            ("dirPtr", directory),
            ("dirLen", int),
            ("depth", int),
            ("clearSeq", int),
        ];
        let header = self.structure("map", &fields);
        self.map_of(key, value, header)
    }

    fn map_of(&self, key: TypeId, value: TypeId, header: TypeId) -> TypeId {
        self.add("map[K]V", 8, Kind::Map, Shape::Map(MapLayout { key, value, header, is_guarded: false }))
    }

    pub(crate) fn channel(&self, elem: TypeId) -> TypeId {
        let int = self.int();
        let fields = [("qcount", int), ("dataqsiz", int), ("buf", int), ("sendx", int), ("recvx", int)];
        let header = self.structure("hchan", &fields);
        self.add("chan T", 8, Kind::Chan, Shape::Chan { elem, header })
    }
}

impl TypeSource for TypeTable {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        let found = usize::try_from(id.0).ok().and_then(|at| self.types.borrow().get(at).cloned());
        found.unwrap_or_else(|| {
            Arc::new(GoType {
                name: "?".into(),
                bytes: 0,
                kind: Kind::Invalid,
                shape: Shape::Unknown,
                runtime_type: None,
            })
        })
    }

    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId> {
        self.by_runtime_type.borrow().get(&link_address).copied()
    }
}
