//! What a process says of itself: its build, its start, and what it takes from the machine.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
};

use crate::metrics::Metrics;

/// Registers all of it.
pub(super) fn register(service: &'static str, metrics: &Metrics) {
    let build = Family::<[(&str, &str); 2], Gauge>::default();
    build.get_or_create(&[("service", service), ("version", env!("CARGO_PKG_VERSION"))]).set(1);
    let start = Gauge::<i64>::default();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    start.set(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    metrics.register(|registry| {
        registry.register("weft_build_info", "Which build of which service this is; always 1", build);
        let help = "When the process started, in seconds since 1970";
        registry.register("weft_process_start_timestamp_seconds", help, start);
        registry.register_collector(Box::new(FromLinux));
    });
}

/// Read from `/proc/self` when somebody asks; absent where there is none.
#[derive(Debug)]
struct FromLinux;

impl Collector for FromLinux {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let help = "Memory of the process that is in RAM";
            gauge(&mut encoder, "weft_process_resident_memory_bytes", help, bytes)?;
        }
        if let Some(files) = open_files() {
            gauge(&mut encoder, "weft_process_open_files", "File descriptors that are open", files)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Processor time used, by user and system";
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor("weft_process_cpu_seconds", help, None, kind)?)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    let kind = gauge.metric_type();
    gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn open_files() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

fn cpu_seconds() -> Option<f64> {
    /// `USER_HZ`, which Linux has at 100 on every architecture that it shows to programs.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name stands in brackets and may hold spaces; user and system time are the 12th and 13th after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    Some((ticks(11)? + ticks(12)?) / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shows_its_build_and_what_it_takes() {
        let metrics = Metrics::default();
        register("tokenizer", &metrics);
        let page = metrics.encode();
        let build =
            format!(r#"weft_build_info{{service="tokenizer",version="{}"}} 1"#, env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&build), "{page}");
        for name in [
            "weft_process_resident_memory_bytes",
            "weft_process_open_files",
            "weft_process_cpu_seconds_total",
        ] {
            let line = page.lines().find(|line| line.starts_with(name)).unwrap();
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value >= 0.0, "{line}");
        }
        assert!(resident_bytes().unwrap() > 1_000_000);
        assert!(open_files().unwrap() >= 3);
    }
}
