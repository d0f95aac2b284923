//! Settings: raw inputs, resolved once into the type the engine uses.
//!
//! Every setting has one name and three spellings: `--flush-bytes` on the command line,
//! `LAMBDALAKE_FLUSH_BYTES` in the environment, `flush_bytes` in the TOML file. A flag wins
//! over the environment, the environment over the file, the file over the default. All of
//! them are text until [`Settings::resolve`], so a value means the same wherever it stands
//! and a bad one gets the same message.
//!
//! The table below is the only place that defines a setting. The flags, the struct, the
//! documentation in [`SETTINGS`], the lookup of TOML keys and docs/settings.md are generated
//! from it; tests hold the page and the README to it.

pub mod document;
pub mod environment;
mod show;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use chrono_tz::Tz;

use crate::logging::{self, LogFormat};

/// What one setting is called, holds and does. For help, documentation and system tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// TOML key; the flag is this in kebab-case, the variable is `env`.
    pub name: &'static str,
    pub env: &'static str,
    /// As it would be written in a file; empty when there is none.
    pub default: &'static str,
    pub unit: &'static str,
    pub about: &'static str,
}

/// A setting with the value it has. All texts are as they would be written in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingValue {
    pub name: &'static str,
    pub value: String,
    pub default: &'static str,
    pub unit: &'static str,
    pub about: &'static str,
}

/// Why the settings cannot be used. All of them are for the operator to correct.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    #[error("the settings file is not valid TOML: {0}")]
    NotToml(String),
    #[error("unknown setting `{key}` in the settings file{hint}")]
    UnknownKey { key: String, hint: String },
    #[error("setting `{name}` from {source_name}: {reason}")]
    BadValue {
        name: &'static str,
        source_name: &'static str,
        reason: String,
    },
    #[error("settings contradict each other: {0}")]
    Contradiction(String),
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:tt])+
        $name:ident: $type:ty = $parse:ident($default:tt), unit $unit:tt, env $env:tt;
    )+) => {
        /// Every setting, resolved and checked. Sizes are bytes.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        /// Settings given on the command line or in the environment, not yet read.
        #[derive(Debug, Clone, Default, clap::Args)]
        #[command(next_help_heading = "Settings")]
        pub struct SettingsFlags {
            $(
                $(#[doc = $doc])+
                #[arg(long, env = $env, value_name = $unit, help = help(
                    concat!($($doc,)+),
                    $default,
                ))]
                pub $name: Option<String>,
            )+
        }

        /// Every setting in the order of the documentation.
        pub const SETTINGS: &[Setting] = &[
            $(Setting {
                name: stringify!($name),
                env: $env,
                default: $default,
                unit: $unit,
                about: concat!($($doc,)+).trim_ascii(),
            },)+
        ];

        impl Settings {
            /// Every setting with its value, in the order of [`SETTINGS`].
            pub fn describe(&self) -> Vec<SettingValue> {
                let values = [$(show::$parse(&self.$name),)+];
                SETTINGS
                    .iter()
                    .zip(values)
                    .map(|(setting, value)| SettingValue {
                        name: setting.name,
                        value,
                        default: setting.default,
                        unit: setting.unit,
                        about: setting.about,
                    })
                    .collect()
            }
        }

        fn parse_all(flags: &SettingsFlags, file: &toml::Table) -> Result<Settings, SettingsError> {
            Ok(Settings {
                $($name: read(
                    stringify!($name), flags.$name.as_deref(), file, $default, $parse,
                )?,)+
            })
        }
    };
}

