//! Masking keys from the operating system's generator (RFC 6455 section 5.3: "The masking key needs
//! to be unpredictable", compat D7).

use std::cell::RefCell;

use super::mask::MaskKey;
use crate::process;

/// How many random bytes are fetched at once: a system call for each key would cost more than
/// masking a small frame.
const POOL_LEN: usize = 512;

struct Pool {
    bytes: [u8; POOL_LEN],
    used: usize,
    generation: u64,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { bytes: [0; POOL_LEN], used: POOL_LEN, generation: 0 }) };
}

/// A fresh key. A child process never repeats a key of its parent's: a pool filled before the fork
/// is thrown away.
///
/// # Panics
/// Where the operating system has no random bytes to give, which on Linux means a kernel without
/// `getrandom` and no `/dev/urandom`: predictable keys would be worse.
pub fn fresh() -> MaskKey {
    POOL.with_borrow_mut(|pool| {
        let generation = process::generation();
        if pool.used + 4 > POOL_LEN || pool.generation != generation {
            getrandom::fill(&mut pool.bytes).expect("random bytes for a masking key");
            pool.used = 0;
            pool.generation = generation;
        }
        let mut key = [0; 4];
        let taken = &mut pool.bytes[pool.used..pool.used + 4];
        key.copy_from_slice(taken);
        taken.fill(0);
        pool.used += 4;
        MaskKey(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_do_not_repeat_across_refills() {
        let keys: HashSet<[u8; 4]> = (0..2000).map(|_| fresh().0).collect();
        // 2000 draws of 32 bits collide with a chance of 1 in 2000; three collisions do not happen.
        assert!(keys.len() >= 1998, "{} distinct keys of 2000", keys.len());
    }
}
