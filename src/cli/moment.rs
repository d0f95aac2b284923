//! Times as a reader wants them: how long ago, how long until then.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::client::Answer;
use super::table;

/// When the server answered, by its own clock; `None` if it did not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment(Option<DateTime<Utc>>);

impl Moment {
    /// Of the `Date` of an answer.
    pub fn of(answer: &Answer) -> Self {
        let date = answer.headers.get("date").and_then(|it| it.to_str().ok());
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        Self(date.map(|date| date.to_utc()))
    }

    #[cfg(test)]
    pub fn at(time: Option<DateTime<Utc>>) -> Self {
        Self(time)
    }

    /// `5m 12s ago`; the time itself if it cannot be told. `None` without a time.
    pub fn since(self, time: Option<DateTime<Utc>>) -> Option<String> {
        let time = time?;
        Some(match self.0 {
            Some(now) => format!("{} ago", span(now - time)),
            None => shown(time),
        })
    }

    /// `in 4h 12m`, or `now` once it has come.
    pub fn until(self, time: Option<DateTime<Utc>>) -> Option<String> {
        let time = time?;
        Some(match self.0 {
            Some(now) if now >= time => "now".to_owned(),
            Some(now) => format!("in {}", span(time - now)),
            None => shown(time),
        })
    }
}

/// A time as the server writes it.
pub fn time(value: &Value) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    Some(time.to_utc())
}

/// When a run ended; `None` while it has not.
pub fn ended_at(run: &Value) -> Option<DateTime<Utc>> {
    let took = TimeDelta::try_milliseconds(run["duration_ms"].as_i64()?)?;
    match run["status"].as_str()? {
        "queued" | "running" => None,
        _ => time(&run["started_at"])?.checked_add_signed(took),
    }
}

/// In whole seconds, as clocks of servers say no more. Clocks that disagree give 0.
fn span(span: TimeDelta) -> String {
    match u64::try_from(span.num_seconds()).unwrap_or_default() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds => table::age(Duration::from_secs(seconds)),
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_told_from_the_clock_of_the_server() {
        let now = Moment(time(&json!("2026-05-02T03:00:00Z")));
        let ago = |text: &str| now.since(time(&json!(text)));
        assert_eq!(ago("2026-05-02T02:59:55.5Z").as_deref(), Some("4 s ago"));
        assert_eq!(ago("2026-05-02T03:00:01Z").as_deref(), Some("0 s ago"));
        assert_eq!(ago("2026-05-01T01:30:00Z").as_deref(), Some("1day 1h ago"));
        assert_eq!(now.since(None), None);
        let until = |text: &str| now.until(time(&json!(text)));
        assert_eq!(until("2026-05-02T07:12:30Z").as_deref(), Some("in 4h 12m"));
        assert_eq!(until("2026-05-02T02:00:00Z").as_deref(), Some("now"));
        let unknown = Moment::default();
        let shown = unknown.until(time(&json!("2026-05-02T03:00:00.123456Z")));
        assert_eq!(shown.as_deref(), Some("2026-05-02T03:00:00Z"));
    }

    #[test]
    fn a_run_has_ended_when_it_has() {
        let run = |status: &str| {
            let started_at = "2026-05-02T03:00:00Z";
            json!({"status": status, "started_at": started_at, "duration_ms": 60_000})
        };
        assert_eq!(ended_at(&run("running")), None);
        let ended = time(&json!("2026-05-02T03:01:00Z"));
        assert_eq!(ended_at(&run("cancelled")), ended);
    }
}