settings! {
    /// Folder that holds everything: log, master dataset, views, publications.
    data_dir: PathBuf = path("./lambdalake-data"), unit "DIR", env "LAMBDALAKE_DATA_DIR";

    /// Address and port of the HTTP server.
    listen: SocketAddr = address("127.0.0.1:7700"), unit "ADDRESS", env "LAMBDALAKE_LISTEN";

    /// SQL script to run at every start, before the server takes traffic. Write its
    /// statements with IF NOT EXISTS.
    init: Option<PathBuf> = optional_path(""), unit "FILE", env "LAMBDALAKE_INIT";

    /// Whether the first batch sent to an unknown stream creates it.
    auto_create_streams: bool = boolean("true"), unit "BOOL",
        env "LAMBDALAKE_AUTO_CREATE_STREAMS";

    /// Shards of a stream whose definition does not say.
    default_shards: u32 = count("1"), unit "SHARDS", env "LAMBDALAKE_DEFAULT_SHARDS";

    /// A tail of this size is flushed to the master dataset.
    flush_bytes: usize = size("64MiB"), unit "BYTES", env "LAMBDALAKE_FLUSH_BYTES";

    /// A tail of this many rows is flushed.
    flush_rows: usize = count("500000"), unit "ROWS", env "LAMBDALAKE_FLUSH_ROWS";

    /// A tail whose oldest event has waited this long is flushed.
    flush_age: Duration = duration("60s"), unit "DURATION", env "LAMBDALAKE_FLUSH_AGE";

    /// Whether adjacent small files of the master dataset are merged in the background.
    merge_files: bool = boolean("true"), unit "BOOL", env "LAMBDALAKE_MERGE_FILES";

    /// A log segment of this size is closed and a new one begun.
    log_segment_bytes: u64 = size("64MiB"), unit "BYTES", env "LAMBDALAKE_LOG_SEGMENT_BYTES";

    /// Largest request body, as sent and after decompression. Beyond: 413.
    max_body_bytes: usize = size("16GiB"), unit "BYTES", env "LAMBDALAKE_MAX_BODY_BYTES";

    /// Large bodies are parsed and stored in blocks of about this size while they arrive; a
    /// body that fits one block is stored whole or not at all.
    ingest_block_bytes: usize = size("8MiB"), unit "BYTES", env "LAMBDALAKE_INGEST_BLOCK_BYTES";

    /// Longest single record. Beyond: that record is rejected with its line number.
    max_line_bytes: usize = size("16MiB"), unit "BYTES", env "LAMBDALAKE_MAX_LINE_BYTES";

    /// Requests that may wait for the writer of one stream. Beyond: 429.
    ingest_queue_requests: usize = count("256"), unit "REQUESTS",
        env "LAMBDALAKE_INGEST_QUEUE_REQUESTS";

    /// Most requests that share one fdatasync of the log.
    group_commit_requests: usize = count("64"), unit "REQUESTS",
        env "LAMBDALAKE_GROUP_COMMIT_REQUESTS";

    /// A request with an `Idempotency-Key` is recognised for this long when it is sent again.
    idempotency_window: Duration = duration("24h"), unit "DURATION",
        env "LAMBDALAKE_IDEMPOTENCY_WINDOW";

    /// Newest `Idempotency-Key`s of one stream that are recognised.
    idempotency_keys: usize = count("100000"), unit "KEYS", env "LAMBDALAKE_IDEMPOTENCY_KEYS";

    /// Memory pool of all queries together. They spill, then answer 422.
    query_memory_bytes: usize = size("512MiB"), unit "BYTES",
        env "LAMBDALAKE_QUERY_MEMORY_BYTES";

    /// Memory pool of all recomputes together. Beyond it, states spill to disk.
    batch_memory_bytes: usize = size("1GiB"), unit "BYTES",
        env "LAMBDALAKE_BATCH_MEMORY_BYTES";

    /// Bytes on disk that a recompute may write for a view whose states grow with the data (lists,
    /// distinct values). Beyond: it ends as `over_budget`, and the version before it stays.
    batch_states_bytes: u64 = size("1GiB"), unit "BYTES",
        env "LAMBDALAKE_BATCH_STATES_BYTES";

    /// Recomputes that run at a time; more of them wait, in the order in which they were asked
    /// for. Those of `recompute_shared_views` that share a pass count as one.
    recompute_concurrency: usize = count("1"), unit "RUNS",
        env "LAMBDALAKE_RECOMPUTE_CONCURRENCY";

    /// Views of one stream that are recomputed in one pass over its events, if they wait at the
    /// same time and their states fit into `batch_memory_bytes`. 1: each by itself.
    recompute_shared_views: usize = count("16"), unit "VIEWS",
        env "LAMBDALAKE_RECOMPUTE_SHARED_VIEWS";

    /// Zone of the times in `recompute = '0 3 * * *'`, for views without
    /// `recompute_time_zone`.
    recompute_time_zone: Tz = time_zone("UTC"), unit "ZONE",
        env "LAMBDALAKE_RECOMPUTE_TIME_ZONE";

    /// Recomputes that a clock starts wait up to this long, each view differently, so that not
    /// all begin at once.
    recompute_jitter: Duration = optional_duration("0s"), unit "DURATION",
        env "LAMBDALAKE_RECOMPUTE_JITTER";

    /// Whether recomputes that were due while the server was down are made up for, by one run
    /// of each view.
    recompute_catch_up: bool = boolean("true"), unit "BOOL",
        env "LAMBDALAKE_RECOMPUTE_CATCH_UP";

    /// Ended recomputes that are remembered; the last ones of each view stay beyond that.
    recompute_runs_kept: usize = count("1000"), unit "RUNS",
        env "LAMBDALAKE_RECOMPUTE_RUNS_KEPT";

    /// Memory pool of the speed layer: mapping new events and combining panes.
    speed_memory_bytes: usize = size("256MiB"), unit "BYTES",
        env "LAMBDALAKE_SPEED_MEMORY_BYTES";

    /// A query that runs longer is cancelled with 408.
    query_timeout: Duration = duration("60s"), unit "DURATION", env "LAMBDALAKE_QUERY_TIMEOUT";

    /// Most rows one answer may have. Beyond, the query fails; it is never cut short in
    /// silence.
    max_result_rows: u64 = count("10000000"), unit "ROWS", env "LAMBDALAKE_MAX_RESULT_ROWS";

    /// Queries that may run at the same time. Beyond: 429.
    max_concurrent_queries: usize = count("32"), unit "QUERIES",
        env "LAMBDALAKE_MAX_CONCURRENT_QUERIES";

    /// Unflushed events of one stream held in memory. Beyond: a request waits 2 s for a flush, then
    /// 429.
    tail_limit_bytes: usize = size("384MiB"), unit "BYTES", env "LAMBDALAKE_TAIL_LIMIT_BYTES";

    /// States of one tail part in a view whose states grow with the data. Beyond: 422; the stream stays healthy.
    view_state_budget_bytes: usize = size("256MiB"), unit "BYTES",
        env "LAMBDALAKE_VIEW_STATE_BUDGET_BYTES";

    /// A statement that takes longer is written to the log, with its text and what it read.
    slow_query: Duration = duration("5s"), unit "DURATION", env "LAMBDALAKE_SLOW_QUERY";

    /// Form of the log on stderr: text for people, json for collectors (one object per line).
    log_format: LogFormat = log_format("text"), unit "FORMAT", env "LAMBDALAKE_LOG_FORMAT";

    /// What is logged: error, warn, info, debug (a line per request), trace or off, or a list
    /// of directives such as warn,lambdalake_speed=debug.
    log_level: String = log_level("info"), unit "FILTER", env "LAMBDALAKE_LOG_LEVEL";
}

