//! What was computed once and is kept, for threads that ask side by side.

use std::{
    borrow::Borrow,
    collections::HashMap,
    convert::Infallible,
    hash::{BuildHasher, Hash},
    sync::RwLock,
};

/// Values by key, at most `LIMIT`: a full cache starts again, since what is asked for next is mostly what was asked for
/// last. The hasher is that of [`FastMap`](crate::fast_map::FastMap); keys that clients choose need another.
#[derive(Debug)]
pub(crate) struct BoundedCache<K, V, const LIMIT: usize, S = foldhash::fast::RandomState> {
    known: RwLock<HashMap<K, V, S>>,
}

impl<K, V, const LIMIT: usize, S: Default> Default for BoundedCache<K, V, LIMIT, S> {
    fn default() -> Self {
        Self { known: RwLock::default() }
    }
}

impl<K: Eq + Hash, V: Clone, S: BuildHasher, const LIMIT: usize> BoundedCache<K, V, LIMIT, S> {
    /// The value, which is computed if it is not there.
    pub(crate) fn get_or_insert<Q>(&self, key: &Q, compute: impl FnOnce() -> V) -> V
    where
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
        K: Borrow<Q>,
    {
        let Ok(value) = self.get_or_try_insert(key, || Ok::<V, Infallible>(compute()));
        value
    }

    /// The same for what may fail; a failure is not kept.
    pub(crate) fn get_or_try_insert<Q, E>(
        &self,
        key: &Q,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E>
    where
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
        K: Borrow<Q>,
    {
        if let Ok(known) = self.known.read()
            && let Some(found) = known.get(key)
        {
            return Ok(found.clone());
        }
        // Without the lock: what is computed may ask for more of the same.
        let value = compute()?;
        if let Ok(mut known) = self.known.write() {
            if known.len() >= LIMIT {
                known.clear();
            }
            known.insert(key.to_owned(), value.clone());
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_computed_once_and_a_failure_each_time() {
        let cache: BoundedCache<String, u32, 8> = BoundedCache::default();
        assert_eq!(cache.get_or_try_insert("a", || Err::<u32, _>("broken")), Err("broken"));
        assert_eq!(cache.get_or_insert("a", || 1), 1);
        assert_eq!(cache.get_or_insert("a", || 2), 1);
    }

    #[test]
    fn a_full_one_starts_again() {
        let cache: BoundedCache<u64, u64, 2> = BoundedCache::default();
        for key in 0..5 {
            cache.get_or_insert(&key, || key);
            assert!(cache.known.read().unwrap().len() <= 2);
        }
        assert_eq!(cache.get_or_insert(&4, || 0), 4);
        assert_eq!(cache.get_or_insert(&0, || 9), 9);
    }

    #[test]
    fn what_is_computed_may_ask_for_more() {
        let cache: BoundedCache<u64, u64, 8> = BoundedCache::default();
        assert_eq!(cache.get_or_insert(&1, || cache.get_or_insert(&2, || 5) + 1), 6);
    }
}
