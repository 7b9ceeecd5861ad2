//! How much memory there is, by AddressSanitizer's account, which sees what Rust allocates and what C does.
//! Without the sanitizer nothing is known.
#![allow(unsafe_code)]

/// Tells how much has come to be allocated since it was started.
pub struct Meter {
    #[cfg_attr(not(feature = "libfuzzer"), allow(dead_code))]
    start: isize,
}

/// What a meter says.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// What is allocated now, in bytes.
    pub held: isize,
    /// The most that was allocated at one time.
    pub peak: isize,
}

#[cfg(feature = "libfuzzer")]
mod hooks {
    use std::ffi::{c_int, c_void};
    use std::sync::Once;
    use std::sync::atomic::{AtomicIsize, Ordering};

    unsafe extern "C" {
        fn __sanitizer_install_malloc_and_free_hooks(
            on_malloc: extern "C" fn(*const c_void, usize),
            on_free: extern "C" fn(*const c_void),
        ) -> c_int;
        fn __sanitizer_get_allocated_size(memory: *const c_void) -> usize;
    }

    pub static HELD: AtomicIsize = AtomicIsize::new(0);
    pub static PEAK: AtomicIsize = AtomicIsize::new(0);
    static INSTALLED: Once = Once::new();

    extern "C" fn on_malloc(memory: *const c_void, size: usize) {
        if !memory.is_null() {
            let held = HELD.fetch_add(size as isize, Ordering::Relaxed) + size as isize;
            PEAK.fetch_max(held, Ordering::Relaxed);
        }
    }

    extern "C" fn on_free(memory: *const c_void) {
        if !memory.is_null() {
            // SAFETY: the memory is about to be freed, so it is still the allocator's.
            let size = unsafe { __sanitizer_get_allocated_size(memory) };
            HELD.fetch_sub(size as isize, Ordering::Relaxed);
        }
    }

    pub fn install() {
        INSTALLED.call_once(|| {
            // SAFETY: the hooks touch two atomics, allocate nothing and do not unwind.
            let installed =
                unsafe { __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) };
            assert_ne!(installed, 0, "the sanitizer takes no more hooks");
        });
    }
}

impl Meter {
    /// Starts to count.
    #[cfg(feature = "libfuzzer")]
    pub fn start() -> Meter {
        use std::sync::atomic::Ordering::Relaxed;
        hooks::install();
        let start = hooks::HELD.load(Relaxed);
        hooks::PEAK.store(start, Relaxed);
        Meter { start }
    }

    /// Starts nothing.
    #[cfg(not(feature = "libfuzzer"))]
    pub fn start() -> Meter {
        Meter { start: 0 }
    }

    /// What has come of it, where that is known.
    #[cfg(feature = "libfuzzer")]
    pub fn read(&self) -> Option<Reading> {
        use std::sync::atomic::Ordering::Relaxed;
        let since = |now: isize| now - self.start;
        Some(Reading {
            held: since(hooks::HELD.load(Relaxed)),
            peak: since(hooks::PEAK.load(Relaxed)),
        })
    }

    /// Nothing is known.
    #[cfg(not(feature = "libfuzzer"))]
    pub fn read(&self) -> Option<Reading> {
        None
    }

    /// Asserts that no more than this is allocated now.
    #[track_caller]
    pub fn assert_held(&self, allowed: usize, what: &str) {
        if let Some(Reading { held, .. }) = self.read() {
            assert!(held <= allowed as isize, "{what}: {held} bytes are held, {allowed} allowed");
        }
    }

    /// Asserts that there never was more.
    #[track_caller]
    pub fn assert_peak(&self, allowed: usize, what: &str) {
        if let Some(Reading { peak, .. }) = self.read() {
            assert!(
                peak <= allowed as isize,
                "{what}: {peak} bytes at the peak, {allowed} allowed"
            );
        }
    }
}
