//! `AnyEvent::WebSocket::Message` objects from events: blessed hashes of body and opcode (compat C2).

use std::ffi::c_int;
use std::ptr;

use libperl_sys::thx::{
    Perl_hv_common, Perl_newHV, Perl_newRV, Perl_newSV, Perl_newSViv, Perl_newSVpvn, Perl_sv_bless,
    Perl_sv_usepvn_flags,
};
use libperl_sys::{
    HV, HV_FETCH_ISSTORE, HV_FETCH_JUST_SV, PerlInterpreter, SV, SV_HAS_TRAILING_NUL, xpv,
};

use crate::ffi::abi::aews_event;
use crate::ffi::{aews_event_free, aews_event_take};

/// `aews_message_class` of `perl/shim/shim.h`.
#[repr(C)]
pub struct MessageClass {
    stash: *mut HV,
    body_key: *mut SV,
    opcode_key: *mut SV,
    adopt: c_int,
}

/// From this size on a block is adopted rather than copied: below it the copy is cheaper than a block
/// of its own size for as long as the message lives.
const ADOPT_LEN: usize = 256;

/// A message object for the event, which is used up: a reference that the caller owns.
///
/// # Safety
/// The interpreter is the current one; the event is one of the core's that tells a message; the class
/// has a stash and two keys that are shared-hash-key scalars.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aews_perl_message(
    my_perl: *mut PerlInterpreter,
    event: *mut aews_event,
    class: *const MessageClass,
) -> *mut SV {
    // SAFETY: as the caller vouches. None of these calls runs Perl code or throws, short of running
    // out of memory, which ends the program; and nothing in this frame would have to be dropped.
    unsafe {
        let class = &*class;
        let opcode = Perl_newSViv(my_perl, (*event).opcode.into());
        let body = payload(my_perl, event, class.adopt != 0);
        let hash = Perl_newHV(my_perl);
        for (key, value) in [(class.body_key, body), (class.opcode_key, opcode)] {
            store(my_perl, hash, key, value);
        }
        // Not Perl_newRV, which is an inline function without a symbol in later perls.
        let message = Perl_newRV(my_perl, hash.cast());
        (*hash).sv_refcnt -= 1;
        Perl_sv_bless(my_perl, message, class.stash)
    }
}

/// # Safety
/// As for [`aews_perl_message`]; the hash takes over the value.
unsafe fn store(my_perl: *mut PerlInterpreter, hash: *mut HV, key: *mut SV, value: *mut SV) {
    let action = (HV_FETCH_ISSTORE | HV_FETCH_JUST_SV) as c_int;
    // SAFETY: as the caller vouches. With a shared-hash-key scalar and a hash value of 0 perl takes
    // the hash value out of the scalar.
    unsafe { Perl_hv_common(my_perl, hash, key, ptr::null(), 0, 0, action, value, 0) };
}

/// The scalar with the event's payload. A large block becomes the scalar's own: it came from `malloc`,
/// as perl's memory does, and ends with a NUL.
///
/// # Safety
/// As for [`aews_perl_message`].
unsafe fn payload(my_perl: *mut PerlInterpreter, event: *mut aews_event, adopt: bool) -> *mut SV {
    // SAFETY: as the caller vouches; `data` and `len` are the event's until it is taken or freed.
    unsafe {
        let aews_event { data, len, size, .. } = *event;
        if adopt && size != 0 && len >= ADOPT_LEN {
            let scalar = Perl_newSV(my_perl, 0);
            let block = aews_event_take(event).cast();
            Perl_sv_usepvn_flags(my_perl, scalar, block, len, SV_HAS_TRAILING_NUL);
            // Perl takes the NUL for the end of the block. What is behind it lets scalars share the
            // string, and is needed to recycle the block.
            (*(*scalar).sv_any.cast::<xpv>()).xpv_len_u.xpvlenu_len = size;
            return scalar;
        }
        let scalar = Perl_newSVpvn(my_perl, data.cast(), len);
        aews_event_free(event);
        scalar
    }
}
