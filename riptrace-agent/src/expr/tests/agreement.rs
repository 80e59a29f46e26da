//! Whatever is written, and whatever the variables hold: the kernel side's ops, the agent's own evaluation, and Go's rules
//! agree.

use std::collections::BTreeMap;

use base64::Engine as _;
use proptest::prelude::*;
use riptrace_common::{
    abi::condition::{
        MAX_OPS, OP_IMMEDIATE, OP_STRING_CONTAINS, OP_STRING_EQUAL, OP_STRING_LESS, OP_STRING_PREFIX, Op,
        TARGET_ACCEPT, TARGET_FAIL, TARGET_REJECT, WORD_BIAS, WORD_SP, WORDS,
    },
    condition::{Machine, Step, step},
    wire::{
        number::{Address, Float, Scalar},
        value::{Field, Value},
    },
};

use super::{
    random::{Choices, INTEGERS, Panic, Pointer, World},
    *,
};
use crate::plan::{
    condition::Condition,
    general_register,
    path::{PathExpression, PathStep},
};

const SP: u64 = 0x7000_0000;
const CFA_FROM_SP: i32 = 0x400;
const HEAP: u64 = 0xc000_0000;
const NOWHERE: u64 = 0xdead_0000;

/// The memory and the registers of a stopped thread, and what debug data says of it.
struct Thread {
    words: [u64; WORDS],
    memory: BTreeMap<u64, u8>,
    condition: Condition,
}

impl Thread {
    fn bytes(&self, address: u64, count: u64) -> Option<Vec<u8>> {
        (0..count).map(|at| self.memory.get(&address.wrapping_add(at)).copied()).collect()
    }

    fn text(&self, word: u8) -> Option<Vec<u8>> {
        self.bytes(self.word(word), self.word(word + 1))
    }

    fn run(mut self) -> u16 {
        let ops = self.condition.ops.clone();
        let mut at = 0;
        for _ in 0..MAX_OPS {
            let Some(op) = ops.get(at) else { return TARGET_FAIL };
            match step(&mut self, op) {
                Step::Next => at += 1,
                Step::Go(target) if target >= TARGET_FAIL => return target,
                Step::Go(target) => {
                    assert!(usize::from(target) > at, "a jump backwards: {:?}", self.condition.listing());
                    at = target.into();
                }
            }
        }
        panic!("it does not end: {:?}", self.condition.listing())
    }
}

impl Machine for Thread {
    fn word(&self, index: u8) -> u64 {
        self.words[usize::from(index)]
    }

    fn set(&mut self, index: u8, value: u64) {
        assert!(index > WORD_BIAS, "a register is changed");
        self.words[usize::from(index)] = value;
    }

