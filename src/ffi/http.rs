//! The two halves of an opening handshake: `aews_request_read`, `aews_response_parse`.

use std::ptr;

use super::abi::*;
use super::conn::bytes;
use super::guard::ffi_fn;
use crate::handshake;

fn slice(bytes: &[u8]) -> aews_slice {
    aews_slice { data: bytes.as_ptr(), len: bytes.len() }
}

const NOTHING: aews_slice = aews_slice { data: ptr::null(), len: 0 };

ffi_fn! {
    fn aews_request_read(data: *const u8, len: usize, request: *mut aews_request) -> aews_status,
    check(request) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's bytes.
        let Some(bytes) = (unsafe { bytes(data, len) }) else {
            return AEWS_ERR_NULL;
        };
        let Some(read) = handshake::read(bytes) else {
            return AEWS_ERR_MALFORMED;
        };
        let read = aews_request {
            key: slice(read.key.as_bytes()),
            protocols: read.protocols.map_or(NOTHING, slice),
            extensions: read.extensions.map_or(NOTHING, slice),
        };
        // SAFETY: not NULL, so the caller's to be written.
        unsafe { request.write(read) };
        AEWS_OK
    }
}

ffi_fn! {
    fn aews_response_parse(
        data: *const u8,
        len: usize,
        response: *mut aews_response,
    ) -> aews_status,
    check(response) else AEWS_ERR_NULL,
    {
        // SAFETY: the caller's bytes.
        let Some(bytes) = (unsafe { bytes(data, len) }) else {
            return AEWS_ERR_NULL;
        };
        let mut parsed = aews_response {
            minor_version: 0,
            status: 0,
            reason: NOTHING,
            len: 0,
            header_count: 0,
            headers: [aews_header { name: NOTHING, value: NOTHING }; AEWS_HEADERS_MAX as usize],
        };
        let status = parse(bytes, &mut parsed);
        // SAFETY: not NULL, so the caller's to be written.
        unsafe { response.write(parsed) };
        status
    }
}

fn parse(bytes: &[u8], parsed: &mut aews_response) -> aews_status {
    let mut headers = [httparse::EMPTY_HEADER; AEWS_HEADERS_MAX as usize];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => {
            parsed.len = len;
            parsed.minor_version = response.version.unwrap_or(0).into();
            parsed.status = response.code.unwrap_or(0).into();
            parsed.reason = slice(response.reason.unwrap_or("").as_bytes());
            parsed.header_count = response.headers.len();
            for (to, header) in parsed.headers.iter_mut().zip(response.headers) {
                *to =
                    aews_header { name: slice(header.name.as_bytes()), value: slice(header.value) };
            }
            AEWS_OK
        }
        Ok(httparse::Status::Partial) => AEWS_AGAIN,
        Err(error) => {
            parsed.reason = slice(text(error).as_bytes());
            AEWS_ERR_MALFORMED
        }
    }
}

fn text(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "an invalid header name",
        httparse::Error::HeaderValue => "an invalid header value",
        httparse::Error::NewLine => "an invalid line end",
        httparse::Error::Status => "an invalid status",
        httparse::Error::Token => "an invalid status line",
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "an invalid HTTP version",
    }
}
