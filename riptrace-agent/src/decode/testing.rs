//! Builds types, memory and records for tests.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use riptrace_common::{
    abi::{
        ABI_VERSION,
        program::{REGISTER_BYTES, TYPE_FIRST, WINDOW_STACK, Window},
        record::{CHUNK_FAULT, Chunk, Header},
    },
    wire::{
        event::{Frame, Location, Role, SiteInfo, Trigger},
        number::Address,
        value::Value,
    },
};

use super::{
    DecodeContext, DecodeError, Decoded, FunctionName, HostFacts, ProcessFacts, Symbols, TypeIndex, decode,
};
use crate::{
    dwarf::{CapturedVariable, ClosureLayout, NamedConstant},
    golang::types::{FieldLayout, GoType, Kind, MapLayout, Shape, TypeId, TypeSource},
    plan::{CallRole, CaptureLimits, PlannedVariable, RootPiece, RootPlace, SitePlan, ValueSource},
};

pub(super) const BIAS: u64 = 0x1000_0000;
/// Where the `go` statement returned that made the goroutine of every record.
pub(super) const GO_STATEMENT: u64 = 0x4a_2000;
pub(super) const ROOT: u32 = REGISTER_BYTES;

/// A binary's types, by number.
#[derive(Default)]
pub(super) struct Types {
    table: Vec<GoType>,
    by_runtime_type: HashMap<u64, TypeId>,
}

impl TypeSource for Types {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        let unknown = GoType {
            name: Arc::from("?"),
            bytes: 0,
            kind: Kind::Invalid,
            shape: Shape::Unknown,
            runtime_type: None,
        };
        let found = usize::try_from(id.0).ok().and_then(|index| self.table.get(index));
        Arc::new(found.cloned().unwrap_or(unknown))
    }

    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId> {
        self.by_runtime_type.get(&link_address).copied()
    }
}

impl TypeIndex for Types {
    fn index_of(&self, _: u32, ty: TypeId) -> Option<u32> {
        (ty.0 < self.table.len() as u64).then(|| index(ty))
    }
}

/// The kernel side's index of a type.
pub(super) fn index(ty: TypeId) -> u32 {
    TYPE_FIRST + u32::try_from(ty.0).unwrap()
}

impl Types {
    pub(super) fn add(&mut self, name: &str, bytes: u64, kind: Kind, shape: Shape) -> TypeId {
        if let Some(known) =
            self.table.iter().position(|ty| &*ty.name == name && ty.shape == shape && ty.bytes == bytes)
        {
            return TypeId(known as u64);
        }
        self.table.push(GoType { name: Arc::from(name), bytes, kind, shape, runtime_type: None });
        TypeId(self.table.len() as u64 - 1)
    }

    pub(super) fn replace(&mut self, id: TypeId, shape: Shape) {
        self.table[usize::try_from(id.0).unwrap()].shape = shape;
    }

    pub(super) fn resize(&mut self, id: TypeId, bytes: u64) {
        self.table[usize::try_from(id.0).unwrap()].bytes = bytes;
    }

    pub(super) fn get_shape(&self, id: TypeId) -> Shape {
        self.get(id).shape.clone()
    }

    pub(super) fn get_bytes(&self, id: TypeId) -> u64 {
        self.get(id).bytes
    }

    pub(super) fn runtime_type(&mut self, link_address: u64, ty: TypeId) {
        self.by_runtime_type.insert(link_address, ty);
    }

    pub(super) fn scalar(&mut self, name: &str, kind: Kind, bytes: u64) -> TypeId {
        self.add(name, bytes, kind, Shape::Scalar)
    }

    pub(super) fn int(&mut self) -> TypeId {
        self.scalar("int", Kind::Int, 8)
    }

    pub(super) fn byte(&mut self) -> TypeId {
        self.scalar("uint8", Kind::Uint8, 1)
    }

