//! Maps on the way of a hit: looked into several times a hit, by numbers that the agent itself or a binary's debug data
//! gives. The hasher is seeded anew in each process, but is no defence against keys that were chosen to collide: what
//! clients name has the standard library's.

use std::collections::HashMap;

/// A map with a hasher that costs little.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
