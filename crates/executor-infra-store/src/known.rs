//! Which ids may be kept, without asking the database.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Eight bytes of each id that is kept. An id that shares them with another one is looked up in vain, which costs a read
/// and nothing else; the hash is keyed, so nobody can choose ids that do.
#[derive(Debug, Default)]
pub(crate) struct Known {
    hasher: RandomState,
    hashes: Mutex<HashSet<u64>>,
}

impl Known {
    pub(crate) fn may_hold(&self, id: &str) -> bool {
        let hash = self.hasher.hash_one(id);
        self.hashes().contains(&hash)
    }

    pub(crate) fn add(&self, id: &str) {
        let hash = self.hasher.hash_one(id);
        self.hashes().insert(hash);
    }

    pub(crate) fn remove(&self, id: &str) {
        let hash = self.hasher.hash_one(id);
        self.hashes().remove(&hash);
    }

    fn hashes(&self) -> MutexGuard<'_, HashSet<u64>> {
        // Nothing in here panics half-way through a change.
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