    pub(super) fn string(&mut self) -> TypeId {
        self.add("string", 16, Kind::String, Shape::String)
    }

    pub(super) fn pointer(&mut self, elem: TypeId) -> TypeId {
        let name = format!("*{}", self.get(elem).name);
        self.add(&name, 8, Kind::Pointer, Shape::Pointer { elem: Some(elem) })
    }

    pub(super) fn slice(&mut self, elem: TypeId) -> TypeId {
        let name = format!("[]{}", self.get(elem).name);
        self.add(&name, 24, Kind::Slice, Shape::Slice { elem })
    }

    pub(super) fn array(&mut self, len: u64, elem: TypeId) -> TypeId {
        let elem_type = self.get(elem);
        let name = format!("[{len}]{}", elem_type.name);
        self.add(&name, len * elem_type.bytes, Kind::Array, Shape::Array { elem, len })
    }

    /// A struct with its fields one behind the other, each at a multiple of its size (up to 8).
    pub(super) fn structure(&mut self, name: &str, fields: &[(&str, TypeId)]) -> TypeId {
        let mut offset = 0;
        let mut layout = Vec::new();
        for (name, ty) in fields {
            let bytes = self.get(*ty).bytes;
            offset = u64::next_multiple_of(offset, bytes.next_power_of_two().clamp(1, 8));
            let (embedded, name) = name.strip_prefix('+').map_or((false, *name), |name| (true, name));
            layout.push(FieldLayout { name: Arc::from(name), embedded, offset, ty: *ty });
            offset += bytes;
        }
        self.add(name, offset, Kind::Struct, Shape::Struct { fields: layout })
    }

    pub(super) fn any(&mut self) -> TypeId {
        self.add("interface {}", 16, Kind::Interface, Shape::EmptyInterface)
    }

    pub(super) fn error(&mut self) -> TypeId {
        self.add("error", 16, Kind::Interface, Shape::Interface)
    }

    pub(super) fn func(&mut self) -> TypeId {
        self.add("func()", 8, Kind::Func, Shape::Func)
    }

    pub(super) fn chan(&mut self, elem: TypeId) -> TypeId {
        let word = self.scalar("uint", Kind::Uint, 8);
        let half = self.scalar("uint32", Kind::Uint32, 4);
        let pointer = self.add("unsafe.Pointer", 8, Kind::UnsafePointer, Shape::UnsafePointer);
        let name = self.get(elem).name.clone();
        let header = self.structure(
            &format!("hchan<{name}>"),
            &[
                ("qcount", word),
                ("dataqsiz", word),
                ("buf", pointer),
                ("closed", half),
                ("sendx", word),
                ("recvx", word),
            ],
        );
        self.add(&format!("chan {name}"), 8, Kind::Chan, Shape::Chan { elem, header })
    }

    /// A map as before Go 1.24. Returns the map and its bucket.
    pub(super) fn classic_map(&mut self, key: TypeId, value: TypeId) -> (TypeId, TypeId) {
        let (int, byte) = (self.int(), self.byte());
        let (in_slot_key, in_slot_value) = (self.in_slot(key), self.in_slot(value));
        let (keys, values) = (self.array(8, in_slot_key), self.array(8, in_slot_value));
        let tophash = self.array(8, byte);
        let names = format!("{},{}", self.get(key).name, self.get(value).name);
        let overflow = self.scalar("uintptr", Kind::Uintptr, 8);
        let bucket = self.structure(
            &format!("bucket<{names}>"),
            &[("tophash", tophash), ("keys", keys), ("values", values), ("overflow", overflow)],
        );
        let buckets = self.pointer(bucket);
        let half = self.scalar("uint32", Kind::Uint32, 4);
        let short = self.scalar("uint16", Kind::Uint16, 2);
        let header = self.structure(
            &format!("hash<{names}>"),
            &[
                ("count", int),
                ("flags", byte),
                ("B", byte),
                ("noverflow", short),
                ("hash0", half),
                ("buckets", buckets),
                ("oldbuckets", buckets),
                ("nevacuate", overflow),
            ],
        );
        (self.map(key, value, header), bucket)
    }

