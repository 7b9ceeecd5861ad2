//! A growing block of memory from `malloc`, always with room for a NUL behind its bytes: what a Perl
//! scalar can adopt without a copy.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::resume_unwind;
use std::ptr::NonNull;
use std::{fmt, mem, slice};

use crate::frame::MaskKey;

/// From this size on blocks are kept for reuse. Freshly mapped memory costs a page fault for every 4 KiB,
/// which for a large message is more than all the rest of its way through the library.
pub const RECYCLED_LEN: usize = 32 * 1024;

/// How much is kept for each thread, in bytes.
const KEPT: usize = 8 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in one `malloc`ed block.
pub struct Block {
    /// Of `capacity + 1` bytes, or dangling where `capacity` is 0.
    data: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the block owns its memory alone, and `malloc`'s heap belongs to the whole process.
unsafe impl Send for Block {}

impl Block {
    /// An empty block, which holds no memory.
    pub const fn new() -> Block {
        Block { data: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// An empty block for `capacity` bytes.
    ///
    /// # Panics
    /// Where the memory cannot be had.
    pub fn with_capacity(capacity: usize) -> Block {
        let mut block = Block::new();
        block.reserve(capacity, capacity);
        block
    }

    /// A spare block for `needed` bytes, if there is one that is not much larger than `capacity`, for what
    /// its bytes will be kept for.
    fn spare(needed: usize, capacity: usize) -> Option<Block> {
        let fits = needed..=capacity.saturating_add(capacity / 4);
        SPARE
            .try_with(|spare| {
                let mut spare = spare.borrow_mut();
                // The last one given back is the likeliest to be in the cache still.
                let at = spare.iter().rposition(|block| fits.contains(&block.capacity))?;
                Some(spare.swap_remove(at))
            })
            .ok()
            .flatten()
    }

    /// Keeps the block's memory for [`reserve`](Self::reserve), or frees it where that is not worth
    /// while.
    pub fn recycle(mut self) {
        if self.capacity >= RECYCLED_LEN && self.capacity <= KEPT {
            self.len = 0;
            // During the end of the thread the list may be gone: then the block goes too.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                let mut kept: usize = spare.iter().map(Block::capacity).sum();
                while kept + self.capacity > KEPT {
                    kept -= spare.remove(0).capacity;
                }
                spare.push(self);
            });
        }
    }

    /// How many bytes the block can hold before it has to grow.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `additional` more bytes. Grows by doubling, so that appending is linear, but
    /// not past `limit` bytes in all where `additional` fits below that.
    ///
    /// # Panics
    /// Where the memory cannot be had.
    pub fn reserve(&mut self, additional: usize, limit: usize) {
        let needed = self.len.checked_add(additional).expect("block length overflow");
        if needed > self.capacity {
            let doubled = self.capacity.saturating_mul(2).min(limit);
            self.grow(needed, needed.max(doubled));
        }
    }

    /// Grows to `capacity`, or to `needed` bytes at least where there is a spare block for them.
    fn grow(&mut self, needed: usize, capacity: usize) {
        let spare = if capacity < RECYCLED_LEN { None } else { Block::spare(needed, capacity) };
        if let Some(mut spare) = spare {
            spare.extend(self, 0);
            mem::replace(self, spare).recycle();
        } else {
            self.resize(capacity);
        }
    }

    fn resize(&mut self, capacity: usize) {
        debug_assert!(capacity >= self.len);
        let size = capacity.checked_add(1).expect("block size overflow");
        let old = if self.capacity == 0 { std::ptr::null_mut() } else { self.data.as_ptr() };
        // SAFETY: `old` is null or came from `malloc` or `realloc` and was not freed since.
        let data = unsafe { libc::realloc(old.cast(), size) };
        self.data = NonNull::new(data.cast()).unwrap_or_else(|| out_of_memory());
        self.capacity = capacity;
    }

    /// Appends `bytes`; for `limit` see [`reserve`](Self::reserve).
    pub fn extend(&mut self, bytes: &[u8], limit: usize) {
        self.reserve(bytes.len(), limit);
        // SAFETY: `reserve` made room for as many bytes behind `len`, and they cannot overlap with
        // `bytes`, which would have to be borrowed from the block.
        unsafe {
            let end = self.data.as_ptr().add(self.len);
            end.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.len += bytes.len();
    }

    /// Appends `bytes`, unmasked where there is a key; for `limit` see [`reserve`](Self::reserve).
    pub fn extend_unmasked(&mut self, bytes: &[u8], key: Option<MaskKey>, limit: usize) {
        let Some(key) = key else {
            return self.extend(bytes, limit);
        };
        self.reserve(bytes.len(), limit);
        // SAFETY: `reserve` made room for as many bytes behind `len`.
        let out = unsafe { slice::from_raw_parts_mut(self.spare_start().cast(), bytes.len()) };
        key.copy(bytes, out);
        self.len += bytes.len();
    }

    /// Appends `n` zeros, to be written over; for `limit` see [`reserve`](Self::reserve).
    pub fn extend_zeroed(&mut self, n: usize, limit: usize) {
        self.reserve(n, limit);
        // SAFETY: `reserve` made room for as many bytes behind `len`.
        unsafe { self.data.as_ptr().add(self.len).write_bytes(0, n) };
        self.len += n;
    }

    /// Drops all but the first `len` bytes; does nothing where there are no more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Where the next `capacity - len` bytes go, for somebody else to write there and tell by
    /// [`advance`](Self::advance).
    pub fn spare_start(&self) -> *mut u8 {
        // SAFETY: `len` is at most `capacity`, so this stays inside the allocation (or adds 0 to
        // the dangling pointer).
        unsafe { self.data.as_ptr().add(self.len) }
    }

    /// Counts the next `n` bytes as written.
    ///
    /// # Safety
    /// They have been written, at what [`spare_start`](Self::spare_start) told, and fit there.
    pub unsafe fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.capacity - self.len);
        self.len += n;
    }

