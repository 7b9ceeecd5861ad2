//! permessage-deflate: `aews_deflate_*`, `aews_conn_use_extensions`.

use std::ffi::{c_char, c_int};

use super::abi::*;
use super::conn::bytes;
use super::guard::{Conn, ffi_fn, with_conn};
use crate::connection::Role;
use crate::extension::deflate::{Config, LEVELS};
use crate::extension::header::Malformed;
use crate::extension::negotiation::{self, Parameters, Refused, WINDOW_BITS};

ffi_fn! {
    fn aews_deflate_init(deflate: *mut aews_deflate) -> aews_status,
    check(deflate) else AEWS_ERR_NULL,
    {
        let parameters = Parameters::default();
        let config = Config::new(Role::Client, &parameters);
        // SAFETY: not NULL, so the caller's to be written.
        unsafe {
            deflate.write(aews_deflate {
                server_no_context_takeover: parameters.server_no_context_takeover.into(),
                client_no_context_takeover: parameters.client_no_context_takeover.into(),
                server_max_window_bits: parameters.server_max_window_bits.into(),
                client_max_window_bits: parameters.client_max_window_bits.into(),
                level: config.level.into(),
                threshold: config.threshold,
            });
        }
        AEWS_OK
    }
}

/// The parameters and the level, where they can be.
fn wished(deflate: &aews_deflate) -> Option<(Parameters, u8)> {
    let bits = |bits: c_int| u8::try_from(bits).ok().filter(|bits| WINDOW_BITS.contains(bits));
    let parameters = Parameters {
        server_no_context_takeover: deflate.server_no_context_takeover != 0,
        client_no_context_takeover: deflate.client_no_context_takeover != 0,
        server_max_window_bits: bits(deflate.server_max_window_bits)?,
        client_max_window_bits: bits(deflate.client_max_window_bits)?,
    };
    let level = u8::try_from(deflate.level).ok().filter(|level| LEVELS.contains(level))?;
    Some((parameters, level))
}

/// A header's value as text, which it is where it follows the grammar.
fn header(value: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(value).map_err(|error| Malformed(error.valid_up_to()).into())
}

/// Writes a text of ours, none of which is longer than the parameters with their values.
///
/// # Safety
/// There is room for `AEWS_EXTENSIONS_LEN` bytes at `to`.
unsafe fn write_text(to: *mut c_char, text: &str) {
    assert!(text.len() < AEWS_EXTENSIONS_LEN as usize);
    // SAFETY: the text and a NUL fit, as was just seen.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
}

ffi_fn! {
    fn aews_deflate_offer(wish: *const aews_deflate, text: *mut c_char) -> aews_status,
    check(wish, text) else AEWS_ERR_NULL,
    {
        // SAFETY: not NULL, so the caller's, and initialised.
        let Some((wish, _)) = wished(unsafe { &*wish }) else {
            return AEWS_ERR_MISUSE;
        };
        // SAFETY: not NULL, so there is the room that the header asks for.
        unsafe { write_text(text, &negotiation::offer(&wish)) };
        AEWS_OK
    }
}

ffi_fn! {
    fn aews_deflate_answer(
        offer: *const c_char,
        len: usize,
        wish: *const aews_deflate,
        text: *mut c_char,
    ) -> aews_status,
    check(wish, text) else AEWS_ERR_NULL,
    {
        // SAFETY: not NULL, so the caller's, and initialised; and the caller's bytes.
        let (wish, offer) = unsafe { (wished(&*wish), bytes(offer.cast(), len)) };
        let Some(offer) = offer else {
            return AEWS_ERR_NULL;
        };
        let Some((wish, _)) = wish else {
            return AEWS_ERR_MISUSE;
        };
        let (status, answer) = match header(offer).and_then(|offer| negotiation::answer(offer, &wish)) {
            Ok(Some(answer)) => (AEWS_OK, answer),
            Ok(None) => return AEWS_AGAIN,
            Err(refused) => (AEWS_ERR_MALFORMED, refused.to_string()),
        };
        // SAFETY: not NULL, so there is the room that the header asks for.
        unsafe { write_text(text, &answer) };
        status
    }
}

ffi_fn! {
    fn aews_conn_use_extensions(
        conn: *mut aews_conn,
        agreed: *const c_char,
        len: usize,
        wish: *const aews_deflate,
    ) -> aews_status,
    check(conn, wish) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection and bytes, and not NULL, so the caller's and initialised.
        let (conn, agreed, deflate) =
            unsafe { (Conn::from_ptr(conn), bytes(agreed.cast(), len), &*wish) };
        let (Some(conn), Some(agreed)) = (conn, agreed) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| use_extensions(conn, agreed, deflate))
    }
}

fn use_extensions(conn: &mut Conn, agreed: &[u8], deflate: &aews_deflate) -> aews_status {
    let Some((wish, level)) = wished(deflate) else {
        return conn.misuse("these are no parameters of permessage-deflate");
    };
    let Some(role) = conn.connection.role() else {
        return conn.misuse("an extension needs a role");
    };
    let wish = match role {
        Role::Client => wish,
        // What a server says is what is agreed upon.
        Role::Server => Parameters::default(),
    };
    match header(agreed).and_then(|agreed| negotiation::accept(agreed, &wish)) {
        Ok(Some(agreed)) => {
            let config = Config::new(role, &agreed);
            conn.connection.use_deflate(&Config { level, threshold: deflate.threshold, ..config });
            AEWS_OK
        }
        Ok(None) => AEWS_AGAIN,
        Err(refused) => conn.misuse(refused),
    }
}

ffi_fn! {
    fn aews_conn_release_compressor(conn: *mut aews_conn) -> aews_status,
    check(conn) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's connection.
        let Some(conn) = (unsafe { Conn::from_ptr(conn) }) else {
            return AEWS_ERR_NULL;
        };
        with_conn(conn, |conn| {
            conn.connection.release_compressor();
            AEWS_OK
        })
    }
}
