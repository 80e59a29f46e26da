//! Writing many entries of a map at once. aya writes one entry a system call; arming 2,000 sites needs tens of
//! thousands of entries.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    Pod,
    maps::{IterableMap, MapData},
};

use super::error::ProbeError;

/// `bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes `values[i]` at `keys[i]`, in order.
pub(super) fn write<K: Pod, V: Pod, M: IterableMap<K, V>>(
    map: &M,
    name: &'static str,
    keys: &[K],
    values: &[V],
) -> Result<(), ProbeError> {
    debug_assert_eq!(keys.len(), values.len());
    // The kernel takes at most u32::MAX and walks them in one go; smaller steps keep other tasks running.
    for (keys, values) in keys.chunks(4096).zip(values.chunks(4096)) {
        update_batch(map.map(), keys, values).map_err(|source| ProbeError::Map {
            operation: "writing",
            map: name,
            source,
        })?;
    }
    Ok(())
}

/// The system call. On success all entries were written.
fn update_batch<K: Pod, V: Pod>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()> {
    let count = u32::try_from(keys.len().min(values.len()))
        .map_err(|_too_many| io::Error::from(io::ErrorKind::InvalidInput))?;
    let attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `attr` is a valid, fully initialised `union bpf_attr` prefix of the given size. The kernel reads `count`
    // keys and values; both slices are at least that long, `Pod` (no uninitialised bytes), and of the map's key and
    // value size, which aya's typed maps checked when they were made.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw const attr, size_of::<BatchAttr>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
