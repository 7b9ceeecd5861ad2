//! What a process asks of the machine's memory.

use std::fs;

use crate::cpu_time::stat_field;

/// Page faults for which nothing had to be read from a disk.
pub fn minor_faults(pid: u32) -> Result<u64, String> {
    stat_field(pid, 7)
}

/// Bytes in main memory. The kernel's cheaper figures lag behind by some pages
/// for each processor; this one is summed up when asked for.
pub fn resident(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.parse().ok())
        .map(|kib: u64| kib << 10)
        .ok_or_else(|| format!("{path}: no figure"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_seen() {
        const BYTES: u64 = 64 << 20;
        let pid = std::process::id();
        let (faults, before) = (minor_faults(pid).unwrap(), resident(pid).unwrap());
        let touched = std::hint::black_box(vec![1u8; BYTES as usize]);
        let grown = resident(pid).unwrap() - before;
        assert!((BYTES..BYTES + BYTES / 4).contains(&grown), "{grown}");
        assert!(minor_faults(pid).unwrap() > faults);
        drop(touched);
    }
}