impl Settings {
    /// Resolves flags and environment over the text of the settings file over defaults.
    ///
    /// Errors are [`SettingsError`]s: they name the setting and where its value came from.
    pub fn resolve(flags: SettingsFlags, toml: Option<&str>) -> anyhow::Result<Settings> {
        let file = match toml {
            Some(text) => toml::from_str::<toml::Table>(text)
                .map_err(|error| SettingsError::NotToml(error.to_string()))?,
            None => toml::Table::new(),
        };
        reject_unknown_keys(&file)?;
        let settings = parse_all(&flags, &file)?;
        settings.check()?;
        Ok(settings)
    }

    /// Pairs of values that are each fine and together are not.
    fn check(&self) -> Result<(), SettingsError> {
        if self.max_line_bytes > self.max_body_bytes {
            return Err(SettingsError::Contradiction(format!(
                "`max_line_bytes` ({}) is larger than `max_body_bytes` ({})",
                ByteSize(self.max_line_bytes as u64),
                ByteSize(self.max_body_bytes as u64),
            )));
        }
        if self.flush_bytes > self.tail_limit_bytes {
            return Err(SettingsError::Contradiction(format!(
                "`flush_bytes` ({}) is larger than `tail_limit_bytes` ({}): ingest would stop \
                 before a flush begins",
                ByteSize(self.flush_bytes as u64),
                ByteSize(self.tail_limit_bytes as u64),
            )));
        }
        Ok(())
    }
}