    /// A map as since Go 1.24. Returns the map, its table and its group.
    pub(super) fn swiss_map(&mut self, key: TypeId, value: TypeId, split: bool) -> (TypeId, TypeId, TypeId) {
        let (in_slot_key, in_slot_value) = (self.in_slot(key), self.in_slot(value));
        let names = format!("{},{}", self.get(key).name, self.get(value).name);
        let word = self.scalar("uint64", Kind::Uint64, 8);
        let group = if split {
            let (keys, elems) = (self.array(8, in_slot_key), self.array(8, in_slot_value));
            self.structure(
                &format!("split group<{names}>"),
                &[("ctrl", word), ("keys", keys), ("elems", elems)],
            )
        } else {
            let slot =
                self.structure(&format!("slot<{names}>"), &[("key", in_slot_key), ("elem", in_slot_value)]);
            let slots = self.array(8, slot);
            self.structure(&format!("group<{names}>"), &[("ctrl", word), ("slots", slots)])
        };
        let data = self.pointer(group);
        let reference =
            self.structure(&format!("reference<{names}>{split}"), &[("data", data), ("lengthMask", word)]);
        let short = self.scalar("uint16", Kind::Uint16, 2);
        let (int, byte) = (self.int(), self.byte());
        let table = self.structure(
            &format!("table<{names}>{split}"),
            &[
                ("used", short),
                ("capacity", short),
                ("growthLeft", short),
                ("localDepth", byte),
                ("index", int),
                ("groups", reference),
            ],
        );
        let entry = self.pointer(table);
        let directory = self.pointer(entry);
        let header = self.structure(
            &format!("map<{names}>{split}"),
            &[
                ("used", word),
                ("seed", word),
                ("dirPtr", directory),
                ("dirLen", int),
                ("globalDepth", byte),
                ("globalShift", byte),
                ("writing", byte),
            ],
        );
        (self.map(key, value, header), table, group)
    }

    fn in_slot(&mut self, ty: TypeId) -> TypeId {
        if self.get(ty).bytes > 128 { self.pointer(ty) } else { ty }
    }

    fn map(&mut self, key: TypeId, value: TypeId, header: TypeId) -> TypeId {
        let name = format!("map[{}]{}", self.get(key).name, self.get(value).name);
        self.add(&name, 8, Kind::Map, Shape::Map(MapLayout { key, value, header, is_guarded: false }))
    }
}

/// What is known of the binary beside its types.
#[derive(Default)]
pub(super) struct Binary {
    pub(super) functions: HashMap<u64, &'static str>,
    pub(super) closures: HashMap<u64, Vec<(&'static str, u64, TypeId, bool)>>,
    pub(super) constants: HashMap<&'static str, Vec<(&'static str, i64)>>,
    pub(super) read_only: Vec<(u64, Vec<u8>)>,
}

impl Symbols for Binary {
    fn frames(&self, link_pc: u64, is_return_address: bool) -> Vec<Frame> {
        self.functions
            .get(&(link_pc - u64::from(is_return_address)))
            .map(|name| Frame {
                function: Arc::from(*name),
                file: Arc::from("/src/main.go"),
                line: 7,
                pc: Address(link_pc),
                inlined: false,
            })
            .into_iter()
            .collect()
    }

    fn function(&self, link_pc: u64) -> Option<FunctionName> {
        let name = self.functions.get(&link_pc)?;
        Some(FunctionName { name: Arc::from(*name), file: Arc::from("/src/main.go"), line: 7 })
    }

    fn read_only(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        self.read_only.iter().find_map(|(start, data)| {
            let offset = usize::try_from(link_address.checked_sub(*start)?).ok()?;
            data.get(offset..offset.checked_add(bytes)?)
        })
    }