    /// Gives the memory away: a `malloc`ed block, its length, and its size, in which there is a NUL and
    /// one byte more behind the last. (Perl shares a string between scalars where it finds room for a
    /// count there.) The block is shrunk first where it is much larger than what it holds.
    pub fn into_raw(mut self) -> (NonNull<u8>, usize, usize) {
        let needed = self.len + 1;
        if self.capacity < needed || self.capacity - self.len > self.len / 4 + 64 {
            self.resize(needed);
        }
        // SAFETY: there is one byte more than the capacity, which `len` does not exceed.
        unsafe { self.data.as_ptr().add(self.len).write(0) };
        let parts = (self.data, self.len, self.capacity + 1);
        mem::forget(self);
        parts
    }

    /// Takes back what [`into_raw`](Self::into_raw) gave away.
    ///
    /// # Safety
    /// The parts come from `into_raw`, and nobody else has them.
    pub unsafe fn from_raw(data: NonNull<u8>, len: usize, size: usize) -> Block {
        Block { data, len, capacity: size - 1 }
    }
}

/// A panic without the panic hook: that may want memory for a backtrace, which there is none of, and whoever catches
/// it says what it was.
#[cold]
fn out_of_memory() -> ! {
    resume_unwind(Box::new("out of memory for a message"))
}

impl Default for Block {
    fn default() -> Block {
        Block::new()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: a capacity means memory from `realloc` that is ours.
            unsafe { libc::free(self.data.as_ptr().cast()) };
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes have been written.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the block is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_away_ends_with_nul_and_comes_back() {
        for len in [0usize, 1, 63, 64, 1000] {
            let mut block = Block::new();
            for byte in 0..len {
                block.extend(&[byte as u8], usize::MAX);
            }
            let (data, taken, size) = block.into_raw();
            assert_eq!(taken, len);
            assert!(size >= len + 2);
            // SAFETY: the byte behind the last is part of the block, and the parts are just out.
            let block = unsafe {
                assert_eq!(*data.as_ptr().add(len), 0);
                Block::from_raw(data, taken, size)
            };
            assert!(block.iter().enumerate().all(|(i, &byte)| byte == i as u8));
        }
    }

    #[test]
    fn a_recycled_block_serves_again_where_it_fits() {
        let mut block = Block::with_capacity(100_000);
        block.extend(&[7; 100_000], 0);
        let memory = block.as_ptr();
        block.recycle();
        let larger = Block::with_capacity(100_001);
        assert_ne!(larger.data.as_ptr().cast_const(), memory);
        let smaller = Block::with_capacity(79_000);
        assert_ne!(smaller.data.as_ptr().cast_const(), memory);
        let fitting = Block::with_capacity(90_000);
        assert_eq!(fitting.data.as_ptr().cast_const(), memory);
        assert!(fitting.is_empty());
    }

    #[test]
    fn a_growing_block_goes_to_a_recycled_one_where_that_fits() {
        let mut block = Block::with_capacity(70_000);
        block.extend(&[7; 70_000], 0);
        let memory = block.as_ptr();
        block.recycle();
        let mut growing = Block::new();
        for byte in 0..70_000_u32 {
            growing.extend(&[byte as u8], usize::MAX);
        }
        assert_eq!(growing.as_ptr(), memory);
        assert!(growing.iter().zip(0_u32..).all(|(&byte, n)| byte == n as u8));
    }

    #[test]
    fn not_more_is_kept_than_the_limit() {
        let blocks: Vec<Block> = (0..20).map(|_| Block::with_capacity(1 << 20)).collect();
        blocks.into_iter().for_each(Block::recycle);
        Block::with_capacity(100).recycle();
        Block::with_capacity(KEPT + 1).recycle();
        let kept: usize = SPARE.with_borrow(|spare| spare.iter().map(Block::capacity).sum());
        assert_eq!(kept, KEPT);
    }

    #[test]
    fn growth_doubles_up_to_the_limit_and_past_it_only_as_needed() {
        let mut block = Block::new();
        block.extend(&[0; 100], 150);
        assert_eq!(block.capacity(), 100);
        block.extend(&[0; 1], 150);
        assert_eq!(block.capacity(), 150);
        block.extend(&[0; 100], 150);
        assert_eq!(block.capacity(), 201);
    }
}
