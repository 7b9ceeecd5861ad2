//! Receive buffers, shared by all connections of a thread: an idle connection has none.

use std::cell::RefCell;

/// How much one read takes at most. Large enough that a burst of small messages, or two frames of 64 KiB,
/// cost one system call; small enough to stay in the second-level cache while it is parsed.
pub const BUFFER_LEN: usize = 129 * 1024;

/// Kept for reuse: one for the connection that is being read, one for a connection that a callback
/// reads in a nested event loop. Deeper nesting allocates.
const KEPT: usize = 2;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`BUFFER_LEN`] bytes.
pub fn take() -> Vec<u8> {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| Vec::with_capacity(BUFFER_LEN))
}

/// Hands a buffer back. One that has grown is freed, so that a single large input does not stay for
/// good.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == BUFFER_LEN {
        buffer.clear();
        // During the end of the thread the pool may be gone: then the buffer goes too.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
}
