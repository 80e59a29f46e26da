//! The hash by which paths, values and words are known in the store's files: the same on every machine and version,
//! which the standard library's hashers do not promise.

/// Eight bytes at a time, mixed by multiplication (the constants are those of splitmix64).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = mix(state ^ u64::from_le_bytes(*word));
    }
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    mix(state ^ u64::from_le_bytes(word))
}

/// The hash of a pair.
pub(crate) fn pair(one: u64, other: u64) -> u64 {
    mix(one ^ other.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A hasher for keys that are such hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done(u64);

impl std::hash::Hasher for Done {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A set of such hashes.
pub(crate) type Hashes = std::collections::HashSet<u64, std::hash::BuildHasherDefault<Done>>;
