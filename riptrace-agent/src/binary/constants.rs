//! Data of a binary that never changes while it runs, as it is in memory: read from the file, relocations applied.

use std::{collections::HashMap, sync::OnceLock};

use super::Executable;
use crate::golang::abi_type::TypeMemory;

/// The unchanging data of a program.
#[derive(Debug)]
pub struct Constants {
    executable: Executable,
    /// What the dynamic loader writes into a position-independent binary: link-time addresses, by where they are.
    relocations: OnceLock<HashMap<u64, u64>>,
}

impl Constants {
    /// Of this program.
    #[must_use]
    pub fn of(executable: &Executable) -> Self {
        Self { executable: executable.clone(), relocations: OnceLock::new() }
    }

    /// The pointer that lies at an address when the program starts, wherever that is.
    #[must_use]
    pub fn first_pointer(&self, link_address: u64) -> Option<u64> {
        if let Some(value) = self.relocations().get(&link_address) {
            return Some(*value);
        }
        let bytes = self.executable.read(link_address, 8)?.first_chunk()?;
        // A linker that leaves the value to a relocation writes zero here.
        Some(u64::from_le_bytes(*bytes)).filter(|address| *address != 0)
    }

    /// Whether nothing but the dynamic loader writes there.
    #[must_use]
    pub fn holds(&self, link_address: u64, bytes: usize) -> bool {
        self.executable.read_only(link_address, bytes).is_some()
            || self.executable.elf().is_relocated(link_address, bytes)
    }

    fn relocations(&self) -> &HashMap<u64, u64> {
        self.relocations.get_or_init(|| {
            let mut found = HashMap::new();
            if self.executable.is_pie() {
                self.executable.elf().for_each_relative_relocation(|at, value| {
                    found.insert(at, value);
                });
            }
            found
        })
    }
}

impl TypeMemory for Constants {
    fn bytes(&self, link_address: u64, bytes: usize) -> Option<&[u8]> {
        self.holds(link_address, bytes).then(|| self.executable.read(link_address, bytes)).flatten()
    }

    fn pointer(&self, link_address: u64) -> Option<u64> {
        self.holds(link_address, 8).then(|| self.first_pointer(link_address).unwrap_or(0))
    }
}
