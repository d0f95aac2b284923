//! Resolved values as text, written the way they would be in a file. Each function is the way
//! back of the one in `settings.rs` with its name.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use chrono_tz::Tz;

use crate::logging::LogFormat;

/// Exact: a size that is no whole number of a unit is written in bytes.
pub(super) fn size<T: Copy + TryInto<u64>>(bytes: &T) -> String {
    // Sizes are read from a u64, so they fit into one again.
    let bytes = (*bytes).try_into().unwrap_or(u64::MAX);
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1_u64 << 10)];
    let whole = units
        .iter()
        .find(|(_, unit)| bytes % unit == 0 && bytes > 0);
    match whole {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => ByteSize(bytes).0.to_string(),
    }
}

pub(super) fn count<T: ToString>(count: &T) -> String {
    count.to_string()
}

pub(super) fn duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

pub(super) fn optional_duration(duration: &Duration) -> String {
    self::duration(duration)
}

pub(super) fn time_zone(zone: &Tz) -> String {
    zone.name().to_owned()
}

pub(super) fn boolean(value: &bool) -> String {
    value.to_string()
}

pub(super) fn address(address: &SocketAddr) -> String {
    address.to_string()
}

pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn optional_path(path: &Option<PathBuf>) -> String {
    path.as_deref().map_or_else(String::new, self::path)
}

pub(super) fn log_format(format: &LogFormat) -> String {
    format.to_string()
}

pub(super) fn log_level(level: &str) -> String {
    level.to_owned()
}
