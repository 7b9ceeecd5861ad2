//! What stands between C and Rust: null checks, caught panics, stored errors.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use super::abi::{AEWS_ERR_MISUSE, AEWS_ERR_PANIC, aews_conn, aews_status};
use crate::connection::Connection;

/// What an `aews_conn` is.
pub struct Conn {
    pub connection: Connection,
    /// See `aews_conn_error`. Nothing is allocated until there is an error.
    pub error: CString,
}

impl Conn {
    /// Notes an error of the program.
    pub fn misuse(&mut self, text: impl ToString) -> aews_status {
        self.error = c_text(text.to_string());
        AEWS_ERR_MISUSE
    }

    /// The connection behind the pointer that C holds, unless that is NULL.
    ///
    /// # Safety
    /// The pointer is NULL or came from `aews_conn_new` and has not been freed, and nobody else uses
    /// the connection for as long as the reference lives.
    pub unsafe fn from_ptr<'a>(conn: *mut aews_conn) -> Option<&'a mut Conn> {
        // SAFETY: `aews_conn_new` made the pointer from a boxed `Conn`; the caller vouches for the
        // rest.
        NonNull::new(conn.cast::<Conn>()).map(|mut conn| unsafe { conn.as_mut() })
    }

    /// As [`from_ptr`](Self::from_ptr), for looking only.
    ///
    /// # Safety
    /// As there, but others may look too.
    pub unsafe fn from_const_ptr<'a>(conn: *const aews_conn) -> Option<&'a Conn> {
        // SAFETY: as in `from_ptr`.
        NonNull::new(conn.cast_mut().cast::<Conn>()).map(|conn| unsafe { conn.as_ref() })
    }
}

fn c_text(text: String) -> CString {
    CString::new(text.replace('\0', "\u{FFFD}")).expect("no NUL is left")
}

/// Runs what a function does with a connection. A panic leaves the connection in an unknown state, so
/// it is started over as a failed one; nothing else is affected.
pub fn with_conn(conn: &mut Conn, body: impl FnOnce(&mut Conn) -> aews_status) -> aews_status {
    catch_unwind(AssertUnwindSafe(|| body(conn))).unwrap_or_else(|panic| {
        let what = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(what), _) => what,
            (_, Some(what)) => what.as_str(),
            _ => "panic",
        };
        let text = format!("internal error: {what}");
        conn.error = c_text(text.clone());
        // Without a Close frame, if that cannot be made either.
        let _ = catch_unwind(AssertUnwindSafe(|| conn.connection.poison(text)));
        AEWS_ERR_PANIC
    })
}

/// Runs what a function does without a connection.
pub fn without_conn<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

/// Exports a function of `perl/aews.h`. NULL in a pointer argument named behind `check` ends the call
/// with the value behind `else`; so does a panic where there is no connection to blame.
macro_rules! ffi_fn {
    (
        fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $return:ty)?,
        check($($checked:ident),*) $(else $failed:expr)?,
        $body:expr
    ) => {
        /// See `perl/aews.h`.
        ///
        /// # Safety
        /// As `perl/aews.h` says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) $(-> $return)? {
            if false $(|| $checked.is_null())* {
                return $($failed)?;
            }
            $crate::ffi::guard::without_conn(ffi_fn!(@value $($failed)?), || $body)
        }

        const _: () = {
            let _same_type = [$crate::ffi::declared::$name, $name];
        };
    };
    (@value) => { () };
    (@value $value:expr) => { $value };
}

pub(super) use ffi_fn;
