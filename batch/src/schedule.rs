//! Which views are due for a recompute, as plain arithmetic over the injected clock.

use std::collections::HashMap;
use std::time::Duration;

/// When each scheduled view is due next, on the clock's monotonic time.
#[derive(Debug, Default)]
pub struct Schedule {
    due_at: HashMap<String, Duration>,
}

/// A view with an interval.
#[derive(Debug, Clone)]
pub struct Scheduled<'a> {
    pub view: &'a str,
    pub every: Duration,
    /// Time since its version, or since it was made: a restart does not begin the interval
    /// anew.
    pub age: Duration,
}

impl Schedule {
    /// The views that are due at `now`; each is due again one interval later.
    pub fn due<'a>(
        &mut self,
        now: Duration,
        views: impl IntoIterator<Item = Scheduled<'a>>,
    ) -> Vec<String> {
        let mut due = Vec::new();
        let mut due_at = HashMap::new();
        for Scheduled { view, every, age } in views {
            let known = self.due_at.get(view).copied();
            let mut next = known.unwrap_or_else(|| now + every.saturating_sub(age));
            if now >= next {
                due.push(view.to_owned());
                next = now + every;
            }
            due_at.insert(view.to_owned(), next);
        }
        self.due_at = due_at;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_10(age: u64) -> [Scheduled<'static>; 1] {
        let (every, age) = (Duration::from_secs(10), Duration::from_secs(age));
        [Scheduled {
            view: "v",
            every,
            age,
        }]
    }

    #[test]
    fn a_view_is_due_once_per_interval() {
        let mut schedule = Schedule::default();
        let mut at = |seconds| schedule.due(Duration::from_secs(seconds), every_10(0));
        assert!(at(5).is_empty());
        assert!(at(14).is_empty());
        assert_eq!(at(15), ["v"]);
        assert!(at(16).is_empty());
        assert_eq!(at(40), ["v"]);
        assert!(at(49).is_empty());
    }

    #[test]
    fn a_restart_goes_on_with_the_interval() {
        let mut schedule = Schedule::default();
        assert!(schedule.due(Duration::from_secs(1), every_10(8)).is_empty());
        assert_eq!(schedule.due(Duration::from_secs(3), every_10(10)), ["v"]);
        assert_eq!(Schedule::default().due(Duration::ZERO, every_10(99)), ["v"]);
    }

    #[test]
    fn a_dropped_view_is_forgotten() {
        let mut schedule = Schedule::default();
        assert!(schedule.due(Duration::ZERO, every_10(0)).is_empty());
        assert!(schedule.due(Duration::from_secs(20), []).is_empty());
        assert!(
            schedule
                .due(Duration::from_secs(21), every_10(0))
                .is_empty()
        );
    }
}
