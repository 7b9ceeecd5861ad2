//! The targets without a fuzzer: with their seeds and what is near them, and with the inputs of `regressions/`, each of
//! which once was a finding.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use aews_fuzz::seeds::seeds;
use aews_fuzz::target::TARGETS;

/// Inputs near this one: its beginnings, and with a byte changed.
fn near(input: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![];
    for at in 0..input.len() {
        all.push(input[..at].to_vec());
        for byte in [input[at] ^ 1, input[at] ^ 0x10, input[at] ^ 0x80, 0, 0xFF] {
            let mut changed = input.to_vec();
            changed[at] = byte;
            all.push(changed);
        }
    }
    all
}

fn seeds_and_what_is_near(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let seeds = seeds(target);
    assert!(seeds.len() >= 10, "{} seeds", seeds.len());
    for seed in seeds {
        for input in std::iter::once(seed.clone()).chain(near(&seed)) {
            if catch_unwind(|| run(&input)).is_err() {
                panic!("{target} with {input:02X?}");
            }
        }
    }
}

macro_rules! seeds_and_what_is_near {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                seeds_and_what_is_near(stringify!($target));
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

seeds_and_what_is_near!(decoder connection pair deflate handshake abi);

#[test]
fn regressions() {
    for (target, run) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
        // A target without findings has no directory.
        let Ok(files) = fs::read_dir(directory) else { continue };
        for file in files {
            let path = file.expect("an entry").path();
            let input = fs::read(&path).expect("an input");
            if catch_unwind(|| run(&input)).is_err() {
                panic!("{}", path.display());
            }
        }
    }
}