/// Reads a size in bytes: `65536`, `64KiB`, `4MiB`, `1GB`.
pub fn size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let bytes = ByteSize::from_str(text)
        .map_err(|_| format!("`{text}` is not a size; write bytes or a unit, for example 64MiB"))?;
    if bytes.0 == 0 {
        return Err("must be larger than 0".to_owned());
    }
    T::try_from(bytes.0).map_err(|_| format!("`{text}` is too large for this machine"))
}

fn count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number: u64 = text
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{text}` is not a whole number"))?;
    if number == 0 {
        return Err("must be at least 1".to_owned());
    }
    T::try_from(number).map_err(|_| format!("`{text}` is too large"))
}

/// Reads a duration: `10s`, `5min`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration; write for example 10s or 5min"))?;
    if duration.is_zero() {
        return Err("must be longer than 0".to_owned());
    }
    Ok(duration)
}

fn optional_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("`{text}` is not a duration: {error}"))
}

fn time_zone(text: &str) -> Result<Tz, String> {
    let reason = || format!("`{text}` is not the name of a time zone such as Europe/Zurich or UTC");
    text.parse().map_err(|_| reason())
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is neither true nor false"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port; write for example 127.0.0.1:7700")
    })
}

fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither text nor json")),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    logging::filter(text).map(|_| text.to_owned())
}

/// One setting from the first source that has it. An empty flag or variable counts as not
/// given, so that `LAMBDALAKE_INIT=` unsets it.
fn read<T>(
    name: &'static str,
    flag: Option<&str>,
    file: &toml::Table,
    default: &str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, SettingsError> {
    let bad = |source_name| {
        move |reason| SettingsError::BadValue {
            name,
            source_name,
            reason,
        }
    };
    if let Some(text) = flag.filter(|text| !text.is_empty()) {
        return parse(text).map_err(bad("the command line or environment"));
    }
    if let Some(value) = file.get(name) {
        return text_of(value)
            .and_then(|text| parse(&text))
            .map_err(bad("the settings file"));
    }
    parse(default).map_err(bad("its default"))
}

fn text_of(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(value) => Ok(value.to_string()),
        other => Err(format!(
            "must be a string, a whole number, true or false, not a TOML {}",
            other.type_str()
        )),
    }
}

fn reject_unknown_keys(file: &toml::Table) -> Result<(), SettingsError> {
    let Some(key) = file
        .keys()
        .find(|key| SETTINGS.iter().all(|setting| setting.name != key.as_str()))
    else {
        return Ok(());
    };
    Err(SettingsError::UnknownKey {
        key: key.clone(),
        hint: nearest(key).map_or_else(String::new, |name| format!("; did you mean `{name}`?")),
    })
}

/// The known name most like `key`, if it is like one at all.
fn nearest(key: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.75; // Jaro-Winkler, 1.0 is equal; below this a hint misleads.
    SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(setting.name, key), setting.name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

fn help(about: &str, default: &str) -> String {
    match default {
        "" => about.trim().to_owned(),
        default => format!("{} [default: {default}]", about.trim()),
    }
}

#[cfg(test)]
mod tests;
