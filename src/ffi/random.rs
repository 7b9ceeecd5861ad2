//! Random bytes for what Perl makes unpredictable: `aews_random`.

use std::mem::MaybeUninit;
use std::slice;

use super::abi::*;
use super::guard::ffi_fn;

ffi_fn! {
    fn aews_random(data: *mut u8, len: usize) -> aews_status,
    check() else AEWS_ERR_IO,
    {
        if data.is_null() {
            return if len == 0 { AEWS_OK } else { AEWS_ERR_NULL };
        }
        // SAFETY: the caller has room for `len` bytes there, which need not be initialized.
        let room = unsafe { slice::from_raw_parts_mut(data.cast::<MaybeUninit<u8>>(), len) };
        match getrandom::fill_uninit(room) {
            Ok(_) => AEWS_OK,
            Err(_) => AEWS_ERR_IO,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn all_of_the_room_is_filled_and_nothing_beyond() {
        let mut bytes = [0; 66];
        // SAFETY: there is room.
        assert_eq!(unsafe { aews_random(bytes[1..65].as_mut_ptr(), 64) }, AEWS_OK);
        assert_eq!((bytes[0], bytes[65]), (0, 0));
        // Five or more zeros in 64 bytes come once in a hundred thousand times, eight or more never.
        assert!(bytes[1..65].iter().filter(|&&byte| byte == 0).count() < 8, "{bytes:?}");
    }

    #[test]
    fn null_is_fine_where_nothing_is_wanted() {
        // SAFETY: nothing is written.
        unsafe {
            assert_eq!(aews_random(ptr::null_mut(), 0), AEWS_OK);
            assert_eq!(aews_random(ptr::null_mut(), 1), AEWS_ERR_NULL);
        }
    }
}
