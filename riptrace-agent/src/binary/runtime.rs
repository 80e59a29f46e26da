//! What an executable's runtime and linker leave to be found: `runtime.firstmoduledata`, itabs, and where `g` is.

use crate::{
    binary::executable::Executable,
    golang::{
        moduledata::{self, Itabs, Layout, ModuleData},
        pclntab::Pclntab,
    },
};

/// An itab has five words before its methods; a list with more entries than this is taken for damaged.
const MAX_ITABS: u64 = 1 << 22;
/// Words that point at the line table: the moduledata's, and few others. Each is looked at with all relocations.
const MAX_CANDIDATES: usize = 16;

/// An itab that the symbol table names: the link between a concrete type and an interface that it implements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Itab {
    /// Full name of the concrete type, as the linker writes it.
    pub concrete: String,
    /// Full name of the interface.
    pub interface: String,
    /// Where it lies.
    pub link_address: u64,
}

impl Executable {
    /// What the runtime knows about the program's layout; `None` if it can't be found.
    pub fn module_data(&self) -> Option<&ModuleData> {
        self.module_data_cell().get_or_init(|| self.find_module_data()).as_ref()
    }

    /// `moduledata.types` and `etypes`: where every `abi.Type` that the linker wrote lies.
    pub fn runtime_types(&self) -> Option<(u64, u64)> {
        self.module_data().map(|module| (module.types.start, module.types.end))
    }

    /// Where `g` is, relative to a thread's FS base (negative).
    pub fn tls_g_offset(&self) -> Option<i64> {
        let Some(tls) = self.elf().tls else {
            // Without a thread-local segment the runtime sets FS itself and keeps g just below it
            // (cmd/link/internal/ld/sym.go, `computeTLSOffset`).
            return self.is_go().then_some(-8);
        };
        if tls.memory_bytes == 8 {
            return Some(-8);
        }
        match self.tls_g_symbol() {
            Some(value) => variant_2_offset(value, tls.memory_bytes, tls.align),
            None => self.tls_g_in_code(),
        }
    }