    fn closure(&self, code: u64) -> Option<ClosureLayout> {
        let captured = self.closures.get(&code)?;
        let captured: Vec<_> = captured
            .iter()
            .map(|(name, offset, ty, by_reference)| CapturedVariable {
                name: Arc::from(*name),
                offset: *offset,
                ty: *ty,
                by_reference: *by_reference,
            })
            .collect();
        let bytes = captured.iter().map(|captured| captured.offset + 8).max().unwrap_or(8);
        Some(ClosureLayout { function: Arc::from("closure"), captured, bytes })
    }

    fn constants(&self, type_name: &str) -> Arc<[NamedConstant]> {
        let constants = self.constants.get(type_name).map(Vec::as_slice).unwrap_or_default();
        constants
            .iter()
            .map(|(name, value)| NamedConstant { name: Arc::from(*name), value: *value })
            .collect()
    }
}

/// Little-endian words, one behind the other.
pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A record in the making.
#[derive(Clone, Default)]
pub(super) struct Capture {
    pub(super) root: Vec<u8>,
    pub(super) chunks: Vec<(Chunk, Vec<u8>)>,
    pub(super) stack: Vec<u64>,
    /// In place of the stack.
    pub(super) stack_hash: Option<u64>,
    pub(super) flags: u32,
    pub(super) window_faults: u32,
}

impl Capture {
    /// A record with these bytes in its one window.
    pub(super) fn of(value: &[u8]) -> Self {
        let mut root = vec![0; ROOT as usize];
        root.extend_from_slice(value);
        Self { root, ..Self::default() }
    }

    pub(super) fn chunk(self, address: u64, type_index: u32, data: &[u8]) -> Self {
        self.chunk_with(address, type_index, 1, 0, data)
    }

    pub(super) fn chunk_with(
        mut self,
        address: u64,
        type_index: u32,
        depth: u8,
        flags: u8,
        data: &[u8],
    ) -> Self {
        let bytes = u32::try_from(data.len()).unwrap();
        let header = Chunk { address, type_index, count: 1, bytes, depth, flags, reserved: 0 };
        self.chunks.push((header, data.to_vec()));
        self
    }

    pub(super) fn fault(self, address: u64, type_index: u32) -> Self {
        self.chunk_with(address, type_index, 1, CHUNK_FAULT, &[])
    }

    pub(super) fn flags(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }

    pub(super) fn record(&self) -> Bytes {
        let mut body = Vec::new();
        let root = Chunk { bytes: u32::try_from(self.root.len()).unwrap(), count: 1, ..Chunk::default() };
        for (header, data) in
            std::iter::once((&root, &self.root)).chain(self.chunks.iter().map(|(h, d)| (h, d)))
        {
            body.extend(header.address.to_le_bytes());
            for half in [header.type_index, header.count, header.bytes] {
                body.extend(half.to_le_bytes());
            }
            body.extend([header.depth, header.flags, 0, 0]);
            body.extend(data);
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let stack_offset = size_of::<Header>() + body.len();
        let total = stack_offset + (self.stack.len() + self.stack_hash.iter().len()) * 8;
        let mut out = Vec::new();
        let half = |value: usize| u32::try_from(value).unwrap();
        for word in
            [ABI_VERSION, half(total), 3, 1, 2, self.flags, half(stack_offset), half(self.stack.len())]
        {
            out.extend(word.to_le_bytes());
        }
        out.extend(words(&[17, 123_456_789_012]));
        for word in [4242, 4250, 1, self.window_faults] {
            out.extend(u32::to_le_bytes(word));
        }
        out.extend(words(&[812, 18, 1, 256, BIAS, 5_300, 16, BIAS + GO_STATEMENT]));
        out.extend(body);
        out.extend(words(&self.stack));
        out.extend(words(self.stack_hash.as_slice()));
        Bytes::from(out)
    }
}

/// A binary with a site that has one window.
#[derive(Default)]
pub(super) struct Bench {
    pub(super) types: Types,
    pub(super) binary: Binary,
    pub(super) limits: CaptureLimits,
    pub(super) sent_stack: Option<Vec<u64>>,
}

impl Bench {
    pub(super) fn types_shape(&self, ty: TypeId) -> Shape {
        self.types.get(ty).shape.clone()
    }

