//! Amounts as people read them.

use std::time::Duration;

/// A span of time with three digits or so: `870µs`, `12.3ms`, `4.56s`, `3m20s`, `5h07m`, `2d03h`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match time.as_secs_f64() {
        s if s < 0.001 => format!("{}µs", time.as_micros()),
        s if s < 0.1 => format!("{:.1}ms", s * 1e3),
        s if s < 1.0 => format!("{:.0}ms", s * 1e3),
        s if s < 10.0 => format!("{s:.2}s"),
        s if s < 60.0 => format!("{s:.1}s"),
        _ if seconds < 3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Bytes in binary units: `512 B`, `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// A count in decimal units: `134.5M`.
pub(crate) fn count(count: u64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G", "T"])
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn scaled(amount: u64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (amount as f64, 0);
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{amount}{}", units[0]) } else { format!("{value:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_about_three_digits() {
        let shown = [0.00087, 0.0123, 0.87, 4.56, 42.0, 200.0, 18_420.0, 183_600.0];
        let shown = shown.map(|seconds| time(Duration::from_secs_f64(seconds)));
        assert_eq!(shown, ["870µs", "12.3ms", "870ms", "4.56s", "42.0s", "3m20s", "5h07m", "2d03h"]);
    }

    #[test]
    fn amounts_take_the_unit_that_fits() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(count(134_515_008), "134.5M");
        assert_eq!(count(7), "7");
    }
}
