//! What makes a view recompute by itself, as `WITH (recompute = '...')` says it.
//!
//! ```text
//!   0 3 * * *                      cron: minute hour day month weekday, or second before them
//!   every 15 minutes               since the last run began
//!   after 1000000 events           that the version has not seen
//!   lag over 10 minutes            of the oldest event that the version has not seen
//!   speed layer over 256 MB        of the view's panes on disk
//!   0 3 * * * or after 1000000 events
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Shorter intervals would only measure how long a run takes.
const SHORTEST: Duration = Duration::from_secs(1);

/// Fields of a cron expression and what they are made of; the first may be missing.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31"),
    ("month", "1-12 or JAN-DEC"),
    ("weekday", "0-7 or SUN-SAT"),
];

/// One or more triggers: the first that is due starts a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Triggers(Vec<Trigger>);

#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// At these times of a calendar.
    At(Box<Times>),
    /// This long after the last run began.
    Every(Duration),
    /// Once the version has not seen so many events.
    AfterEvents(u64),
    /// Once the oldest event that the version has not seen is this old.
    LagOver(Duration),
    /// Once the view's panes take this many bytes.
    SpeedLayerOver(u64),
}

/// A cron expression, as it was written and as it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    text: String,
    cron: Cron,
}

impl Trigger {
    /// Whether it counts what the version has not seen.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::At(_) | Self::Every(_))
    }
}

impl Triggers {
    pub fn iter(&self) -> impl Iterator<Item = &Trigger> {
        self.0.iter()
    }
}

