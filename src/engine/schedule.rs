//! Options of views: what statements say of them, and which views their schedules have due.

use std::sync::Arc;

use chrono_tz::Tz;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::TimestampMicrosecondType;
use lambdalake_batch::history::{RunKind, RunStatus};
use lambdalake_batch::schedule::{Behind, Policy, Scheduled, due_with, next_at};
use lambdalake_batch::triggers::{Trigger, Triggers};
use lambdalake_data::publication::{OnMismatch, ViewSchedule};
use lambdalake_data::schema::INGESTED_AT;
use lambdalake_serving::engine::{AlterViewSpec, EngineError, ErrorKind, ViewChange, ViewOptions};
use lambdalake_serving::snapshot::ViewSnapshot;

use super::streams::ChangeError;
use super::{Engine, lock};

/// Texts of triggers that are kept as read, beside one for each view.
const KNOWN_TRIGGERS: usize = 1_000;

/// What a calendar said of a view; right while all that it follows from is the same.
pub(super) struct KnownNext {
    /// The incarnation, when its schedule was changed, and what it counts from.
    of: (u64, i64, i64),
    next_at: Option<i64>,
}

fn invalid(message: String) -> EngineError {
    EngineError::bad_request("invalid_option", message)
}

/// Checks what a statement says of an audit that finds differences.
pub(super) fn on_mismatch_of(spec: &ViewOptions) -> Result<Option<OnMismatch>, EngineError> {
    let Some(text) = &spec.on_mismatch else {
        return Ok(None);
    };
    match text.to_ascii_lowercase().as_str() {
        "hold" => Ok(Some(OnMismatch::Hold)),
        "publish" => Ok(Some(OnMismatch::Publish)),
        _ => Err(invalid(format!(
            "the option on_mismatch is {text:?}, neither 'hold' nor 'publish'"
        ))),
    }
}

/// Checks what a statement says of a schedule.
pub(super) fn schedule_of(
    spec: &ViewOptions,
    now_micros: i64,
) -> Result<ViewSchedule, EngineError> {
    let recompute = match &spec.recompute {
        Some(text) => {
            let triggers: Triggers = text
                .parse()
                .map_err(|reason| invalid(format!("the option recompute is {text:?}: {reason}")))?;
            Some(triggers.to_string())
        }
        None => None,
    };
    if let Some(zone) = &spec.time_zone {
        zone.parse::<Tz>().map_err(|_| {
            let like = "'Europe/Zurich' or 'UTC'";
            invalid(format!(
                "the option recompute_time_zone is {zone:?}, not the name of a zone such as {like}"
            ))
        })?;
    }
    Ok(ViewSchedule {
        recompute,
        time_zone: spec.time_zone.clone(),
        is_paused: false,
        changed_at_micros: now_micros,
    })
}

impl Engine {
    /// Carries out `ALTER MATERIALIZED VIEW`, durably.
    pub(super) fn alter_view(&self, spec: AlterViewSpec) -> Result<(), EngineError> {
        let now = self.clock.now_micros();
        let (given, on_mismatch) = match &spec.change {
            ViewChange::Set(given) => (schedule_of(given, now)?, on_mismatch_of(given)?),
            _ => (ViewSchedule::default(), None),
        };
        let altered = self.publisher.change(|next| -> Result<(), ChangeError> {
            let view = next.views.get_mut(&spec.view).ok_or_else(|| {
                let message = format!("there is no view {}", spec.view);
                ChangeError::Engine(EngineError::not_found("unknown_view", message))
            })?;
            let view = Arc::make_mut(view);
            let before = view.schedule.clone();
            view.schedule.recompute = view.recompute();
            view.recompute_every_ms = None;
            let schedule = &mut view.schedule;
            match &spec.change {
                ViewChange::Set(_) => {
                    view.on_mismatch = on_mismatch.unwrap_or(view.on_mismatch);
                    schedule.recompute = given.recompute.clone().or(schedule.recompute.take());
                    schedule.time_zone = given.time_zone.clone().or(schedule.time_zone.take());
                }
                ViewChange::Reset {
                    recompute,
                    time_zone,
                    on_mismatch,
                } => {
                    if *on_mismatch {
                        view.on_mismatch = OnMismatch::default();
                    }
                    schedule.recompute.take_if(|_| *recompute);
                    schedule.time_zone.take_if(|_| *time_zone);
                }
                ViewChange::Pause => schedule.is_paused = true,
                ViewChange::Resume => schedule.is_paused = false,
            }
            if *schedule != before {
                schedule.changed_at_micros = now;
            }
            Ok(())
        });
        altered.map_err(ChangeError::into_engine)
    }

