//! What Linux says of a process in `/proc`: processor time and resident memory.

use std::time::Duration;

/// The processor time a process has used, all its threads and those that have ended included. `None` if there is no such
/// process.
#[must_use]
pub fn processor_time(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&text)?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// A process's resident memory in bytes. `None` if there is no such process.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(resident_pages(&text)? * rustix::param::page_size() as u64)
}

/// utime and stime of `/proc/PID/stat`. The name before them may hold anything, also blanks and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // The third field of the line stands first here, utime is the fourteenth.
    let (user, system) = (fields.nth(11)?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 93 0 0 0 120 34 0 0 20 0 3 0 12945 1 2";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(resident_pages("90 12 3 4 0 5 0\n"), Some(12));
        assert_eq!(resident_pages(""), None);
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let pid = std::process::id();
        assert!(resident(pid).is_some_and(|bytes| bytes > 100_000));
        let before = processor_time(pid).unwrap();
        let start = std::time::Instant::now();
        while processor_time(pid) == Some(before) {
            assert!(start.elapsed() < Duration::from_secs(60), "no processor time in a minute of work");
        }
        assert!(processor_time(pid).unwrap() > before);
    }
}
