//! What XSLoader looks up.

use libperl_sys::CV;
#[cfg(perl_multiplicity)]
use libperl_sys::PerlInterpreter;

/// Perls without multiplicity do not pass the interpreter, since there is but one.
macro_rules! boot_function {
    ($($interpreter:ident: $type:ty)?) => {
        unsafe extern "C" {
            /// The boot function that xsubpp made, which the build has renamed: C symbols of a Rust
            /// library are hidden.
            fn aews_boot_shim($($interpreter: $type,)? cv: *mut CV);
        }

        /// Starts the library in an interpreter.
        ///
        /// # Safety
        /// As for any XSUB: called by the interpreter, with its argument stack set up.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn boot_AnyEvent__WebSocket__Connection(
            $($interpreter: $type,)?
            cv: *mut CV,
        ) {
            // SAFETY: passed on as it came. Where the boot function croaks, it leaves this frame
            // without unwinding it, and there is nothing in it to drop.
            unsafe { aews_boot_shim($($interpreter,)? cv) }
        }
    };
}

#[cfg(perl_multiplicity)]
boot_function!(my_perl: *mut PerlInterpreter);
#[cfg(not(perl_multiplicity))]
boot_function!();
