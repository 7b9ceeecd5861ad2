//! A growing block of memory from `malloc`, always with room for a NUL behind its bytes: what a Perl
//! scalar can adopt without a copy.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::{fmt, mem, slice};

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
            self.resize(needed.max(doubled));
        }
    }

    fn resize(&mut self, capacity: usize) {
        debug_assert!(capacity >= self.len);
        let size = capacity.checked_add(1).expect("block size overflow");
        let old = if self.capacity == 0 { std::ptr::null_mut() } else { self.data.as_ptr() };
        // SAFETY: `old` is null or came from `malloc` or `realloc` and was not freed since.
        let data = unsafe { libc::realloc(old.cast(), size) };
        self.data = NonNull::new(data.cast()).expect("out of memory for a message");
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

    /// Gives the memory away: a `malloc`ed block, its length, and its size, in which the byte behind
    /// the last is a NUL. The block is shrunk first where it is much larger than what it holds.
    pub fn into_raw(mut self) -> (NonNull<u8>, usize, usize) {
        if self.capacity == 0 || self.capacity - self.len > self.len / 4 + 64 {
            // A block of capacity 0 has no memory yet, not even for the NUL.
            self.resize(self.len.max(1));
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
            assert!(size > len);
            // SAFETY: the byte behind the last is part of the block, and the parts are just out.
            let block = unsafe {
                assert_eq!(*data.as_ptr().add(len), 0);
                Block::from_raw(data, taken, size)
            };
            assert!(block.iter().enumerate().all(|(i, &byte)| byte == i as u8));
        }
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
