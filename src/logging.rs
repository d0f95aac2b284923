//! The log: what is written to stderr, and in which form.

use std::fmt;

use tracing_subscriber::EnvFilter;

/// What libraries may say whatever the level: they speak up only when something is wrong.
const LIBRARIES: &str = "warn,buoyant_kernel::snapshot::builder=off";

/// The crates that a bare level is meant for.
const OURS: [&str; 6] = [
    "lambdalake",
    "lambdalake_data",
    "lambdalake_views",
    "lambdalake_batch",
    "lambdalake_speed",
    "lambdalake_serving",
];

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The directives of a `log_level`: a bare level is for our own crates, anything else is taken
/// as it stands, in the syntax of tracing's environment filter.
fn directives(level: &str) -> String {
    match level {
        "error" | "warn" | "info" | "debug" | "trace" => {
            let ours = OURS.map(|name| format!("{name}={level}"));
            format!("{LIBRARIES},{}", ours.join(","))
        }
        other => other.to_owned(),
    }
}

/// Reads a `log_level`.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives(level)).map_err(|error| {
        format!(
            "`{level}` is not a level (error, warn, info, debug, trace, off) or a list like \
             warn,lambdalake_speed=debug: {error}"
        )
    })
}

/// Starts the log of this process. A second call changes nothing.
pub fn start(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter =
        filter(level).map_err(|reason| anyhow::anyhow!("setting `log_level`: {reason}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging runs already");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_for_our_crates_and_a_list_is_taken_as_it_is() {
        assert!(directives("debug").starts_with("warn,"));
        assert!(directives("debug").contains("lambdalake_serving=debug"));
        assert_eq!(directives("off"), "off");
        assert_eq!(directives("info,hyper=debug"), "info,hyper=debug");
        assert!(filter("info,hyper=debug").is_ok());
        assert!(filter("lambdalake=loud").is_err());
    }
}