impl FromStr for Triggers {
    /// What is wrong, to be said after the text.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let parts = words.split(|word| word.eq_ignore_ascii_case("or"));
        parts
            .map(|words| match trigger(words) {
                Ok(trigger) => Ok(trigger),
                Err(reason) if words.is_empty() => Err(reason),
                Err(reason) => Err(format!("{:?}: {reason}", words.join(" "))),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn trigger(words: &[&str]) -> Result<Trigger, String> {
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    match lower[..] {
        [] => Err(
            "a trigger is missing; write for example '0 3 * * *', 'every 15 minutes', \
                   'after 1000000 events', 'lag over 10 minutes' or 'speed layer over 256 MB'"
                .to_owned(),
        ),
        ["every", ..] => Ok(Trigger::Every(duration(&words[1..])?)),
        ["after", ref rest @ ..] => Ok(Trigger::AfterEvents(events(rest)?)),
        ["lag", "over", ..] => Ok(Trigger::LagOver(duration(&words[2..])?)),
        ["speed", "layer", "over", ..] => Ok(Trigger::SpeedLayerOver(bytes(&words[3..])?)),
        ["lag" | "speed", ..] => {
            Err("write 'lag over' a time, or 'speed layer over' a size".into())
        }
        // An interval may stand alone.
        _ => match duration(words) {
            Ok(every) => Ok(Trigger::Every(every)),
            Err(reason) if !is_calendar(words) => Err(reason),
            Err(_) => cron(&words.join(" ")),
        },
    }
}

fn duration(words: &[&str]) -> Result<Duration, String> {
    match humantime::parse_duration(&words.join(" ")) {
        Ok(duration) if duration >= SHORTEST => Ok(duration),
        Ok(_) => Err("less than a second".to_owned()),
        Err(error) => Err(format!("not a time such as '10 minutes' ({error})")),
    }
}

fn events(words: &[&str]) -> Result<u64, String> {
    let wrong = || "write 'after' a number from 1, and 'events'".to_owned();
    let (number, ["events" | "event"]) = words.split_first().ok_or_else(wrong)? else {
        return Err(wrong());
    };
    let number = number.replace('_', "").parse().ok();
    number.filter(|number| *number > 0).ok_or_else(wrong)
}

fn bytes(words: &[&str]) -> Result<u64, String> {
    let size = ByteSize::from_str(&words.join(" "));
    let size = size.map_err(|error| format!("not a size such as '256 MB' ({error})"))?;
    match size.as_u64() {
        0 => Err("a size from one byte is needed".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Whether somebody meant a cron expression.
fn is_calendar(words: &[&str]) -> bool {
    words.len() >= 5 || words.iter().any(|it| it.contains(['@', '*']))
}

fn cron(text: &str) -> Result<Trigger, String> {
    let parser = CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build();
    let cron = parser.parse(text).map_err(|error| {
        let field = bad_field(&parser, text);
        field.unwrap_or_else(|| format!("not a cron expression of five or six fields ({error})"))
    })?;
    // The thirtieth of February parses.
    let never = "no such time comes; check the day and the month";
    cron.find_next_occurrence(&DateTime::<Utc>::UNIX_EPOCH, false)
        .map_err(|_| never.to_owned())?;
    let text = text.to_owned();
    Ok(Trigger::At(Box::new(Times { text, cron })))
}

/// Which field of a cron expression is wrong by itself.
fn bad_field(parser: &CronParser, text: &str) -> Option<String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let names = match fields.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        _ => return None,
    };
    let is_wrong = |at: &usize| {
        let mut alone = vec!["*"; fields.len()];
        alone[*at] = fields[*at];
        parser.parse(&alone.join(" ")).is_err()
    };
    let at = (0..fields.len()).find(is_wrong)?;
    let (name, values) = names[at];
    let field = fields[at];
    Some(format!("its {name} is {field:?}, which is not of {values}"))
}

/// A size that is read again as the same number of bytes; short if it can be.
fn exact_size(bytes: u64) -> String {
    let size = || ByteSize(bytes).display();
    let short = [size().si().to_string(), size().iec().to_string()];
    let is_exact = |text: &String| ByteSize::from_str(text) == Ok(ByteSize(bytes));
    let short = short.into_iter().find(is_exact);
    short.unwrap_or_else(|| format!("{bytes} B"))
}

impl Times {
    /// The first one after `micros`.
    pub(crate) fn next_after(&self, zone: Tz, micros: i64) -> Option<i64> {
        let after = DateTime::from_timestamp_micros(micros)?.with_timezone(&zone);
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(next.timestamp_micros())
    }
}

impl fmt::Display for Triggers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, trigger) in self.0.iter().enumerate() {
            let or = if at == 0 { "" } else { " or " };
            write!(f, "{or}{trigger}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(times) => f.write_str(&times.text),
            Self::Every(every) => write!(f, "every {}", humantime::format_duration(*every)),
            Self::AfterEvents(events) => write!(f, "after {events} events"),
            Self::LagOver(lag) => write!(f, "lag over {}", humantime::format_duration(*lag)),
            Self::SpeedLayerOver(bytes) => {
                write!(f, "speed layer over {}", exact_size(*bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        text.parse::<Triggers>()
            .map(|triggers| triggers.to_string())
    }

    #[test]
    fn triggers_are_read_and_shown() {
        for (text, shown) in [
            ("0 3 * * *", "0 3 * * *"),
            ("*/10 * * * * *", "*/10 * * * * *"),
            ("0 3 * * MON-FRI", "0 3 * * MON-FRI"),
            ("10 minutes", "every 10m"),
            ("Every 15 minutes", "every 15m"),
            ("every 1h 30min", "every 1h 30m"),
            ("after 1_000_000 events", "after 1000000 events"),
            ("lag over 10 min", "lag over 10m"),
            ("speed layer over 256 MB", "speed layer over 256.0 MB"),
            ("speed layer over 64MiB", "speed layer over 64.0 MiB"),
            ("speed layer over 1250001 B", "speed layer over 1250001 B"),
            (
                "0 3 * * *  OR after 5 events or lag over 1day",
                "0 3 * * * or after 5 events or lag over 1day",
            ),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(shown), "{text}");
            assert_eq!(
                parsed(shown).as_deref(),
                Ok(shown),
                "what is shown is read again"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "a trigger is missing"),
            ("every 5 minutes or", "a trigger is missing"),
            ("every 10 ms", "less than a second"),
            ("every day or so", "every day"),
            ("sometimes", "not a time such as"),
            ("61 3 * * *", "its minute is \"61\", which is not of 0-59"),
            ("0 25 * * *", "its hour is \"25\""),
            ("0 0 3 * * FOO", "its weekday is \"FOO\""),
            ("0 0 0 32 1-40 *", "its day of the month is \"32\""),
            ("0 3 * *", "cron expression of five or six fields"),
            ("0 0 30 2 *", "no such time comes"),
            ("0 0 0 1 1 * 2030", "cron"),
            ("after 0 events", "a number from 1"),
            ("after many events", "a number from 1"),
            ("after 10", "'events'"),
            ("lag 10 minutes", "lag over"),
            ("speed layer over much", "not a size"),
            ("speed layer over 0 MB", "from one byte"),
        ] {
            let reason = parsed(text).expect_err(text);
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }
}