    fn read(&mut self, address: u64, bytes: u32) -> Option<u64> {
        let read = self.bytes(address, bytes.into())?;
        Some(read.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    fn strings(&mut self, op: &Op) -> u32 {
        let Some(left) = self.text(op.left) else { return TARGET_FAIL.into() };
        let (first, length) = ((op.immediate >> 32) as usize, (op.immediate & 0xffff_ffff) as usize);
        let blocks = self.condition.blocks.iter().skip(first).flat_map(|block| block.words);
        if op.code == OP_STRING_CONTAINS {
            let table: Vec<u64> = blocks.take(256).collect();
            let mut state = 0u64;
            let found = left.iter().any(|byte| {
                state = (state << 1 | 1) & table[usize::from(*byte)];
                state >> (length - 1) & 1 != 0
            });
            return found.into();
        }
        let right = if op.flags & OP_IMMEDIATE != 0 {
            blocks.flat_map(u64::to_le_bytes).take(length).collect()
        } else {
            let Some(right) = self.text(op.right) else { return TARGET_FAIL.into() };
            right
        };
        let holds = match op.code {
            OP_STRING_EQUAL => left == right,
            OP_STRING_PREFIX => left.starts_with(&right),
            OP_STRING_LESS => left < right,
            _ => left <= right,
        };
        holds.into()
    }

    fn find(&mut self, _: &Op) -> Result<u64, u16> {
        Err(TARGET_FAIL)
    }
}

/// Lays the variables out, as a compiler might.
struct Layout {
    types: TypeTable,
    variables: Vec<VisibleVariable>,
    words: [u64; WORDS],
    memory: BTreeMap<u64, u8>,
    values: BTreeMap<&'static str, Value>,
    /// The next register (as debug data numbers them).
    register: u16,
    frame: i64,
    heap: u64,
    garbage: u64,
}

impl Layout {
    fn store(&mut self, address: u64, bytes: &[u8]) {
        self.memory.extend((address..).zip(bytes.iter().copied()));
    }

    fn allocate(&mut self, bytes: &[u8]) -> u64 {
        let address = self.heap;
        self.store(address, bytes);
        self.heap += bytes.len() as u64 + 64;
        address
    }

    fn in_registers(&mut self, name: &str, ty: TypeId, pieces: &[(u32, u64)]) {
        let mut found = Vec::new();
        for (bytes, value) in pieces {
            let (offset, _) = general_register(self.register).expect("registers are left");
            let garbage = self.garbage.checked_shl(8 * bytes).unwrap_or(0);
            self.words[offset as usize / 8] = value | garbage;
            found.push(Piece { bytes: *bytes, place: Place::Register(self.register) });
            self.register += 1;
            // RSP.
            if self.register == 7 {
                self.register += 1;
            }
        }
        self.variables.push(variable(name, ty, VariableLocation::Pieces(found)));
    }

    fn on_stack(&mut self, name: &str, ty: TypeId, bytes: &[u8]) {
        let place = Place::Frame(self.frame);
        let address = SP.wrapping_add_signed(i64::from(CFA_FROM_SP) + self.frame);
        self.store(address, bytes);
        // Not zero behind it.
        self.store(address + bytes.len() as u64, &self.garbage.to_le_bytes());
        self.frame += i64::try_from(bytes.len()).expect("a few bytes") + 8;
        let location = VariableLocation::Pieces(vec![Piece { bytes: bytes.len() as u32, place }]);
        self.variables.push(variable(name, ty, location));
    }

    fn new(world: &World) -> Self {
        let mut layout = Self {
            types: TypeTable::default(),
            variables: Vec::new(),
            words: [world.garbage; WORDS],
            memory: BTreeMap::new(),
            values: BTreeMap::new(),
            register: 0,
            frame: -0x3f0,
            heap: HEAP,
            garbage: world.garbage,
        };
        layout.words[usize::from(WORD_SP)] = SP;
        layout.words[usize::from(WORD_BIAS)] = 0;
        let mut types = Vec::new();
        for (index, (name, bits, signed)) in INTEGERS.into_iter().enumerate() {
            let kind = kind_of(name);
            let ty = layout.types.add(name, u64::from(bits / 8), kind, Shape::Scalar);
            types.push(ty);
            let names = INTEGER_NAMES[index];
            for (which, name) in names.into_iter().enumerate() {
                let value = world.integer(index, which);
                layout.values.insert(name, integer(INTEGERS[index].0, kind, signed, value));
                let raw = (world.integers[index][which] << (64 - bits)) >> (64 - bits);
                if which == 0 {
                    layout.in_registers(name, ty, &[(bits / 8, raw)]);
                } else {
                    layout.on_stack(name, ty, &raw.to_le_bytes()[..bits as usize / 8]);
                }
            }
        }
        let (string, int32, int64) = (layout.types.string(), types[3], types[4]);
        let float64 = layout.types.add("float64", 8, Kind::Float64, Shape::Scalar);
        let float32 = layout.types.add("float32", 4, Kind::Float32, Shape::Scalar);
        let boolean = layout.types.add("bool", 1, Kind::Bool, Shape::Scalar);
        for (name, float) in ["f", "g"].into_iter().zip(world.float64) {
            layout.on_stack(name, float64, &float.to_bits().to_le_bytes());
            layout.values.insert(name, scalar("float64", Kind::Float64, Scalar::Float(Float::F64(float))));
        }
        for (name, float) in ["h", "k"].into_iter().zip(world.float32) {
            layout.on_stack(name, float32, &float.to_bits().to_le_bytes());
            layout.values.insert(name, scalar("float32", Kind::Float32, Scalar::Float(Float::F32(float))));
        }
        for (name, value) in ["yes", "no"].into_iter().zip(world.bools) {
            if name == "yes" {
                layout.in_registers(name, boolean, &[(1, value.into())]);
            } else {
                layout.on_stack(name, boolean, &[value.into()]);
            }
            layout.values.insert(name, scalar("bool", Kind::Bool, Scalar::Bool(value)));
        }
        for (name, bytes) in ["s", "t"].into_iter().zip(&world.texts) {
            let header = [layout.allocate(bytes), bytes.len() as u64];
            if name == "s" {
                layout.in_registers(name, string, &header.map(|word| (8, word)));
            } else {
                layout.on_stack(name, string, header.map(u64::to_le_bytes).as_flattened());
            }
            layout.values.insert(name, text(bytes));
        }
        layout.list(world, int32);
        layout.grid(world, int64);
        layout.pointer(world, types[2], string, float32);
        layout
    }

    fn list(&mut self, world: &World, int32: TypeId) {
        let slice = self.types.slice(int32);
        let mut header = [0u64; 3];
        let mut value = Value { nil: true, ..Value::of("[]int32".into(), Kind::Slice) };
        if let Some(list) = &world.list {
            let bytes: Vec<u8> = list.iter().flat_map(|element| element.to_le_bytes()).collect();
            header = [self.allocate(&bytes), list.len() as u64, list.len() as u64];
            let elems = list.iter().map(|&element| integer("int32", Kind::Int32, true, element.into()));
            value.nil = false;
            value.elems = Some(elems.collect());
        }
        value.len = Some(header[1]);
        value.cap = Some(header[2]);
        self.on_stack("list", slice, header.map(u64::to_le_bytes).as_flattened());
        self.values.insert("list", value);
    }

    fn grid(&mut self, world: &World, int64: TypeId) {
        let array = self.types.array(int64, 3);
        self.on_stack("grid", array, world.grid.map(i64::to_le_bytes).as_flattened());
        let elems = world.grid.map(|element| integer("int64", Kind::Int64, true, element.into()));
        let value =
            Value { len: Some(3), elems: Some(elems.into()), ..Value::of("[3]int64".into(), Kind::Array) };
        self.values.insert("grid", value);
    }

    fn pointer(&mut self, world: &World, int16: TypeId, string: TypeId, float32: TypeId) {
        let structure =
            self.types.structure("main.Thing", &[("Number", int16), ("Text", string), ("Float", float32)]);
        let offsets: Vec<usize> = match &crate::golang::types::TypeSource::get(&self.types, structure).shape {
            Shape::Struct { fields } => fields.iter().map(|field| field.offset as usize).collect(),
            other => panic!("{other:?}"),
        };
        let mut value = Value::of("*main.Thing".into(), Kind::Pointer);
        let address = match &world.pointer {
            Pointer::Nil => {
                value.nil = true;
                0
            }
            Pointer::Wild => {
                value.unavailable = Some(Unavailable::Fault);
                value.addr = Some(Address(NOWHERE));
                NOWHERE
            }
            Pointer::To { number, text: bytes, float } => {
                let header = [self.allocate(bytes), bytes.len() as u64];
                let mut object = vec![0u8; 64];
                let mut put = |at: usize, bytes: &[u8]| object[at..at + bytes.len()].copy_from_slice(bytes);
                put(offsets[0], &number.to_le_bytes());
                put(offsets[1], header.map(u64::to_le_bytes).as_flattened());
                put(offsets[2], &float.to_le_bytes());
                let field = |name: &str, value| Field { name: name.into(), value, embedded: false };
                let fields = vec![
                    field("Number", integer("int16", Kind::Int16, true, (*number).into())),
                    field("Text", text(bytes)),
                    field("Float", scalar("float32", Kind::Float32, Scalar::Float(Float::F32(*float)))),
                ];
                let held = Value { fields: Some(fields), ..Value::of("main.Thing".into(), Kind::Struct) };
                value.elem = Some(Box::new(held));
                self.allocate(&object)
            }
        };
        let pointer = self.types.pointer(structure);
        self.in_registers("p", pointer, &[(8, address)]);
        self.values.insert("p", value);
    }

    /// What a capture of this path decodes to.
    fn decoded(&self, path: &PathExpression) -> Value {
        let mut value = self.values[&*path.variable].clone();
        for step in &path.steps {
            let found = match step {
                PathStep::Field(name) => value.elem.as_ref().and_then(|held| {
                    held.fields
                        .iter()
                        .flatten()
                        .find(|field| field.name == *name)
                        .map(|field| field.value.clone())
                }),
                PathStep::Index(index) => {
                    value.elems.as_ref().and_then(|elems| elems.get(*index as usize).cloned())
                }
                PathStep::Dereference => value.elem.as_deref().cloned(),
            };
            value = found.unwrap_or(Value { unavailable: Some(Unavailable::Fault), ..Value::default() });
        }
        value
    }
}

const INTEGER_NAMES: [[&str; 2]; INTEGERS.len()] = [
    ["aint", "bint"],
    ["aint8", "bint8"],
    ["aint16", "bint16"],
    ["aint32", "bint32"],
    ["aint64", "bint64"],
    ["auint", "buint"],
    ["auint8", "buint8"],
    ["auint16", "buint16"],
    ["auint32", "buint32"],
    ["auint64", "buint64"],
];

fn kind_of(name: &str) -> Kind {
    match name {
        "int8" => Kind::Int8,
        "int16" => Kind::Int16,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "uint" => Kind::Uint,
        "uint8" => Kind::Uint8,
        "uint16" => Kind::Uint16,
        "uint32" => Kind::Uint32,
        "uint64" => Kind::Uint64,
        _ => Kind::Int,
    }
}

fn scalar(name: &str, kind: Kind, value: Scalar) -> Value {
    Value { value: Some(value), ..Value::of(name.into(), kind) }
}

fn integer(name: &str, kind: Kind, signed: bool, value: i128) -> Value {
    let value = if signed {
        Scalar::Int(i64::try_from(value).expect("64 bits"))
    } else {
        Scalar::Uint(u64::try_from(value).expect("64 bits"))
    };
    scalar(name, kind, value)
}

fn text(bytes: &[u8]) -> Value {
    let mut value = Value { len: Some(bytes.len() as u64), ..Value::of("string".into(), Kind::String) };
    match std::str::from_utf8(bytes) {
        Ok(text) => value.value = Some(Scalar::Text(text.to_owned())),
        Err(_) => value.base64 = Some(base64::engine::general_purpose::STANDARD.encode(bytes)),
    }
    value
}

/// What the expression gives by the kernel side's ops and by the agent's evaluation; `None`: it takes more than the kernel
/// side has.
fn found(expression: &str, world: &World) -> Option<(Result<bool, Panic>, Result<bool, Panic>)> {
    let layout = Layout::new(world);
    let expr = parse(expression).unwrap_or_else(|error| panic!("{error}"));
    let scope = Scope { types: &layout.types, variables: &layout.variables, names: &NoNames };
    let typed = check_condition(expression, &expr, scope).unwrap_or_else(|error| panic!("{error}"));
    let places =
        Places { types: &layout.types, variables: &layout.variables, cfa_from_sp: Some(CFA_FROM_SP) };
    let condition = match compile(expression, &typed, places) {
        Ok(condition) => condition,
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("steps") || said.contains("intermediate values"), "{said}");
            return None;
        }
    };

