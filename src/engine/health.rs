//! Whether the engine may take traffic, and what state each of its workers is in.
//!
//! A *dead* worker does not come back without a restart: the node is not ready then, and the
//! answer names the worker. A worker in *trouble* goes on and tries again; the node stays
//! ready, because everything acknowledged is safe and every answer exact.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lambdalake_batch::history::{Run, RunKind, RunStatus};
use lambdalake_serving::engine::Health;
use serde_json::{Value, json};

use super::describe::rfc3339;
use super::{Engine, StreamRuntime, lock};

/// A runtime that runs no task for this long is shown as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// The writer of a stream that does not run because its files are damaged. The others do, so
/// the node stays ready: taking it out of service would stop them, too.
const STOPPED: &str = "stopped";

/// One worker at one moment.
pub(super) struct Worker {
    /// The kind of work; from a short fixed list.
    pub(super) name: &'static str,
    /// The stream it works for, if it works for one.
    pub(super) stream: Option<String>,
    pub(super) state: &'static str,
    /// It has ended, or takes no work until a restart.
    pub(super) is_dead: bool,
    pub(super) error: Option<String>,
}

impl Worker {
    /// How messages name it.
    fn title(&self) -> String {
        match &self.stream {
            Some(stream) => format!("{} of stream {stream}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// What health remembers between two looks.
#[derive(Default)]
pub(super) struct HealthWatch {
    /// Set when the engine begins to shut down; it never goes back.
    pub(super) is_stopping: AtomicBool,
    compute_beat_ms: AtomicU64,
    batch_beat_ms: AtomicU64,
    /// The state of each worker and since when (microseconds of the wall clock) it is seen.
    states: Mutex<BTreeMap<String, (&'static str, i64)>>,
}

impl StreamRuntime {
    /// True while the Delta table may lack what is published.
    pub(super) fn delta_is_behind(&self) -> bool {
        self.mirror_is_behind.load(Ordering::Relaxed)
    }

    fn workers(&self) -> [Worker; 4] {
        let stream = Some(self.definition.name.clone());
        let failure = self.writer.failure();
        let trouble = lock(&self.trouble).clone();
        let is_behind = self.delta_is_behind();
        let writer = Worker {
            name: "writer",
            stream: stream.clone(),
            state: if failure.is_some() {
                "failed"
            } else {
                "running"
            },
            is_dead: failure.is_some(),
            error: failure,
        };
        let flush = Worker {
            name: "flush",
            stream: stream.clone(),
            state: if trouble.is_some() { "retrying" } else { "ok" },
            is_dead: false,
            error: trouble,
        };
        let missing = lock(&self.pane_trouble).clone();
        let panes = Worker {
            name: "panes",
            stream: stream.clone(),
            state: if missing.is_some() { "failed" } else { "ok" },
            is_dead: false,
            error: missing,
        };
        let delta = Worker {
            name: "delta",
            stream,
            state: if is_behind { "behind" } else { "current" },
            is_dead: false,
            error: None,
        };
        [writer, flush, panes, delta]
    }
}

impl Engine {
    /// Notes that the maintenance thread runs, and asks the runtimes for a sign of life.
    pub(super) fn beat(self: &std::sync::Arc<Self>) {
        let beat = |of: fn(&HealthWatch) -> &AtomicU64| {
            // Weak: a task must not be the last to hold the runtime it runs on.
            let engine = std::sync::Arc::downgrade(self);
            async move {
                if let Some(engine) = engine.upgrade() {
                    let now = engine.clock.monotonic().as_millis() as u64;
                    of(&engine.health).store(now, Ordering::Relaxed);
                }
            }
        };
        drop(self.compute.spawn(beat(|health| &health.compute_beat_ms)));
        drop(self.batch.spawn(beat(|health| &health.batch_beat_ms)));
        self.observe(&self.workers());
    }

    /// Every worker, in the order that health shows.
    pub(super) fn workers(&self) -> Vec<Worker> {
        let is_alive = lock(&self.maintenance)
            .as_ref()
            .is_some_and(|maintenance| maintenance.is_alive());
        let maintenance = Worker {
            name: "maintenance",
            stream: None,
            state: if is_alive { "running" } else { "stopped" },
            is_dead: !is_alive,
            error: (!is_alive).then(|| "the maintenance thread has ended; see the log".to_owned()),
        };
        let trouble = self.publisher.trouble();
        let publisher = Worker {
            name: "publisher",
            stream: None,
            state: if trouble.is_some() { "retrying" } else { "ok" },
            is_dead: false,
            error: trouble,
        };
        let mut workers = vec![maintenance, publisher];
        workers.push(self.runtime_worker("compute", &self.health.compute_beat_ms));
        workers.push(self.runtime_worker("batch", &self.health.batch_beat_ms));
        let mut streams = self.all_streams();
        streams.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        workers.extend(streams.iter().flat_map(|stream| stream.workers()));
        let snapshot = self.publisher.snapshot();
        let stopped = snapshot.streams.values().filter_map(|stream| {
            Some(Worker {
                name: "writer",
                stream: Some(stream.definition.name.clone()),
                state: STOPPED,
                is_dead: false,
                error: Some(stream.stopped.as_ref()?.to_string()),
            })
        });
        workers.extend(stopped);
        workers
    }

    fn runtime_worker(&self, name: &'static str, beat_ms: &AtomicU64) -> Worker {
        let last = Duration::from_millis(beat_ms.load(Ordering::Relaxed));
        let silent = self.clock.monotonic().saturating_sub(last);
        let is_stalled = silent >= STALLED_AFTER;
        Worker {
            name,
            stream: None,
            state: if is_stalled { "stalled" } else { "running" },
            is_dead: false,
            error: is_stalled.then(|| format!("no task was run for {} s", silent.as_secs())),
        }
    }

    /// Since when each worker is in its state, in their order; a new failure is logged once.
    fn observe(&self, workers: &[Worker]) -> Vec<i64> {
        let now = self.clock.now_micros();
        let mut states = lock(&self.health.states);
        let mut next = BTreeMap::new();
        let since = workers
            .iter()
            .map(|worker| {
                let title = worker.title();
                let before = states
                    .get(&title)
                    .filter(|(state, _)| *state == worker.state);
                if before.is_none() && worker.is_dead {
                    let error = worker.error.as_deref();
                    tracing::error!(worker = title, error, "a worker is dead: not ready");
                }
                let since = before.map_or(now, |(_, since)| *since);
                next.insert(title, (worker.state, since));
                since
            })
            .collect();
        *states = next;
        since
    }

    pub(super) fn describe_health(&self) -> Health {
        let workers = self.workers();
        let since = self.observe(&workers);
        let is_stopping = self.health.is_stopping.load(Ordering::Relaxed);
        let dead: Vec<String> = workers
            .iter()
            .filter(|worker| worker.is_dead)
            .map(Worker::title)
            .collect();
        let stopped: Vec<String> = workers
            .iter()
            .filter(|worker| worker.state == STOPPED && !worker.is_dead)
            .map(Worker::title)
            .collect();
        let damaged: Vec<Value> = lock(&self.damaged_files)
            .iter()
            .map(|(path, reason)| json!({"path": path, "reason": reason}))
            .collect();
        let differing = self.audit_differences();
        let ready = dead.is_empty() && !is_stopping;
        let (status, reason) = if is_stopping {
            ("shutting_down", Some("the engine shuts down".to_owned()))
        } else if ready && !stopped.is_empty() {
            let reason = format!("stopped: {}; the others go on", stopped.join(", "));
            ("degraded", Some(reason))
        } else if ready && !damaged.is_empty() {
            let reason = "files are damaged; what needs them fails: see damaged_files";
            ("degraded", Some(reason.to_owned()))
        } else if ready && !differing.is_empty() {
            let reason = "stored states differ from a recompute: see audit_differences";
            ("degraded", Some(reason.to_owned()))
        } else if ready {
            ("ready", None)
        } else {
            let names = dead.join(", ");
            ("failed", Some(format!("dead: {names}; restart the node")))
        };
        let workers: Vec<Value> = workers
            .iter()
            .zip(since)
            .map(|(worker, since)| {
                json!({
                    "worker": worker.name,
                    "stream": worker.stream,
                    "state": worker.state,
                    "since": rfc3339(since),
                    "error": worker.error,
                })
            })
            .collect();
        let snapshot = self.publisher.snapshot();
        let details = json!({
            "status": status,
            "reason": reason,
            "version": env!("CARGO_PKG_VERSION"),
            "publication": snapshot.publication,
            "workers": workers,
            "streams": snapshot.streams.len(),
            "views": snapshot.views.len(),
            "running_recomputes": lock(&self.running).len(),
            "failed_recomputes": self.failed_recomputes(),
            "audit_differences": differing,
            "damaged_files": damaged,
        });
        Health { ready, details }
    }

    /// Views whose newest recompute that was not cancelled failed: their answers are exact, but not
    /// getting quicker.
    fn failed_recomputes(&self) -> Vec<Value> {
        let failed = |run: &Run| {
            let is_failed = run.status != RunStatus::Succeeded;
            is_failed.then(|| json!({"view": run.view, "run_id": run.run_id, "error": run.error}))
        };
        self.of_newest_runs(|run| run.kind == RunKind::Recompute, failed)
    }

    /// Views whose newest audit, of a recompute or a check, found differences in what is still
    /// served: a recompute that was published took its place.
    fn audit_differences(&self) -> Vec<Value> {
        let differing = |run: &Run| {
            let differs = !run.differences.is_empty() && run.version.is_none();
            differs.then(|| {
                json!({"view": run.view, "run_id": run.run_id, "differences": run.differences.len()})
            })
        };
        self.of_newest_runs(|run| !run.audit.is_empty(), differing)
    }

    /// What `tell` says of the newest ended run of each view that `is_one`.
    fn of_newest_runs(
        &self,
        is_one: impl Fn(&Run) -> bool,
        tell: impl Fn(&Run) -> Option<Value>,
    ) -> Vec<Value> {
        let snapshot = self.publisher.snapshot();
        let told = snapshot.views.iter().filter_map(|(name, view)| {
            // Not of another view that had its name.
            let created = view.state.created_at_micros;
            let is_one = |run: &Run| run.asked_at_micros >= created && is_one(run);
            self.history.last_ended_of(name, is_one, &tell)?
        });
        told.collect()
    }
}
