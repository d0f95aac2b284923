//! Which views are due for a recompute, as plain arithmetic over the injected clock.

use std::collections::HashMap;
use std::time::Duration;

/// When each scheduled view was last started.
#[derive(Debug, Default)]
pub struct Schedule {
    started: HashMap<String, Duration>,
}

impl Schedule {
    /// The views whose interval has passed at `now`, and notes them as started. A view seen
    /// for the first time is due one interval later. Times are the clock's monotonic ones.
    pub fn due<'a>(
        &mut self,
        now: Duration,
        views: impl IntoIterator<Item = (&'a str, Duration)>,
    ) -> Vec<String> {
        let mut due = Vec::new();
        let mut seen = HashMap::new();
        for (view, every) in views {
            let last = *self.started.get(view).unwrap_or(&now);
            if now.saturating_sub(last) >= every && self.started.contains_key(view) {
                due.push(view.to_owned());
                seen.insert(view.to_owned(), now);
            } else {
                seen.insert(view.to_owned(), last);
            }
        }
        self.started = seen;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_due_once_per_interval() {
        let mut schedule = Schedule::default();
        let every = Duration::from_secs(10);
        let mut at = |seconds| schedule.due(Duration::from_secs(seconds), [("v", every)]);
        assert!(at(5).is_empty());
        assert!(at(14).is_empty());
        assert_eq!(at(15), ["v"]);
        assert!(at(16).is_empty());
        assert_eq!(at(40), ["v"]);
        assert!(at(49).is_empty());
    }

    #[test]
    fn a_dropped_view_is_forgotten() {
        let mut schedule = Schedule::default();
        let every = Duration::from_secs(1);
        assert!(
            schedule
                .due(Duration::from_secs(0), [("v", every)])
                .is_empty()
        );
        assert!(schedule.due(Duration::from_secs(9), []).is_empty());
        assert!(
            schedule
                .due(Duration::from_secs(10), [("v", every)])
                .is_empty()
        );
    }
}
