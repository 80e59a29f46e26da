//! A binary that is traced: its bytes, its debug data, and what decoding asks of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use riptrace_common::{abi, wire::event};

use super::closures;
use crate::{
    binary::{Constants, DebugOptions, Executable, Progress},
    decode::{FunctionName, Symbols},
    dwarf::{ClosureLayout, DebugInfo, NamedConstant},
    golang::{
        abi_type::TypeMemory,
        runtime::{self, RuntimeOffsets},
        types::{Shape, TypeId, TypeSource},
    },
    plan::{
        sites::CodeReader,
        trace_context::{self, ContextLink, Implementation},
    },
    redact::{RedactedTypes, Rules},
};

/// A binary that is traced. Cheap to clone: what is found out of it is shared.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file.
    pub executable: Executable,
    /// Its debug data, where it has any.
    pub debug: Option<Arc<DebugInfo>>,
    /// Why it has none, and what to do.
    pub debug_missing: Option<String>,
    /// Its types, as far as they may be read.
    types: Option<Arc<RedactedTypes<Arc<DebugInfo>>>>,
    /// Rules hold of what is copied of it.
    is_redacted: bool,
    /// Its data that never changes.
    constants: Arc<Constants>,
    /// What closures hold, by their code.
    closures: Arc<Mutex<HashMap<u64, Option<Arc<ClosureLayout>>>>>,
    /// How its contexts lead to spans.
    context_links: Arc<OnceLock<Vec<ContextLink>>>,
    /// The same few addresses come again and again.
    frames: Arc<Mutex<KeptFrames>>,
    /// See [`Image::behind_faults`].
    behind_faults: OnceLock<Option<u64>>,
}

/// Frames by address, and whether it is a return address.
type KeptFrames = HashMap<(u64, bool), Arc<[event::Frame]>>;

/// Addresses whose frames are kept; when there are more, all are forgotten.
const MAX_KEPT_FRAMES: usize = 16 * 1024;

impl Image {
    /// Reads a binary's debug data, as far as there is any.
    pub fn load(executable: Executable, options: &DebugOptions, progress: &dyn Fn(Progress)) -> Self {
        let loaded = executable
            .debug(options, progress)
            .map_err(|error| error.to_string())
            .and_then(|sections| DebugInfo::load(sections).map_err(|error| error.to_string()));
        let constants = Arc::new(Constants::of(&executable));
        match loaded {
            Ok(debug) => {
                if !debug.index_was_cached() {
                    executable.store_index(options, &debug.index_bytes());
                }
                let memory: Arc<dyn TypeMemory> = Arc::clone(&constants) as _;
                let debug = Arc::new(debug.with_runtime_types(memory));
                let types = RedactedTypes::new(Arc::clone(&debug), Arc::default());
                Self {
                    executable,
                    debug: Some(debug),
                    debug_missing: None,
                    types: Some(Arc::new(types)),
                    is_redacted: false,
                    constants,
                    closures: Arc::default(),
                    context_links: Arc::default(),
                    frames: Arc::default(),
                    behind_faults: OnceLock::new(),
                }
            }
            Err(reason) => Self {
                executable,
                debug: None,
                debug_missing: Some(reason),
                types: None,
                is_redacted: false,
                constants,
                closures: Arc::default(),
                context_links: Arc::default(),
                frames: Arc::default(),
                behind_faults: OnceLock::new(),
            },
        }
    }

    /// The same binary, of which nothing is copied that the rules forbid.
    #[must_use]
    pub fn redacted(self, rules: &Arc<Rules>) -> Self {
        let redacted = |debug: &Arc<DebugInfo>| RedactedTypes::new(Arc::clone(debug), Arc::clone(rules));
        let types = self.debug.as_ref().map(|debug| Arc::new(redacted(debug)));
        // What closures hold was read without the rules.
        Self { types, is_redacted: !rules.are_off(), closures: Arc::default(), ..self }
    }

