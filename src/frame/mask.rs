//! Masking, RFC 6455 section 5.3: octet i of the payload is XORed with octet i mod 4 of the key.

use std::mem::MaybeUninit;

/// A masking key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskKey(pub [u8; 4]);

impl MaskKey {
    /// The key as it applies to a payload whose first `done` bytes are already dealt with.
    #[must_use]
    pub fn after(self, done: u64) -> MaskKey {
        let mut key = self.0;
        key.rotate_left((done % 4) as usize);
        MaskKey(key)
    }

    /// Masks or unmasks `payload` in place, which is the same operation.
    pub fn apply(self, payload: &mut [u8]) {
        // One 16-byte lane at a time: the compiler turns this into vector code, which a loop over
        // single bytes with `i % 4` does not become.
        let lane = self.lane::<16>();
        let mut chunks = payload.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for (byte, key) in chunk.iter_mut().zip(lane) {
                *byte ^= key;
            }
        }
        for (byte, key) in chunks.into_remainder().iter_mut().zip(lane) {
            *byte ^= key;
        }
    }

    /// Writes `payload` to `out`, masked: in one pass, since for a large one it is memory that counts.
    ///
    /// # Panics
    /// Where they are not of the same length.
    pub fn copy(self, payload: &[u8], out: &mut [MaybeUninit<u8>]) {
        assert_eq!(payload.len(), out.len(), "masked payload and its place differ in length");
        // Longer lanes than in `apply`, for longer payloads.
        let lane = self.lane::<64>();
        let mut to = out.chunks_exact_mut(64);
        let mut from = payload.chunks_exact(64);
        for (to, from) in to.by_ref().zip(from.by_ref()) {
            for ((to, from), key) in to.iter_mut().zip(from).zip(lane) {
                to.write(from ^ key);
            }
        }
        for ((to, from), key) in to.into_remainder().iter_mut().zip(from.remainder()).zip(lane) {
            to.write(from ^ key);
        }
    }

    /// Appends `payload` to `out`, masked.
    pub fn append(self, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(payload);
        self.apply(&mut out[start..]);
    }

    fn lane<const LEN: usize>(self) -> [u8; LEN] {
        std::array::from_fn(|i| self.0[i % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masking_is_the_xor_of_the_rfc_from_any_offset(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            key in any::<[u8; 4]>(),
            split in 0usize..200,
        ) {
            let expected: Vec<u8> =
                payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let split = split.min(payload.len());
            let mut masked = payload;
            let (head, tail) = masked.split_at_mut(split);
            MaskKey(key).apply(head);
            MaskKey(key).after(split as u64).apply(tail);
            prop_assert_eq!(masked, expected);
        }
    }
}
