//! What loading the kernel side needs to know of this kernel and takes long to find out: kept in the cache until the
//! next boot.

use std::os::unix::fs::FileExt;

use crate::{
    binary::cache::{Cache, CacheKey, kind},
    probe::{KernelOptions, task_fsbase_offset},
};

/// The offset lies in the kernel's type data, seven megabytes that `/sys` hands out a page at a time: 15 ms.
const FSBASE: &str = "offset of task_struct.thread.fsbase";

/// The usual options, with what is known of this kernel.
#[must_use]
pub fn kernel_options(cache: &Cache) -> KernelOptions {
    let key = CacheKey(FSBASE.to_owned());
    let kept = cache.load(&key, kind::FACTS).and_then(|parts| {
        let (_, bytes) = parts.into_iter().next()?;
        bytes.first_chunk().copied().map(u32::from_le_bytes)
    });
    let offset = kept.or_else(|| {
        let found = task_fsbase_offset()?;
        let plan = [("offset", size_of::<u32>() as u64)];
        let stored = cache.store(&key, kind::FACTS, &plan, |file, offsets| {
            offsets.iter().try_for_each(|at| file.write_all_at(&found.to_le_bytes(), *at))
        });
        if let Err(error) = stored {
            tracing::debug!(%error, "cannot keep what was found out of the kernel");
        }
        Some(found)
    });
    KernelOptions { task_fsbase_offset: offset, ..KernelOptions::default() }
}