    /// Rules hold of what is copied of it.
    #[must_use]
    pub fn is_redacted(&self) -> bool {
        self.is_redacted
    }

    /// Its types, as far as they may be read. `None`: it has no debug data.
    #[must_use]
    pub fn types(&self) -> Option<&RedactedTypes<Arc<DebugInfo>>> {
        self.types.as_deref()
    }

    /// Where this binary's Go keeps its things: by its debug data, else by its version.
    #[must_use]
    pub fn abi(&self) -> abi::program::Image {
        let offsets = self
            .debug
            .as_deref()
            .and_then(|debug| RuntimeOffsets::from_fields(|name, path| field_offset(debug, name, path)))
            .or_else(|| RuntimeOffsets::of(self.executable.go_version()?));
        runtime::image(offsets.as_ref(), self.executable.tls_g_offset())
    }
}

/// Where the runtime goes on when compiled Go code faults (runtime/signal_amd64.go, `preparePanic`): assembly, which leaves
/// all registers as they were at the fault.
const BEHIND_FAULTS: &str = "runtime.sigpanic0";

impl Image {
    /// The instruction that runs first after a fault, with the faulting instruction's address at SP.
    pub(super) fn behind_faults(&self) -> Option<u64> {
        *self.behind_faults.get_or_init(|| {
            let entry = self.executable.pclntab().ok()?.function_named(BEHIND_FAULTS)?.entry;
            self.executable.file_offset(entry).map(|_| entry)
        })
    }

    /// The pointer that lies at an address when the program starts.
    pub(super) fn constant_pointer(&self, link_address: u64) -> Option<u64> {
        self.constants.first_pointer(link_address)
    }

    /// What the objects of the closure function that is entered at an address hold, as far as it is known.
    pub(super) fn closure_layout(&self, code_address: u64) -> Option<Arc<ClosureLayout>> {
        let debug = self.debug.as_deref()?;
        let mut known = self.closures.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.entry(code_address);
        let read = || {
            let mut layout = closures::layout(self, debug, code_address)?;
            self.types()?.redact_closure(&mut layout);
            Some(Arc::new(layout))
        };
        found.or_insert_with(read).clone()
    }

    /// How the program's contexts lead to OpenTelemetry's spans; none if it has none.
    pub(super) fn context_links(&self) -> &[ContextLink] {
        self.context_links.get_or_init(|| self.find_context_links().unwrap_or_default())
    }

    fn find_context_links(&self) -> Option<Vec<ContextLink>> {
        let debug = self.debug.as_deref()?;
        let key = debug.type_named(trace_context::SPAN_KEY)?;
        let mut contexts = Vec::new();
        let mut spans: BTreeSet<TypeId> =
            trace_context::SPAN_TYPES.iter().filter_map(|name| debug.type_named(name)).collect();
        let interfaces = [trace_context::CONTEXT, trace_context::SPAN];
        for itab in self.executable.itabs(|interface| interfaces.contains(&interface)) {
            let Some(ty) = debug.type_named(&itab.concrete) else { continue };
            if itab.interface == trace_context::SPAN {
                spans.insert(ty);
            } else {
                contexts.push(Implementation { itab: itab.link_address, ty });
            }
        }
        let spans: Vec<TypeId> = spans.into_iter().collect();
        Some(trace_context::links(debug, &contexts, &spans, key))
    }

    /// The source files whose path is `suffix` or ends with `/suffix`.
    #[must_use]
    pub fn files_matching(&self, suffix: &str) -> Vec<String> {
        match &self.debug {
            Some(debug) => debug.files_matching(suffix).iter().map(|file| file.to_string()).collect(),
            None => self.executable.pclntab().map_or_else(
                |_| Vec::new(),
                |table| table.files_matching(suffix).into_iter().map(str::to_owned).collect(),
            ),
        }
    }