    let mut operands_found = Vec::new();
    let is_variable = |name: &str, _: Option<&str>| layout.values.contains_key(name);
    operands(&typed, &expr, expression, &is_variable, &mut operands_found);
    let mut known = Vec::new();
    constants(&typed, &mut known);
    let values: Vec<Value> = operands_found.iter().map(|(_, path)| layout.decoded(path)).collect();
    let computed = Computed {
        text: expression.into(),
        expr,
        operands: operands_found
            .into_iter()
            .enumerate()
            .map(|(index, (span, _))| (span, Operand::Planned(index)))
            .collect(),
        constants: known,
    };
    let planned: Vec<&Value> = values.iter().collect();
    let value = computed.value(Given { planned: &planned, ..Given::default() });
    let evaluated = match (value.value, value.unavailable) {
        (Some(Scalar::Bool(holds)), None) => Ok(holds),
        (None, Some(Unavailable::Fault)) => Err(Panic),
        other => panic!("{other:?}"),
    };

    let thread = Thread { words: layout.words, memory: layout.memory, condition };
    let decided = match thread.run() {
        TARGET_ACCEPT => Ok(true),
        TARGET_REJECT => Ok(false),
        TARGET_FAIL => Err(Panic),
        other => panic!("target {other}"),
    };
    Some((decided, evaluated))
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..10),
        (0u64..10).prop_map(u64::wrapping_neg),
        any::<u64>(),
        // The edges of every width.
        (0u32..64, 0u64..3).prop_map(|(bit, more)| (1u64 << bit).wrapping_sub(1).wrapping_add(more)),
    ]
}

fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        prop::sample::select(vec![
            0.0,
            -0.0,
            1.5,
            -1.5,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.1,
            5e-324
        ]),
        any::<u64>().prop_map(f64::from_bits),
    ]
}

fn single() -> impl Strategy<Value = f32> {
    prop_oneof![
        prop::sample::select(vec![0.0, -0.0, 1.5, -1.5, f32::NAN, f32::INFINITY, 0.1, 1e30, -1e-45]),
        any::<u32>().prop_map(f32::from_bits),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec!["", "a", "ab", "abc", "b", "b\0", "grüße"])
            .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..80),
    ]
}

prop_compose! {
    fn worlds()(
        integers in prop::array::uniform10(prop::array::uniform2(word())),
        float64 in prop::array::uniform2(double()),
        float32 in prop::array::uniform2(single()),
        bools in any::<[bool; 2]>(),
        texts in prop::array::uniform2(bytes()),
        list in prop::option::of(prop::collection::vec(any::<i32>(), 0..6)),
        pointer in prop_oneof![
            1 => Just(Pointer::Nil),
            1 => Just(Pointer::Wild),
            3 => (any::<i16>(), bytes(), single())
                .prop_map(|(number, text, float)| Pointer::To { number, text, float }),
        ],
        grid in any::<[i64; 3]>(),
        garbage in any::<u64>(),
    ) -> World {
        World { integers, float64, float32, bools, texts, list, pointer, grid, garbage }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn conditions_decide_as_go_does(choices in prop::collection::vec(any::<u8>(), 0..160), world in worlds()) {
        let condition = Choices(choices.iter()).condition();
        let wanted = condition.value(&world);
        let expression = condition.text();
        if let Some((decided, evaluated)) = found(&expression, &world) {
            prop_assert_eq!(decided, wanted, "in the kernel: {}", &expression);
            prop_assert_eq!(evaluated, wanted, "in the agent: {}", &expression);
        }
    }
}
