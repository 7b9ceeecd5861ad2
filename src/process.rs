//! Which process this is, as far as forks are concerned.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(1);
static REGISTER: Once = Once::new();

extern "C" fn in_child() {
    // The only thing done here, since after a fork in a threaded process little else may be.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// A number that differs between a process and each child it forks. State that must not outlive a
/// fork (random pools, the duty to close a connection) notes it when made and compares it later.
/// Cheaper than asking for the process id, and not fooled when an id is used again.
pub fn generation() -> u64 {
    REGISTER.call_once(|| {
        // SAFETY: the handler is a function of this object, which Perl never unloads while it runs
        // Perl code, touches one atomic, and does not unwind.
        let status = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        assert_eq!(status, 0, "fork handler");
    });
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_sees_another_generation() {
        let parent = generation();
        // SAFETY: the child calls nothing but async-signal-safe functions before it exits.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(i32::from(generation() == parent));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            assert_eq!(status, 0, "the child saw its parent's generation");
        }
        assert_eq!(generation(), parent);
    }
}
