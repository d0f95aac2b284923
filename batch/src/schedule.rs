//! Which views are due for a recompute: plain arithmetic over the time and over what is known of
//! a view. Nothing is remembered here, so a restart changes nothing: what was missed while the
//! engine was down is due once.

use std::time::Duration;

use chrono_tz::Tz;

use crate::triggers::{Trigger, Triggers};

/// After a run that failed, a view that still has too many events is not tried again at once.
pub const RETRY: Duration = Duration::from_secs(60);

/// A view with triggers, as it is now.
#[derive(Debug, Clone)]
pub struct Scheduled<'a> {
    pub triggers: &'a Triggers,
    pub zone: Tz,
    /// Tells views apart, so that each waits differently long (see [`Policy::jitter`]).
    pub seed: u64,
    /// When its last run was asked for; before the first one, when it was made. If its triggers
    /// were changed later, then.
    pub since_micros: i64,
    pub last_failed: bool,
    pub behind: Behind,
}

/// What the version of a view has not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    pub events: u64,
    /// When the oldest of them came in.
    pub oldest_micros: Option<i64>,
    /// Of the view's panes on disk.
    pub pane_bytes: u64,
}

/// What holds for all views.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Runs that a clock starts wait up to this long, so that not all views begin at once.
    pub jitter: Duration,
    /// Whether times that came while the engine was down are made up for, by one run.
    pub catches_up: bool,
    /// When the engine was started.
    pub started_micros: i64,
}

/// The trigger that starts a run now.
pub fn due<'a>(now_micros: i64, view: &Scheduled<'a>, policy: &Policy) -> Option<&'a Trigger> {
    due_with(now_micros, view, policy, next_at(view, policy))
}

/// The same for who knows what [`next_at`] says: a calendar is not asked again before that.
pub fn due_with<'a>(
    now_micros: i64,
    view: &Scheduled<'a>,
    policy: &Policy,
    next_at: Option<i64>,
) -> Option<&'a Trigger> {
    let comes_later = next_at.is_none_or(|next| next > now_micros);
    let waits = view.last_failed && now_micros < after(view.since_micros, RETRY);
    view.triggers.iter().find(|trigger| match trigger {
        Trigger::At(_) | Trigger::Every(_) if comes_later => false,
        Trigger::At(_) | Trigger::Every(_) => {
            next_of(trigger, view, policy).is_some_and(|next| next <= now_micros)
        }
        Trigger::AfterEvents(events) => !waits && view.behind.events >= *events,
        Trigger::LagOver(lag) => {
            let oldest = view.behind.oldest_micros;
            !waits && oldest.is_some_and(|oldest| after(oldest, *lag) <= now_micros)
        }
        Trigger::SpeedLayerOver(bytes) => !waits && view.behind.pane_bytes >= *bytes,
    })
}

/// When a clock starts the next run; `None` if only events do. In the past if it is due.
pub fn next_at(view: &Scheduled<'_>, policy: &Policy) -> Option<i64> {
    let triggers = view.triggers.iter();
    triggers
        .filter_map(|trigger| next_of(trigger, view, policy))
        .min()
}

fn next_of(trigger: &Trigger, view: &Scheduled<'_>, policy: &Policy) -> Option<i64> {
    let skipped = !policy.catches_up && view.since_micros < policy.started_micros;
    let next = match trigger {
        Trigger::At(times) => {
            let since = match skipped {
                // What is named for this very moment was not missed.
                true => policy.started_micros - 1,
                false => view.since_micros,
            };
            times.next_after(view.zone, since)?
        }
        Trigger::Every(every) => {
            let next = after(view.since_micros, *every);
            match skipped && next < policy.started_micros {
                true => {
                    let every = i64::try_from(every.as_micros()).ok()?;
                    let missed = (policy.started_micros - view.since_micros + every - 1) / every;
                    view.since_micros + missed * every
                }
                false => next,
            }
        }
        _ => return None,
    };
    Some(after(next, jitter(view.seed, next, policy.jitter)))
}

