//! What users type (locations, capture expressions), and machine code.

use std::{cell::OnceCell, ops::Range, sync::Arc};

use riptrace_common::wire::{
    event::{Location, Role},
    number::Address,
};

use super::Input;
use crate::{
    dwarf::{
        DwarfError, Function, FunctionMatch, InlinedInstance, LineRow, Piece, Place, VariableLocation,
        VisibleVariable,
    },
    golang::{
        table::TypeTable,
        types::{Kind, Shape, TypeId, TypeSource},
    },
    plan::{
        CaptureLimits,
        captures::{SiteContext, plan_site},
        path::PathExpression,
        sites::{CodeReader, LineSource, LocationRequest, Site, resolve},
        types::TypeRegistry,
    },
};

/// A location for plans that nobody reads.
pub(super) fn somewhere(link_address: u64) -> Location {
    Location {
        file: "main.go".into(),
        line: 1,
        function: "main.f".into(),
        pc: Address(link_address),
        inlined_into: None,
    }
}

/// The text of a location.
pub fn location(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<LocationRequest>() {
        Ok(request) => {
            let shown = request.to_string();
            // The file `*0x1` of `./*0x1:7` is shown as an address would be.
            if !matches!(&request, LocationRequest::Line { file, .. } if file.starts_with('*')) {
                let again: Result<LocationRequest, _> = shown.parse();
                assert_eq!(again.as_ref(), Ok(&request), "what is shown can be typed");
            }
            let _ = resolve(&Program::default(), &Program::default(), &request);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// The text of a capture expression, planned over types of every kind.
pub fn capture_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let expression = match PathExpression::parse(text) {
        Ok(expression) => expression,
        Err(error) => return drop(error.to_string()),
    };
    let types = TypeTable::default();
    let ty = every_kind(&types);
    let whole = VariableLocation::Pieces(vec![Piece { bytes: u32::MAX, place: Place::Frame(-64) }]);
    let heap = VariableLocation::Heap(vec![Piece { bytes: 8, place: Place::Register(3) }]);
    let closure = VariableLocation::Closure { register: 1, offset: 16, by_reference: true };
    let split = VariableLocation::Pieces(
        (0..9).map(|register| Piece { bytes: 8, place: Place::Register(register) }).collect(),
    );
    let variables = [("o", whole), ("h", heap), ("c", closure), ("r", split)].map(|(name, location)| {
        VisibleVariable { name: name.into(), role: Role::Local, ty, decl_line: 1, location, dict_index: None }
    });
    let _ = planned(&mut TypeRegistry::new(), &types, &variables, std::slice::from_ref(&expression));
}

/// Plans variables at a site.
pub(super) fn planned(
    registry: &mut TypeRegistry,
    types: &dyn TypeSource,
    variables: &[VisibleVariable],
    expressions: &[PathExpression],
) -> Option<crate::plan::SitePlan> {
    let site = Site {
        link_address: 0x40_1000,
        location: somewhere(0x40_1000),
        trigger: riptrace_common::wire::event::Trigger::Line,
        function: None,
        instance: None,
        scope_address: 0x40_1000,
        instruction: "nop".into(),
        fast: true,
        entry_address: 0x40_1000,
        branch: None,
        stretch: crate::plan::fast::Stretch::default(),
        candidates: Vec::new(),
        choice: Default::default(),
    };
    let context = SiteContext {
        exact: false,
        image: 0,
        types,
        site: &site,
        file_offset: 0x1000,
        cfa_from_sp: Some(0x60),
        dictionary: None,
        limits: CaptureLimits::default(),
        contexts: variables,
    };
    plan_site(registry, &context, variables, expressions).ok()
}

/// A struct that leads to a type of every kind, itself included.
pub(super) fn every_kind(types: &TypeTable) -> TypeId {
    let node = types.declare();
    let (int, string, any, error) = (types.int(), types.string(), types.any(), types.error());
    let next = types.pointer(node);
    let classic = types.classic_map(string, any);
    let swiss = types.swiss_map(int, any, true);
    let paired = types.swiss_map(any, next, false);
    let float = types.add("float64", 8, Kind::Float64, Shape::Scalar);
    let complex = types.add("complex128", 16, Kind::Complex128, Shape::Scalar);
    let boolean = types.add("bool", 1, Kind::Bool, Shape::Scalar);
    let address = types.add("unsafe.Pointer", 8, Kind::UnsafePointer, Shape::UnsafePointer);
    let time = types.structure("time.Time", &[("wall", int), ("ext", int), ("loc", address)]);
    let fields = [
        ("Next", next),
        ("S", string),
        ("SS", types.slice(string)),
        ("B", types.slice(types.byte())),
        ("N", types.slice(next)),
        ("A", any),
        ("E", error),
        ("F", types.func()),
        ("C", types.channel(any)),
        ("M", classic),
        ("W", swiss),
        ("P", paired),
        ("T", time),
        ("R", types.array(next, 3)),
        ("D", float),
        ("Z", complex),
        ("U", address),
        ("O", boolean),
    ];
    let described = types.structure("main.Node", &fields);
    types.describe(node, described);
    for (at, (_, ty)) in fields.iter().enumerate() {
        types.set_runtime_type(*ty, 0x9000 + at as u64 * 64);
    }
    node
}

/// A function of arbitrary instructions, with arbitrary lines and inlined calls, asked for all kinds of locations.
pub fn code(data: &[u8]) {
    let program = Program::read(&mut Input::new(data));
    let start = program.start;
    for request in [
        LocationRequest::Function { name: "main.f".into() },
        LocationRequest::Function { name: "main.g".into() },
        LocationRequest::Address { link_address: start },
        LocationRequest::Address { link_address: start.wrapping_add(5) },
        LocationRequest::Line { file: "main.go".into(), line: 1 },
        LocationRequest::Line { file: "main.go".into(), line: 2 },
        LocationRequest::Line { file: "main.go".into(), line: 3 },
    ] {
        match resolve(&program, &program, &request) {
            Ok(resolved) => {
                for site in resolved.sites {
                    assert!(site.function.is_some_and(|f| f.contains(site.link_address)), "a site is code");
                }
            }
            Err(error) => drop(error.to_string()),
        }
    }
}

/// One function, as debug data and file would tell of it.
#[derive(Default)]
struct Program {
    start: u64,
    code: Vec<u8>,
    table: (u64, Vec<u64>),
    rows: Vec<LineRow>,
    function: OnceCell<Arc<Function>>,
}

impl Program {
    fn read(input: &mut Input<'_>) -> Self {
        let start = match input.u8() {
            0..=250 => 0x40_1000,
            251 => 0,
            _ => input.u64(),
        };
        let file: Arc<str> = "main.go".into();
        let other: Arc<str> = "other.go".into();
        let range = |input: &mut Input<'_>| -> Range<u64> {
            let from = start.wrapping_add(u64::from(input.u8()));
            from..from.wrapping_add(u64::from(input.u8()))
        };
        let mut rows: Vec<LineRow> = (0..input.u8() % 32)
            .map(|_| {
                let Range { start: address, end } = range(input);
                let flags = input.u8();
                LineRow {
                    address,
                    end,
                    file: Arc::clone(if flags & 1 == 0 { &file } else { &other }),
                    line: u32::from(flags >> 5),
                    is_stmt: flags & 2 == 0,
                    prologue_end: flags & 4 != 0,
                }
            })
            .collect();
        rows.sort_by_key(|row| row.address);
        let inlined = (0..usize::from(input.u8() % 16))
            .map(|index| {
                let flags = input.u8();
                let ranges = (0..flags & 3).map(|_| range(input)).collect();
                InlinedInstance {
                    name: if flags & 4 == 0 { "main.g".into() } else { "main.h[go.shape.int]".into() },
                    ranges,
                    call_file: Arc::clone(if flags & 8 == 0 { &file } else { &other }),
                    call_line: u32::from(input.u8() & 7),
                    decl_file: Some(Arc::clone(&file)),
                    decl_line: None,
                    parent: Some(usize::from(flags >> 4)).filter(|parent| *parent < index),
                    depth: usize::from(flags >> 4),
                    origin: 0,
                }
            })
            .collect();
        let table_at = start.wrapping_add(u64::from(input.u16()));
        let targets = (0..input.u8() % 16).map(|_| start.wrapping_add(u64::from(input.u8()))).collect();
        let entry = start.wrapping_add(u64::from(input.u8() & 15));
        let split = u64::from(input.u8());
        let code = input.rest.to_vec();
        let end = start.wrapping_add(code.len() as u64);
        let ranges = match split {
            0..=127 => std::iter::once(start..end).collect(),
            split => vec![start..start.wrapping_add(split), start.wrapping_add(split)..end],
        };
        let function = Function {
            name: "main.f".into(),
            ranges,
            entry,
            decl_file: Some(file),
            decl_line: Some(1),
            trampoline_or_wrapper: false,
            is_go: true,
            inlined,
            unit: 0,
            die: 0,
            origin: None,
        };
        Self { start, code, table: (table_at, targets), rows, function: OnceCell::from(Arc::new(function)) }
    }

    fn matching(&self) -> Vec<FunctionMatch> {
        let Some(function) = self.function.get() else { return Vec::new() };
        let inlined = (0..function.inlined.len()).map(|index| (Arc::clone(function), index)).collect();
        vec![FunctionMatch { name: "main.f".into(), functions: vec![Arc::clone(function)], inlined }]
    }
}

impl LineSource for Program {
    fn files_matching(&self, suffix: &str) -> Vec<Arc<str>> {
        self.file_names().into_iter().filter(|file| file.ends_with(suffix)).collect()
    }

    fn file_names(&self) -> Vec<Arc<str>> {
        ["/src/main.go", "/src/other.go", "main.go"].map(Arc::from).to_vec()
    }

    fn rows_of_file(&self, file: &str) -> Result<Arc<[LineRow]>, DwarfError> {
        Ok(self.rows.iter().filter(|row| &*row.file == file).cloned().collect())
    }

    fn rows_of(&self, _: &Function) -> Result<Vec<LineRow>, DwarfError> {
        Ok(self.rows.clone())
    }

    fn function_at(&self, link_address: u64) -> Result<Option<Arc<Function>>, DwarfError> {
        Ok(self.function.get().filter(|function| function.contains(link_address)).cloned())
    }

    fn functions_matching(&self, _: &str) -> Result<Vec<FunctionMatch>, DwarfError> {
        Ok(self.matching())
    }
}

impl CodeReader for Program {
    fn code(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        let start = usize::try_from(link_address.checked_sub(self.start)?).ok()?;
        self.code.get(start..start.checked_add(bytes)?)
    }

    fn pointer(&self, link_address: u64) -> Option<u64> {
        let at = link_address.checked_sub(self.table.0)? / 8;
        self.table.1.get(usize::try_from(at).ok()?).copied()
    }

    fn function_name(&self, link_address: u64) -> Option<&str> {
        match link_address & 0xff {
            0 => Some("runtime.morestack_noctxt.abi0"),
            1 => Some("runtime.panicIndex"),
            _ => None,
        }
    }

    fn function_names(&self) -> Vec<Arc<str>> {
        ["main.f", "main.(*T).M", "net/http.Get", "ünï.Cödé"].map(Arc::from).to_vec()
    }
}