    /// The itabs that the symbol table names, of interfaces of these full names; none in a stripped program (see
    /// [`Self::itab_addresses`]).
    pub fn itabs(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Itab> {
        let mut found = Vec::new();
        self.elf().for_each_data_symbol_with(&ITAB_PREFIXES.map(str::as_bytes), |name, symbol| {
            let named = itab(name).filter(|(_, interface)| is_wanted(interface));
            found.extend(named.map(|(concrete, interface)| Itab {
                concrete: concrete.to_owned(),
                interface: interface.to_owned(),
                link_address: symbol.value,
            }));
            true
        });
        found
    }

    /// Where the program's itabs lie, by the runtime's own list.
    pub fn itab_addresses(&self) -> Vec<u64> {
        match self.module_data().map(|module| module.itabs) {
            Some(Itabs::Links { address, len }) if len <= MAX_ITABS => self.words(address, len),
            Some(Itabs::Run { address, bytes }) => self.itabs_side_by_side(address, bytes / 8),
            _ => Vec::new(),
        }
    }

    /// Walks itabs that lie side by side; each has three words and one for each method of its interface, at least one
    /// (internal/abi/iface.go, `ITab.Size`).
    fn itabs_side_by_side(&self, address: u64, words: u64) -> Vec<u64> {
        let words = self.words(address, words);
        let mut found = Vec::new();
        let mut index = 0;
        while let Some([interface, _, _, first_method]) =
            words.get(index..).and_then(|rest| rest.first_chunk())
        {
            found.push(address + index as u64 * 8);
            // `abi.InterfaceType`: `Type` (48 bytes), `PkgPath`, then the slice of methods.
            let methods =
                interface.checked_add(64).and_then(|length| self.read(length, 8)?.first_chunk().copied());
            let methods = methods.map(u64::from_le_bytes);
            let methods = methods.and_then(|methods| usize::try_from(methods).ok()).unwrap_or(1).max(1);
            index =
                index.saturating_add(if *first_method == 0 { 4 } else { 3_usize.saturating_add(methods) });
        }
        found
    }

    /// The thread-local symbol `runtime.tlsg`: an offset in the thread-local block.
    fn tls_g_symbol(&self) -> Option<u64> {
        let mut found = None;
        self.elf().visit_symbols(|symbol, name| {
            if symbol.thread_local && name() == b"runtime.tlsg" {
                found = Some(symbol.value);
            }
            found.is_none()
        });
        found
    }

    /// What the instructions say with which `runtime.morestack` loads `g`, in one of the two forms that Go's assembler
    /// and linkers leave (cmd/internal/obj/x86/obj6.go, `load_g`): `mov %fs:OFFSET, reg`, or `mov $OFFSET, reg` and
    /// `mov %fs:(reg), reg`.
    fn tls_g_in_code(&self) -> Option<i64> {
        let entry = self.pclntab().ok()?.function_named("runtime.morestack")?.entry;
        let code = self.read(entry, 16)?;
        let offset = match *code {
            [0x64, 0x48, 0x8b, mod_rm, 0x25, a, b, c, d, ..] if mod_rm & 0xc7 == 0x04 => [a, b, c, d],
            [0x48, 0xc7, 0xc0..=0xc7, a, b, c, d, 0x64, 0x48, 0x8b, ..] => [a, b, c, d],
            _ => return None,
        };
        Some(i64::from(i32::from_le_bytes(offset))).filter(|offset| *offset < 0)
    }

    fn find_module_data(&self) -> Option<ModuleData> {
        let table = self.line_table().ok()?;
        let names = table.address.checked_add(Pclntab::header_names_offset(&table.bytes)?)?;
        let is_module = |address: u64| self.words(address, 2).as_slice() == [table.address, names];
        let address = self.first_pointer_to(table.address, is_module)?;
        let words = self.words(address, moduledata::BYTES / 8);
        let word = |offset: u64| words.get(usize::try_from(offset / 8).ok()?).copied();
        let layout = Layout::of(self.go_version());
        ModuleData::read(address, &layout, word).filter(|module| {
            self.file_offset(module.text.start).is_some() && self.read(module.types.start, 1).is_some()
        })
    }

    /// The words from an address on, as they are once the program is loaded at its link-time address; as many of them
    /// as the file has.
    fn words(&self, link_address: u64, count: u64) -> Vec<u64> {
        let Some(bytes) = self.elf().read_to_end(link_address) else { return Vec::new() };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut words: Vec<u64> =
            bytes.as_chunks().0.iter().take(count).map(|word| u64::from_le_bytes(*word)).collect();
        if self.is_pie() {
            self.elf().for_each_relative_relocation(|at, value| {
                let index = at.checked_sub(link_address).map(|offset| offset / 8);
                let index = index.and_then(|index| usize::try_from(index).ok());
                if let Some(word) = index.and_then(|index| words.get_mut(index)) {
                    *word = value;
                }
            });
        }
        words
    }

    /// Address of the first writable word that holds `target` once the program is loaded, of those that are `wanted`.
    fn first_pointer_to(&self, target: u64, wanted: impl Fn(u64) -> bool) -> Option<u64> {
        if self.is_pie() {
            let mut candidates = Vec::new();
            self.elf().for_each_relative_relocation(|at, value| {
                if value == target && candidates.len() < MAX_CANDIDATES {
                    candidates.push(at);
                }
            });
            if let Some(found) = candidates.into_iter().find(|address| wanted(*address)) {
                return Some(found);
            }
        }
        let pattern = target.to_le_bytes();
        let elf = self.elf();
        // Go ≥ 1.26 has a section for it; else it is near the start of the data.
        let section = elf.section(".go.module").map(|section| section.address);
        let segments = elf.segments.iter().filter(|segment| segment.writable).map(|segment| segment.address);
        section.into_iter().chain(segments).find_map(|start| {
            let start = start.checked_next_multiple_of(8)?;
            let bytes = elf.read_to_end(start)?;
            let words = bytes.as_chunks::<8>().0.iter().enumerate().filter(|(_, chunk)| **chunk == pattern);
            words
                .map(|(index, _)| start + index as u64 * 8)
                .take(MAX_CANDIDATES)
                .find(|address| wanted(*address))
        })
    }
}

/// x86-64 thread-local storage lies below the FS base, its end aligned to it (variant II of the TLS ABI).
fn variant_2_offset(value: u64, memory_bytes: u64, align: u64) -> Option<i64> {
    let block = memory_bytes.checked_next_multiple_of(align)?;
    i64::try_from(value).ok()?.checked_sub(i64::try_from(block).ok()?)
}

/// Before the names of itabs; the second one up to Go 1.19.
const ITAB_PREFIXES: [&str; 2] = ["go:itab.", "go.itab."];

/// Concrete type and interface of `go:itab.T,I`.
fn itab(name: &[u8]) -> Option<(&str, &str)> {
    let name = std::str::from_utf8(name).ok()?;
    let pair = ITAB_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    split_at_comma(pair)
}

/// Splits at the comma that is outside of brackets, braces and parentheses (type arguments have commas of their own).
fn split_at_comma(pair: &str) -> Option<(&str, &str)> {
    let mut depth = 0_i32;
    for (at, byte) in pair.bytes().enumerate() {
        match byte {
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => return Some((pair.get(..at)?, pair.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}