    pub(super) fn start_due_recomputes(self: &Arc<Self>) {
        let snapshot = self.publisher.snapshot();
        let (now, policy) = (self.clock.now_micros(), self.schedule_policy());
        for view in snapshot.views.values() {
            let started_by = self.scheduled(view, |scheduled| {
                let next = self.known_next(view, scheduled, &policy);
                due_with(now, scheduled, &policy, next).map(ToString::to_string)
            });
            let Some(started_by) = started_by.flatten() else {
                continue;
            };
            let name = &view.state.name;
            match self.queue_run(name, started_by.clone(), RunKind::Recompute) {
                Ok(run_id) => tracing::info!(view = name, run_id, started_by, "recompute is due"),
                // It waits or runs: when it has ended, what it has not seen counts anew.
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => tracing::error!(view = name, %error, "recompute did not start"),
            }
        }
        lock(&self.next_runs).retain(|name, _| snapshot.views.contains_key(name));
        // All together: which are due does not depend on what the first of them does meanwhile.
        self.start_queued();
    }

    /// When a clock recomputes the view next; `None` if none does.
    pub(super) fn next_run_at(&self, view: &ViewSnapshot) -> Option<i64> {
        let policy = self.schedule_policy();
        self.scheduled(view, |scheduled| next_at(scheduled, &policy))?
    }

    /// As [`next_at`]. Calendars are slow to ask, and views are looked at ten times a second.
    fn known_next(
        &self,
        view: &ViewSnapshot,
        scheduled: &Scheduled<'_>,
        policy: &Policy,
    ) -> Option<i64> {
        let state = &view.state;
        let changed = state.schedule.changed_at_micros;
        let of = (state.incarnation, changed, scheduled.since_micros);
        let mut known = lock(&self.next_runs);
        if let Some(known) = known.get(&state.name).filter(|it| it.of == of) {
            return known.next_at;
        }
        let next_at = next_at(scheduled, policy);
        known.insert(state.name.clone(), KnownNext { of, next_at });
        next_at
    }

    fn schedule_policy(&self) -> Policy {
        Policy {
            jitter: self.settings.recompute_jitter,
            catches_up: self.settings.recompute_catch_up,
            started_micros: self.started_micros,
        }
    }

    /// What `tell` says of the view's schedule; `None` if it has none, or it is paused.
    fn scheduled<T>(&self, view: &ViewSnapshot, tell: impl Fn(&Scheduled<'_>) -> T) -> Option<T> {
        let state = &view.state;
        if state.schedule.is_paused || view.stream.readable().is_err() {
            return None;
        }
        let triggers = self.triggers(&state.recompute()?)?;
        let zone = state.schedule.time_zone.as_deref();
        let zone = zone.and_then(|zone| zone.parse().ok());
        let last = self.history.last_recompute_of(&state.name, |run| {
            let is_failed = run.status.has_ended() && run.status != RunStatus::Succeeded;
            (run.asked_at_micros, is_failed)
        });
        let last = last.filter(|(asked, _)| *asked >= state.created_at_micros);
        let version = view.version.as_ref().map(|it| it.created_at_micros);
        // History is pruned; the version is not.
        let asked = last.map(|(asked, _)| asked).or(version);
        let since = asked.unwrap_or(state.created_at_micros);
        let scheduled = Scheduled {
            triggers: &triggers,
            zone: zone.unwrap_or(self.settings.recompute_time_zone),
            seed: state.incarnation,
            since_micros: since.max(state.schedule.changed_at_micros),
            last_failed: last.is_some_and(|(_, is_failed)| is_failed),
            // Walks over panes: only for who asks.
            behind: match triggers.iter().any(Trigger::counts) {
                true => behind(view),
                false => Behind::default(),
            },
        };
        Some(tell(&scheduled))
    }
}

impl Engine {
    /// Read once: views are looked at ten times a second.
    fn triggers(&self, text: &str) -> Option<Arc<Triggers>> {
        let mut known = lock(&self.triggers);
        if let Some(triggers) = known.get(text) {
            return Some(Arc::clone(triggers));
        }
        let triggers: Arc<Triggers> = Arc::new(text.parse().ok()?);
        if known.len() >= KNOWN_TRIGGERS + self.publisher.snapshot().views.len() {
            known.clear();
        }
        known.insert(text.to_owned(), Arc::clone(&triggers));
        Some(triggers)
    }
}

fn behind(view: &ViewSnapshot) -> Behind {
    let cut = view.batch_cut();
    let panes = view.panes.iter().flat_map(|pane| &pane.files);
    // Files are in the order in which their events came in.
    let files = &view.stream.state.files;
    let first = files.partition_point(|file| cut.covers(&file.range.to));
    let flushed = files.get(first).and_then(|file| {
        let mut bounds = file.bounds.iter();
        bounds.find(|bounds| bounds.column == INGESTED_AT)?.least
    });
    // Chunks are in the order in which they came in.
    let tail = view
        .stream
        .parts
        .iter()
        .flat_map(|open| open.part.chunks.iter())
        .next();
    let tail = tail.and_then(|chunk| {
        let times = chunk.events.column_by_name(INGESTED_AT)?;
        let times = times.as_primitive_opt::<TimestampMicrosecondType>()?;
        times.values().first().copied()
    });
    Behind {
        events: view.lag_events(),
        oldest_micros: flushed.into_iter().chain(tail).min(),
        pane_bytes: panes.map(|file| file.bytes).sum(),
    }
}
