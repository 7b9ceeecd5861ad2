//! The CPU time a process, all its threads together, or the machine has used.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

/// The unit of `/proc/PID/stat`: Linux shows 100 ticks a second to user space
/// whatever rate the kernel itself runs at.
const NS_PER_TICK: u64 = 1_000_000_000 / 100;

#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// Nanoseconds from the scheduler.
    Schedstat,
    /// User plus system time in ticks of 10 ms, where the kernel keeps no
    /// schedstat.
    Stat,
}

impl Clock {
    pub fn name(self) -> &'static str {
        match self {
            Clock::Schedstat => "schedstat",
            Clock::Stat => "stat",
        }
    }
}

#[derive(Debug)]
pub struct CpuTime {
    pub pid: u32,
    pub clock: Clock,
}

impl CpuTime {
    pub fn of(pid: u32) -> Result<Self, String> {
        // A process that has started has used some time, so that zero means
        // a kernel that does not count.
        let clock = match schedstat_ns(pid) {
            Ok(1..) => Clock::Schedstat,
            _ => Clock::Stat,
        };
        let cpu_time = CpuTime { pid, clock };
        cpu_time.ns()?;
        Ok(cpu_time)
    }

    pub fn ns(&self) -> Result<u64, String> {
        match self.clock {
            Clock::Schedstat => schedstat_ns(self.pid),
            Clock::Stat => stat_ns(self.pid),
        }
    }

    /// The time once the process has gone to sleep: the scheduler adds the
    /// last stretch only then, and work that trails the last answer belongs
    /// to it.
    pub fn ns_at_rest(&self) -> Result<u64, String> {
        const PAUSE: Duration = Duration::from_millis(5);
        const PATIENCE: Duration = Duration::from_secs(1);
        let begin = Instant::now();
        let mut last = self.ns()?;
        loop {
            sleep(PAUSE);
            let now = self.ns()?;
            if now == last || begin.elapsed() > PATIENCE {
                return Ok(now);
            }
            last = now;
        }
    }
}

/// The time all processors were busy, or taken away by a hypervisor, in steps
/// of 10 ms.
pub fn of_all_ns() -> Result<u64, String> {
    const PATH: &str = "/proc/stat";
    let text = fs::read_to_string(PATH).map_err(|e| format!("{PATH}: {e}"))?;
    // user, nice, system, irq, softirq and steal; not idle and iowait.
    let ticks: Option<u64> = [1, 2, 3, 6, 7, 8].iter().map(|&i| field(&text, i)).sum();
    ticks.map(|ticks| ticks * NS_PER_TICK).ok_or_else(|| format!("{PATH}: no figures"))
}

fn schedstat_ns(pid: u32) -> Result<u64, String> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))? {
        let path = task.map_err(|e| format!("{tasks}: {e}"))?.path().join("schedstat");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        sum += field(&text, 0).ok_or_else(|| format!("{}: no figure", path.display()))?;
    }
    Ok(sum)
}

fn stat_ns(pid: u32) -> Result<u64, String> {
    Ok((stat_field(pid, 11)? + stat_field(pid, 12)?) * NS_PER_TICK)
}

/// A figure of `/proc/PID/stat`, counted from the one after the command's name.
pub fn stat_field(pid: u32, index: usize) -> Result<u64, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The name may hold blanks and parentheses; the last one ends it.
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    field(after_name, index).ok_or_else(|| format!("{path}: no figures"))
}

fn field(text: &str, index: usize) -> Option<u64> {
    text.split_ascii_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_agree_about_this_process() {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        let pid = std::process::id();
        let stat = stat_ns(pid).unwrap();
        let schedstat = schedstat_ns(pid).unwrap();
        assert!(stat > 0);
        assert!(stat.abs_diff(schedstat) < 150_000_000, "{stat} {schedstat}");
    }
}