/// Different for each view and time, and the same whenever it is asked.
fn jitter(seed: u64, at_micros: i64, most: Duration) -> Duration {
    // SplitMix64: neighbouring inputs give numbers that have nothing in common.
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at_micros as u64;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    most.mul_f64(mixed as f64 / (u64::MAX as f64 + 1.0))
}

fn after(micros: i64, later: Duration) -> i64 {
    let later = i64::try_from(later.as_micros()).unwrap_or(i64::MAX);
    micros.saturating_add(later)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike, TimeZone, Timelike, Utc};

    use super::*;

    const SECOND: i64 = 1_000_000;
    const MINUTE: i64 = 60 * SECOND;
    const DAY: i64 = 24 * 60 * MINUTE;

    const AT_ONCE: Policy = Policy {
        jitter: Duration::ZERO,
        catches_up: true,
        started_micros: 0,
    };

    fn micros(text: &str) -> i64 {
        let time = DateTime::parse_from_rfc3339(text).expect("a time");
        time.timestamp_micros()
    }

    fn view(triggers: &Triggers, zone: Tz, since: i64) -> Scheduled<'_> {
        Scheduled {
            triggers,
            zone,
            seed: 7,
            since_micros: since,
            last_failed: false,
            behind: Behind::default(),
        }
    }

    fn triggers(text: &str) -> Triggers {
        text.parse().expect("triggers")
    }

    /// Starts what is due between `from` and `to`; the times of the runs. Nothing is due a moment
    /// earlier.
    fn play(text: &str, zone: Tz, from: i64, to: i64) -> Vec<i64> {
        let triggers = triggers(text);
        let mut runs = Vec::new();
        let mut last = view(&triggers, zone, from);
        while let Some(next) = next_at(&last, &AT_ONCE).filter(|next| *next < to) {
            assert_eq!(due(next - 1, &last, &AT_ONCE), None);
            assert!(due(next, &last, &AT_ONCE).is_some());
            runs.push(next);
            last.since_micros = next;
        }
        runs
    }

    fn local(zone: Tz, runs: &[i64]) -> Vec<(u32, u32, u32)> {
        let at = |micros: &i64| {
            let time = DateTime::<Utc>::from_timestamp_micros(*micros).expect("a time");
            let time = time.with_timezone(&zone);
            (time.day(), time.hour(), time.minute())
        };
        runs.iter().map(at).collect()
    }

    #[test]
    fn a_month_of_nights_has_a_run_each_whatever_the_clocks_do() {
        let zone = chrono_tz::Europe::Zurich;
        for (month, days) in [(3, 31), (10, 31), (6, 30)] {
            let from = zone.with_ymd_and_hms(2026, month, 1, 0, 0, 0).unwrap();
            let from = from.timestamp_micros();
            let to = from + i64::from(days) * DAY - MINUTE * 90;
            // Three o'clock is once a night, also when clocks go from two to three or back.
            let runs = play("0 3 * * *", zone, from, to);
            let expected: Vec<_> = (1..=days).map(|day| (day, 3, 0)).collect();
            assert_eq!(local(zone, &runs), expected, "month {month}");
            // Half past two does not exist on 29 March, and comes twice on 25 October.
            let runs = play("30 2 * * *", zone, from, to);
            let days_of: Vec<u32> = local(zone, &runs).iter().map(|at| at.0).collect();
            assert_eq!(days_of, (1..=days).collect::<Vec<_>>(), "month {month}");
            // Every hour is every hour: 23 or 25 of them on those days.
            let runs = play("0 * * * *", zone, from, to);
            let gaps = runs.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(
                gaps.clone().all(|gap| gap == 60 * MINUTE),
                "{:?}",
                gaps.max()
            );
        }
    }

    #[test]
    fn an_interval_counts_from_the_last_run() {
        let zone = Tz::UTC;
        let runs = play("every 15 minutes", zone, 0, DAY);
        assert_eq!(runs.len(), 95);
        assert!(runs.windows(2).all(|pair| pair[1] - pair[0] == 15 * MINUTE));
        let seconds = play("*/10 * * * * *", zone, 0, MINUTE);
        assert_eq!(seconds, [10, 20, 30, 40, 50].map(|second| second * SECOND));
    }

    #[test]
    fn what_was_missed_is_made_up_for_once_or_not_at_all() {
        let nightly = triggers("0 3 * * *");
        let since = micros("2026-05-01T03:00:00Z");
        let started_micros = micros("2026-05-05T08:30:00Z");
        let after_start = |policy: &Policy, since| {
            let view = view(&nightly, Tz::UTC, since);
            due(started_micros, &view, policy).is_some()
        };
        let once = Policy {
            started_micros,
            ..AT_ONCE
        };
        assert!(after_start(&once, since));
        assert!(!after_start(&once, started_micros), "four nights, one run");
        let skip = Policy {
            catches_up: false,
            ..once
        };
        assert!(!after_start(&skip, since));
        let next = next_at(&view(&nightly, Tz::UTC, since), &skip);
        assert_eq!(next, Some(micros("2026-05-06T03:00:00Z")));
        let hourly = triggers("every 1 hour");
        let next = next_at(&view(&hourly, Tz::UTC, since), &skip);
        assert_eq!(
            next,
            Some(micros("2026-05-05T09:00:00Z")),
            "in step with before"
        );
        assert_eq!(
            next_at(&view(&hourly, Tz::UTC, since), &once),
            Some(micros("2026-05-01T04:00:00Z"))
        );
    }

    #[test]
    fn jitter_spreads_runs_and_is_always_the_same() {
        let nightly = triggers("0 3 * * *");
        let policy = Policy {
            jitter: Duration::from_secs(600),
            ..AT_ONCE
        };
        let three = micros("2026-05-02T03:00:00Z");
        let waits: Vec<i64> = (0..100)
            .map(|seed| {
                let view = Scheduled {
                    seed,
                    ..view(&nightly, Tz::UTC, three - DAY / 2)
                };
                assert_eq!(next_at(&view, &policy), next_at(&view, &policy));
                next_at(&view, &policy).expect("a time") - three
            })
            .collect();
        assert!(waits.iter().all(|wait| (0..600 * SECOND).contains(wait)));
        for minute in 0..10 {
            let within = (minute * MINUTE)..((minute + 1) * MINUTE);
            assert!(waits.iter().any(|wait| within.contains(wait)), "{waits:?}");
        }
    }

    #[test]
    fn what_the_version_has_not_seen_starts_a_run_and_a_failure_delays_it() {
        let all = triggers("after 100 events or lag over 10 minutes or speed layer over 1 MB");
        let now = DAY;
        let is_due = |behind: Behind, last_failed, since| {
            let view = Scheduled {
                behind,
                last_failed,
                ..view(&all, Tz::UTC, since)
            };
            due(now, &view, &AT_ONCE).map(ToString::to_string)
        };
        let old = |minutes: i64| Some(now - minutes * MINUTE);
        let behind = |events, oldest_micros, pane_bytes| Behind {
            events,
            oldest_micros,
            pane_bytes,
        };
        assert_eq!(is_due(behind(99, old(9), 999_999), false, 0), None);
        let events = is_due(behind(100, old(1), 1), false, 0);
        assert_eq!(events.as_deref(), Some("after 100 events"));
        let lag = is_due(behind(1, old(10), 1), false, 0);
        assert_eq!(lag.as_deref(), Some("lag over 10m"));
        let size = is_due(behind(1, old(1), 1_000_000), false, 0);
        assert_eq!(size.as_deref(), Some("speed layer over 1.0 MB"));
        let too_many = behind(100, old(1), 1);
        assert_eq!(is_due(too_many, true, now - 59 * SECOND), None);
        assert!(is_due(too_many, true, now - 60 * SECOND).is_some());
        assert!(is_due(too_many, false, now).is_some());
    }
}
