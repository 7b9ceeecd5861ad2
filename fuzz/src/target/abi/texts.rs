//! What needs no connection.

use std::ffi::{CStr, c_int};
use std::mem;

use aews::ffi::abi::*;
use aews::ffi::*;

use crate::source::Source;

/// A wish, and whether it can be.
pub fn wish(source: &mut Source<'_>) -> (aews_deflate, bool) {
    // SAFETY: all-zero is a valid wish as far as memory goes, and it is filled in at once.
    let mut wish: aews_deflate = unsafe { mem::zeroed() };
    // SAFETY: the wish is a local.
    assert_eq!(unsafe { aews_deflate_init(&mut wish) }, AEWS_OK);
    let bits = source.byte();
    if bits & 1 != 0 {
        let mut number = || c_int::from(source.byte() as i8 % 20);
        wish.server_max_window_bits = number();
        wish.client_max_window_bits = number();
        wish.level = number();
    }
    wish.threshold = usize::from(bits >> 4);
    wish.server_no_context_takeover = c_int::from(bits & 2);
    wish.client_no_context_takeover = c_int::from(bits & 4);
    let windows = [wish.server_max_window_bits, wish.client_max_window_bits];
    let valid = windows.iter().all(|bits| (8..=15).contains(bits)) && (0..=9).contains(&wish.level);
    (wish, valid)
}

/// Offers and answers for any wish, random bytes, versions.
pub fn texts(source: &mut Source<'_>) {
    let (wish, valid) = wish(source);
    let offer = source.payload();
    // SAFETY: all pointers are to locals.
    unsafe {
        let mut text = [0x55; AEWS_EXTENSIONS_LEN as usize];
        let status = aews_deflate_offer(&wish, text.as_mut_ptr());
        assert_eq!(status, if valid { AEWS_OK } else { AEWS_ERR_MISUSE }, "offer");
        if valid {
            let offer = CStr::from_ptr(text.as_ptr()).to_str().expect("an offer in UTF-8");
            assert!(offer.starts_with("permessage-deflate; "), "{offer}");
        }
        let mut text = [0x55; AEWS_EXTENSIONS_LEN as usize];
        let status =
            aews_deflate_answer(offer.as_ptr().cast(), offer.len(), &wish, text.as_mut_ptr());
        let documented =
            if valid { [AEWS_OK, AEWS_AGAIN, AEWS_ERR_MALFORMED] } else { [AEWS_ERR_MISUSE; 3] };
        assert!(documented.contains(&status), "answer: {status}");
        if status == AEWS_OK || status == AEWS_ERR_MALFORMED {
            let text = CStr::from_ptr(text.as_ptr()).to_str().expect("an answer in UTF-8");
            assert!(!text.is_empty());
        }
        let mut random = [0; 8];
        assert_eq!(aews_random(random.as_mut_ptr(), random.len()), AEWS_OK);
        assert_eq!(aews_abi_version(), AEWS_ABI_VERSION);
        assert_eq!(aews_process_generation(), aews_process_generation());
    }
}
