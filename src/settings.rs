//! Settings: raw inputs, resolved once into the type the engine uses.
//!
//! Every setting has one name and three spellings: `--flush-bytes` on the command line,
//! `LAMBDALAKE_FLUSH_BYTES` in the environment, `flush_bytes` in the TOML file. A flag wins
//! over the environment, the environment over the file, the file over the default. All of
//! them are text until [`Settings::resolve`], so a value means the same wherever it stands
//! and a bad one gets the same message.
//!
//! The table below is the only place that defines a setting. The flags, the struct, the
//! documentation in [`SETTINGS`] and the lookup of TOML keys are generated from it; a test
//! holds the table in the README to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

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
            /// Every setting and the value that holds, as it would be written in a file;
            /// `None` if nothing is set.
            pub fn values(&self) -> Vec<(&'static Setting, Option<String>)> {
                let values = [$({
                    let is_default = $parse($default).as_ref() == Ok(&self.$name);
                    if is_default { $default.to_owned() } else { self.$name.written($unit) }
                },)+];
                let values = values.into_iter().map(|value| Some(value).filter(|v| !v.is_empty()));
                SETTINGS.iter().zip(values).collect()
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

    /// A log segment of this size is closed and a new one begun.
    log_segment_bytes: u64 = size("64MiB"), unit "BYTES", env "LAMBDALAKE_LOG_SEGMENT_BYTES";

    /// Largest request body, as sent and after decompression. Beyond: 413.
    max_body_bytes: usize = size("256MiB"), unit "BYTES", env "LAMBDALAKE_MAX_BODY_BYTES";

    /// Longest single record. Beyond: that record is rejected with its line number.
    max_line_bytes: usize = size("16MiB"), unit "BYTES", env "LAMBDALAKE_MAX_LINE_BYTES";

    /// Requests that may wait for the writer of one stream. Beyond: 429.
    ingest_queue_requests: usize = count("256"), unit "REQUESTS",
        env "LAMBDALAKE_INGEST_QUEUE_REQUESTS";

    /// Most requests that share one fdatasync of the log.
    group_commit_requests: usize = count("64"), unit "REQUESTS",
        env "LAMBDALAKE_GROUP_COMMIT_REQUESTS";

    /// Memory pool of all queries together. They spill, then answer 422.
    query_memory_bytes: usize = size("512MiB"), unit "BYTES",
        env "LAMBDALAKE_QUERY_MEMORY_BYTES";

    /// Memory pool of a recompute. Beyond it, states spill to disk.
    batch_memory_bytes: usize = size("512MiB"), unit "BYTES",
        env "LAMBDALAKE_BATCH_MEMORY_BYTES";

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

    /// Unflushed events of one stream held in memory. Beyond: 429 until a flush has caught
    /// up.
    tail_limit_bytes: usize = size("512MiB"), unit "BYTES", env "LAMBDALAKE_TAIL_LIMIT_BYTES";

    /// States of one tail part in a view whose states grow with the data. Beyond: 422; the stream stays healthy.
    view_state_budget_bytes: usize = size("256MiB"), unit "BYTES",
        env "LAMBDALAKE_VIEW_STATE_BUDGET_BYTES";
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

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration; write for example 10s or 5min"))?;
    if duration.is_zero() {
        return Err("must be longer than 0".to_owned());
    }
    Ok(duration)
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

/// A value as it would be written in the settings file.
trait Written {
    fn written(&self, unit: &str) -> String;
}

macro_rules! written_as_number {
    ($($type:ty),+) => {$(
        impl Written for $type {
            fn written(&self, unit: &str) -> String {
                let number = *self as u64;
                let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
                let whole = units.iter().find(|(_, bits)| number.trailing_zeros() >= *bits);
                match whole {
                    Some((name, bits)) if unit == "BYTES" => format!("{}{name}", number >> bits),
                    _ => number.to_string(),
                }
            }
        }
    )+};
}

macro_rules! written_as_text {
    ($($type:ty: $to_text:expr),+ $(,)?) => {$(
        impl Written for $type {
            fn written(&self, _unit: &str) -> String {
                let to_text: fn(&$type) -> String = $to_text;
                to_text(self)
            }
        }
    )+};
}

written_as_number!(u32, u64, usize);
written_as_text!(
    bool: |value| value.to_string(),
    SocketAddr: |value| value.to_string(),
    PathBuf: |value| value.display().to_string(),
    Option<PathBuf>: |value| value.as_ref().map_or_else(String::new, |it| it.written("")),
    Duration: |value| humantime::format_duration(*value).to_string(),
);

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
mod tests {
    use clap::{Args, Parser};

    use super::*;

    fn resolve(flags: SettingsFlags, toml: Option<&str>) -> Result<Settings, SettingsError> {
        Settings::resolve(flags, toml).map_err(|error| error.downcast().expect("SettingsError"))
    }

    fn resolve_file(toml: &str) -> Result<Settings, SettingsError> {
        resolve(SettingsFlags::default(), Some(toml))
    }

    #[test]
    fn defaults_stand_when_nothing_is_given() {
        let settings = resolve(SettingsFlags::default(), None).unwrap();
        assert_eq!(settings.data_dir, PathBuf::from("./lambdalake-data"));
        assert_eq!(settings.listen, "127.0.0.1:7700".parse().unwrap());
        assert_eq!(settings.init, None);
        assert!(settings.auto_create_streams);
        assert_eq!(settings.flush_bytes, 64 << 20);
        assert_eq!(settings.flush_age, Duration::from_secs(60));
        assert_eq!(settings.max_result_rows, 10_000_000);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = "flush_bytes = \"1MiB\"\nflush_rows = 7\nauto_create_streams = false";
        let flags = SettingsFlags {
            flush_bytes: Some("2MiB".to_owned()),
            flush_rows: Some(String::new()),
            ..SettingsFlags::default()
        };
        let settings = resolve(flags, Some(file)).unwrap();
        assert_eq!(settings.flush_bytes, 2 << 20, "flag");
        assert_eq!(settings.flush_rows, 7, "file, because the flag is empty");
        assert!(!settings.auto_create_streams, "file");
        assert_eq!(settings.query_timeout, Duration::from_secs(60), "default");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_nearest_neighbour() {
        let error = resolve_file("flush_byte = 1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown setting `flush_byte` in the settings file; did you mean `flush_bytes`?"
        );
        let error = resolve_file("qqq = 1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown setting `qqq` in the settings file"
        );
    }

    #[test]
    fn a_bad_value_names_the_setting_and_its_source() {
        let error = resolve_file("flush_bytes = \"64 parsecs\"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "setting `flush_bytes` from the settings file: `64 parsecs` is not a size; write \
             bytes or a unit, for example 64MiB"
        );
        for bad in [
            "flush_bytes = 0",
            "flush_bytes = -1",
            "flush_bytes = [1]",
            "flush_age = \"soon\"",
            "flush_age = \"0s\"",
            "default_shards = 4294967296",
            "max_concurrent_queries = 0",
            "auto_create_streams = \"maybe\"",
            "listen = \"here\"",
        ] {
            assert!(
                matches!(resolve_file(bad), Err(SettingsError::BadValue { .. })),
                "{bad}"
            );
        }
        assert!(matches!(
            resolve_file("flush_bytes ="),
            Err(SettingsError::NotToml(_))
        ));
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        for bad in [
            "max_line_bytes = \"2MiB\"\nmax_body_bytes = \"1MiB\"",
            "flush_bytes = \"2MiB\"\ntail_limit_bytes = \"1MiB\"",
        ] {
            assert!(
                matches!(resolve_file(bad), Err(SettingsError::Contradiction(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn values_are_shown_as_they_would_be_written() {
        let file = "flush_bytes = 1572864\nflush_rows = 7\nflush_age = \"90s\"";
        let settings = resolve_file(file).unwrap();
        let value = |name: &str| {
            let values = settings.values();
            let (_, value) = values.into_iter().find(|(it, _)| it.name == name).unwrap();
            value
        };
        assert_eq!(value("flush_bytes").as_deref(), Some("1536KiB"));
        assert_eq!(value("flush_rows").as_deref(), Some("7"));
        assert_eq!(value("flush_age").as_deref(), Some("1m 30s"));
        assert_eq!(
            value("query_timeout").as_deref(),
            Some("60s"),
            "the default's spelling"
        );
        assert_eq!(value("init"), None);
        for (setting, value) in settings.values() {
            let Some(value) = value else { continue };
            let text = format!("{} = {}", setting.name, toml::Value::from(value));
            assert!(resolve_file(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn sizes_and_counts_have_readable_spellings() {
        assert_eq!(size::<u64>("65536"), Ok(65536));
        assert_eq!(size::<u64>("64KiB"), Ok(65536));
        assert_eq!(size::<u64>("64 MiB"), Ok(64 << 20));
        assert_eq!(size::<u64>("1GB"), Ok(1_000_000_000));
        assert_eq!(count::<u64>("500_000"), Ok(500_000));
    }

    #[test]
    fn every_setting_is_a_flag_with_its_variable() {
        let command = SettingsFlags::augment_args(clap::Command::new("test"));
        for setting in SETTINGS {
            let argument = command
                .get_arguments()
                .find(|argument| argument.get_id() == setting.name)
                .expect(setting.name);
            assert_eq!(
                argument.get_long(),
                Some(setting.name.replace('_', "-").as_str())
            );
            assert_eq!(
                setting.env,
                format!("LAMBDALAKE_{}", setting.name.to_uppercase())
            );
            assert_eq!(
                argument.get_env().and_then(|env| env.to_str()),
                Some(setting.env)
            );
        }
    }

    #[test]
    fn flags_reach_the_settings() {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            flags: SettingsFlags,
        }
        let command = Command::parse_from(["test", "--default-shards", "4", "--init", "a.sql"]);
        let settings = resolve(command.flags, None).unwrap();
        assert_eq!(settings.default_shards, 4);
        assert_eq!(settings.init, Some(PathBuf::from("a.sql")));
    }

    #[test]
    fn the_readme_lists_every_setting_as_it_is() {
        let readme = include_str!("../README.md");
        for setting in SETTINGS {
            let row = readme_row(setting);
            assert!(readme.contains(&row), "README.md lacks this row:\n{row}");
        }
    }

    fn readme_row(setting: &Setting) -> String {
        let default = match setting.default {
            "" => "none".to_owned(),
            default => format!("`{default}`"),
        };
        format!(
            "| `{}` | {default} | {} | {} |",
            setting.name,
            setting.unit.to_lowercase(),
            setting.about
        )
    }
}
