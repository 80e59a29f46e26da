//! Ids that nobody else has, sorted by the time at which they were made.

use std::{
    fs::File,
    io::Read,
    time::{SystemTime, UNIX_EPOCH},
};

/// Crockford's base 32: no letters that look like digits.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// `PREFIX_` and 26 characters: 48 bits of milliseconds since 1970, 80 bits of chance.
///
/// # Errors
///
/// The kernel gives no random bytes.
pub fn fresh(prefix: &str) -> std::io::Result<String> {
    let mut chance = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut chance)?;
    let milliseconds = now_ns() / 1_000_000;
    let bits = (u128::from(milliseconds) << 80) | (u128::from_le_bytes(chance) >> 48);
    let digit = |place: u32| {
        let index = usize::try_from((bits >> (5 * place)) & 31).unwrap_or_default();
        char::from(DIGITS[index])
    };
    Ok(format!("{prefix}_{}", (0..26).rev().map(digit).collect::<String>()))
}

/// Nanoseconds since 1970 by the machine's wall clock.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use riptrace_common::id::SessionId;

    use super::*;

    #[test]
    fn ids_are_valid_and_differ() {
        let ids: std::collections::BTreeSet<_> = (0..100).map(|_| fresh("s").unwrap()).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| SessionId::from(id.as_str()).is_valid() && id.len() == 28), "{ids:?}");
    }
}