    pub(super) fn plan(&self, variables: Vec<PlannedVariable>, root_bytes: usize) -> SitePlan {
        let location = Location {
            file: Arc::from("/src/orders/handler.go"),
            line: 42,
            function: Arc::from("main.(*Server).Place"),
            pc: Address(0x4a_1b2c),
            inlined_into: None,
        };
        let bytes = u32::try_from(root_bytes).unwrap().saturating_sub(ROOT);
        SitePlan {
            cleared_registers: 0,
            redacts: false,
            link_address: 0x4a_1b2c,
            file_offset: 0,
            location: location.clone(),
            entry_address: 0x4a_1b2c,
            candidates: Vec::new(),
            trigger: Trigger::Line,
            call: CallRole::None,
            needs_entry: false,
            fault_address: None,
            branch: None,
            cfa_from_sp: None,
            windows: vec![Window { offset: 0, base: WINDOW_STACK, root_offset: ROOT, bytes, reserved: 0 }],
            root_bytes: u32::try_from(root_bytes).unwrap(),
            root_slots: Vec::new(),
            variables,
            dictionary: None,
            contexts: None,
            condition: None,
            outputs: None,
            info: SiteInfo {
                location,
                event: Trigger::Line,
                instruction: "push rbp".to_owned(),
                fast: true,
                entry: None,
                choice: Arc::from(""),
                variables: Vec::new(),
            },
        }
    }

    pub(super) fn decode(&self, plan: &SitePlan, record: &[u8]) -> Result<Decoded, DecodeError> {
        let host = HostFacts {
            host: Arc::from("node-a"),
            boot_id: Arc::from("b0071d"),
            agent: Arc::from("a_01"),
            session: None,
            realtime_minus_monotonic_ns: 1_795_607_876_543_210_988,
        };
        let process = ProcessFacts {
            pid: 4242,
            start_ns: Some(77),
            name: Arc::from("orders"),
            build_id: None,
            container: None,
        };
        let context = DecodeContext {
            plan,
            types: &self.types,
            registry: &self.types,
            image: 0,
            symbols: &self.binary,
            limits: self.limits,
            tracepoint_id: &Arc::from("t_01"),
            host: &host,
            process: &process,
            sent_stack: self.sent_stack.as_deref(),
            redaction: None,
        };
        decode(record, &context)
    }

    /// Decodes a capture whose window holds one variable of the type.
    pub(super) fn decoded(&self, ty: TypeId, capture: &Capture) -> Decoded {
        let bytes = u32::try_from(self.types.get(ty).bytes).unwrap();
        let place = RootPlace::At { root_offset: ROOT, window: Some(0) };
        let source = ValueSource::Root(vec![RootPiece { value_offset: 0, bytes, place }]);
        let plan = self.plan(vec![variable("v", ty, source)], capture.root.len());
        self.decode(&plan, &capture.record()).unwrap()
    }

    pub(super) fn value(&self, ty: TypeId, capture: &Capture) -> Value {
        self.decoded(ty, capture).hit.variables.remove(0).value
    }

    pub(super) fn text(&self, ty: TypeId, capture: &Capture) -> String {
        crate::render::text::value(&self.value(ty, capture))
    }
}

pub(super) fn variable(name: &str, ty: TypeId, source: ValueSource) -> PlannedVariable {
    PlannedVariable { name: Arc::from(name), role: Role::Local, ty, source }
}