    /// The lines of a file that have code.
    ///
    /// # Errors
    ///
    /// Debug data is broken.
    pub fn lines_with_code(&self, file: &str) -> Result<BTreeSet<u32>, String> {
        match &self.debug {
            Some(debug) => {
                let rows = debug.line_rows(file).map_err(|error| error.to_string())?;
                Ok(rows.iter().map(|row| row.line).filter(|line| *line > 0).collect())
            }
            None => {
                let table = self.executable.pclntab().map_err(|error| error.to_string())?;
                Ok(table.lines_of_file(file).iter().map(|range| range.line).collect())
            }
        }
    }
}

/// Offset of `path` (`stack.lo`) in the struct of that name.
fn field_offset(debug: &DebugInfo, name: &str, path: &str) -> Option<u32> {
    let mut ty = debug.get(debug.type_named(name)?);
    let mut offset = 0;
    for part in path.split('.') {
        let Shape::Struct { fields } = &ty.shape else { return None };
        let field = fields.iter().find(|field| &*field.name == part)?;
        offset += field.offset;
        let next = debug.get(field.ty);
        ty = next;
    }
    u32::try_from(offset).ok()
}

impl Image {
    /// The frames at an address by the runtime's table.
    fn table_frames(&self, link_pc: u64, is_return_address: bool) -> Vec<event::Frame> {
        let Ok(table) = self.executable.pclntab() else { return Vec::new() };
        // A return address is the instruction behind the call.
        let pc = if is_return_address { link_pc.saturating_sub(1) } else { link_pc };
        table
            .frames(pc)
            .into_iter()
            .map(|frame| event::Frame {
                function: Arc::from(frame.function),
                file: Arc::from(frame.file),
                line: frame.line,
                pc: riptrace_common::wire::number::Address(link_pc),
                inlined: frame.inlined,
            })
            .collect()
    }
}

impl Symbols for Image {
    fn frames(&self, link_pc: u64, is_return_address: bool) -> Vec<event::Frame> {
        let key = (link_pc, is_return_address);
        let mut kept = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = kept.get(&key) {
            return frames.to_vec();
        }
        let frames = self.table_frames(link_pc, is_return_address);
        if kept.len() >= MAX_KEPT_FRAMES {
            kept.clear();
        }
        kept.insert(key, Arc::from(frames.as_slice()));
        frames
    }

    fn function(&self, link_pc: u64) -> Option<FunctionName> {
        let function = self.executable.pclntab().ok()?.function_at(link_pc)?;
        Some(FunctionName {
            name: Arc::from(function.name()),
            file: Arc::from(function.file().unwrap_or_default()),
            line: function.start_line(),
        })
    }

    fn read_only(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        self.executable.read_only(link_address, bytes)
    }

    fn pointer(&self, link_address: u64) -> Option<u64> {
        self.constants.holds(link_address, 8).then(|| self.constant_pointer(link_address)).flatten()
    }

    fn closure(&self, code: u64) -> Option<ClosureLayout> {
        self.closure_layout(code).as_deref().cloned()
    }

    fn constants(&self, type_name: &str) -> Arc<[NamedConstant]> {
        self.debug.as_ref().map_or_else(|| Arc::from([]), |debug| debug.constants_of(type_name))
    }
}

impl CodeReader for Image {
    fn code(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        self.executable.read(link_address, bytes)
    }

    fn pointer(&self, link_address: u64) -> Option<u64> {
        self.constant_pointer(link_address)
    }

    fn function_names(&self) -> Vec<Arc<str>> {
        self.executable.pclntab().map_or_else(
            |_| Vec::new(),
            |table| table.functions().map(|found| Arc::from(found.name())).collect(),
        )
    }

    fn function_name(&self, link_address: u64) -> Option<&str> {
        let function = self.executable.pclntab().ok()?.function_at(link_address)?;
        (function.entry == link_address).then(|| function.name())
    }
}
