//! What is told of every process, under the names that all of Prometheus' libraries use.

use std::fmt;
use std::sync::OnceLock;

use procfs::process::{LimitValue, Process};

use crate::{Families, Kind, Metric};

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels: &[], help }
}

static CPU: Metric = Metric {
    name: "process_cpu_seconds_total",
    kind: Kind::Counter,
    labels: &[],
    help: "CPU time used, in user and kernel mode.",
};
static RESIDENT: Metric = gauge("process_resident_memory_bytes", "Memory in use that is not swapped out.");
static VIRTUAL: Metric = gauge("process_virtual_memory_bytes", "Addresses in use.");
static THREADS: Metric = gauge("process_threads", "Threads.");
static OPEN_FDS: Metric = gauge("process_open_fds", "File descriptors in use.");
static MAX_FDS: Metric = gauge("process_max_fds", "File descriptors there may be at once.");
static STARTED: Metric =
    gauge("process_start_time_seconds", "When the process started, seconds since 1970 UTC.");

/// All of them. A figure that the system does not tell is left out.
pub static METRICS: [&Metric; 7] = [&CPU, &RESIDENT, &VIRTUAL, &THREADS, &OPEN_FDS, &MAX_FDS, &STARTED];

/// Writes them, of this process, as they are now.
///
/// # Errors
/// Those of the writer.
pub fn write(families: &mut Families<'_>) -> fmt::Result {
    let own = Process::myself().ok();
    let stat = own.as_ref().and_then(|own| own.stat().ok());
    let ticks = procfs::ticks_per_second() as f64;
    let fds = own.and_then(|own| own.fd_count().ok());
    let limit = most_descriptors().map(|most| most as f64);
    let of_stat = |figure: fn(&procfs::process::Stat) -> f64| stat.as_ref().map(figure);
    let figures = [
        (&CPU, of_stat(|stat| (stat.utime + stat.stime) as f64).map(|used| used / ticks)),
        (&RESIDENT, of_stat(|stat| stat.rss as f64).map(|pages| pages * procfs::page_size() as f64)),
        (&VIRTUAL, of_stat(|stat| stat.vsize as f64)),
        (&THREADS, of_stat(|stat| stat.num_threads as f64)),
        (&OPEN_FDS, fds.map(|fds| fds as f64)),
        (&MAX_FDS, limit),
        (
            &STARTED,
            of_stat(|stat| stat.starttime as f64).zip(booted()).map(|(after, boot)| boot + after / ticks),
        ),
    ];
    for (metric, figure) in figures {
        let mut samples = families.begin(metric)?;
        if let Some(figure) = figure {
            samples.add(&[], figure)?;
        }
    }
    Ok(())
}

/// How many descriptors this process may have open; `None` if there is no limit, or the system does not tell.
#[must_use]
pub fn most_descriptors() -> Option<u64> {
    match Process::myself().ok()?.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(most) => Some(most),
        LimitValue::Unlimited => None,
    }
}

/// When the machine was started, seconds since 1970. Read once: it takes longer than all the others.
fn booted() -> Option<f64> {
    static BOOTED: OnceLock<Option<f64>> = OnceLock::new();
    *BOOTED.get_or_init(|| procfs::boot_time_secs().ok().map(|seconds| seconds as f64))
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::{Figures, Format, render};

    #[derive(Debug)]
    struct Own;

    impl Figures for Own {
        fn write(&self, families: &mut Families<'_>) -> fmt::Result {
            write(families)
        }
    }

    fn figure(name: &str) -> f64 {
        let text = render(Format::Prometheus, Own).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    #[test]
    fn the_figures_are_those_of_this_process() {
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let (before, open) = (figure("process_cpu_seconds_total"), figure("process_open_fds"));
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 5_000 && figure("process_cpu_seconds_total") < before + 0.05 {}
        assert!(figure("process_cpu_seconds_total") >= before + 0.05);
        assert!(open >= 50.0 && open < figure("process_max_fds"));
        drop(files);
        assert!(figure("process_resident_memory_bytes") > 500_000.0);
        assert!(figure("process_virtual_memory_bytes") > figure("process_resident_memory_bytes"));
        assert!(figure("process_threads") >= 1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - figure("process_start_time_seconds");
        assert!((-2.0..3_600.0).contains(&age), "{age} s old");
    }

    #[test]
    fn all_of_them_are_listed() {
        let text = render(Format::Prometheus, Own).unwrap();
        let types: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(types, METRICS.map(|metric| metric.name));
    }
}
