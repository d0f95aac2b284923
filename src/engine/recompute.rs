//! Recomputes: fix a cut, run the job on the batch runtime, publish the new version.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lambdalake_batch::audit::Audit;
use lambdalake_batch::history::{FoundDifference, Run, RunKind, RunStatus};
use lambdalake_batch::job::{self, RecomputeJob, RecomputeOutput};
use lambdalake_batch::progress::{Counts, Phase, Progress, Timing, Told};
use lambdalake_data::Cut;
use lambdalake_data::publication::{OnMismatch, ViewVersion};
use lambdalake_data::scan::ScanFile;
use lambdalake_serving::engine::{EngineError, ErrorKind};
use lambdalake_serving::snapshot::ViewSnapshot;
use lambdalake_views::{Difference, FINISHED_LAYOUT, PLANNING_STACK_BYTES};
use tokio::sync::watch;

use super::damage::{Damage, Found};
use super::streams::ChangeError;
use super::{Engine, lock};

/// A recompute that has not ended.
pub(super) struct Running {
    run_id: String,
    progress: Arc<Progress>,
    cut: Option<Cut>,
    /// Closed when the run has ended, for those who wait.
    ended: watch::Receiver<()>,
    /// What it needs to begin, while it waits for others to end.
    queued: Option<Queued>,
}

/// See [`Running::queued`].
struct Queued {
    run: Run,
    ending: watch::Sender<()>,
}

impl Running {
    /// The cut it recomputes up to, once fixed. No pane may be combined across it.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.cut.clone()
    }

    pub(super) fn is_queued(&self) -> bool {
        self.queued.is_some()
    }

    pub(super) fn cancel(&self) {
        self.progress.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn told(&self) -> Told {
        self.progress.told()
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }
}

impl Engine {
    /// Starts a recompute, or has it wait until so many others run no more.
    pub(super) fn start_recompute(
        self: &Arc<Self>,
        name: &str,
        started_by: String,
    ) -> Result<String, EngineError> {
        self.start_run(name, started_by, RunKind::Recompute)
    }

    /// The same for a run of any kind.
    pub(super) fn start_run(
        self: &Arc<Self>,
        name: &str,
        started_by: String,
        kind: RunKind,
    ) -> Result<String, EngineError> {
        let run_id = self.queue_run(name, started_by, kind)?;
        self.start_queued();
        Ok(run_id)
    }

    /// Has a run wait for [`Self::start_queued`].
    pub(super) fn queue_run(
        &self,
        name: &str,
        started_by: String,
        kind: RunKind,
    ) -> Result<String, EngineError> {
        let publication = self.publisher.publication();
        let Some(view) = publication.views.get(name) else {
            let message = format!("there is no view {name}");
            return Err(EngineError::not_found("unknown_view", message));
        };
        self.refuse_stopped(&view.stream)?;
        let now = self.clock.now_micros();
        let run_id = format!("{now:016}-{name}");
        let (ending, ended) = watch::channel(());
        let run = Run {
            run_id: run_id.clone(),
            view: name.to_owned(),
            kind,
            status: RunStatus::Queued,
            started_by,
            asked_at_micros: now,
            started_at_micros: now,
            duration_ms: 0,
            counts: Counts::default(),
            timing: Timing::default(),
            states_rows: 0,
            cut: Cut::default(),
            audit: String::new(),
            groups_compared: 0,
            differences: Vec::new(),
            version: None,
            error: None,
        };
        {
            let mut running = lock(&self.running);
            // Under the lock, under which a server that stops looks for runs to end.
            if self.health.is_stopping.load(Ordering::Relaxed) {
                let message = "the server is stopping";
                return Err(EngineError::new(
                    ErrorKind::Unavailable,
                    "not_ready",
                    message,
                ));
            }
            if let Some(other) = running.get(name) {
                let message = format!("view {name} is being recomputed by run {}", other.run_id);
                return Err(EngineError::new(
                    ErrorKind::Conflict,
                    "already_running",
                    message,
                ));
            }
            self.history.update(run.clone());
            let waiting = Running {
                run_id: run_id.clone(),
                progress: Arc::new(Progress::new(Arc::clone(&self.clock))),
                cut: None,
                ended,
                queued: Some(Queued { run, ending }),
            };
            running.insert(name.to_owned(), waiting);
        }
        Ok(run_id)
    }

    /// Starts what waits longest, as long as fewer run than may.
    pub(super) fn start_queued(self: &Arc<Self>) {
        loop {
            let (queued, progress) = {
                let mut running = lock(&self.running);
                let waiting = running.values().filter(|run| run.is_queued()).count();
                if running.len() - waiting >= self.settings.recompute_concurrency {
                    return;
                }
                // Names of runs begin with the time.
                let next = running.values_mut().filter(|run| run.is_queued());
                let Some(next) = next.min_by(|a, b| a.run_id.cmp(&b.run_id)) else {
                    return;
                };
                (next.queued.take(), Arc::clone(&next.progress))
            };
            if let Some(queued) = queued {
                self.spawn_recompute(queued, progress);
            }
        }
    }

    /// Runs in a thread of its own.
    fn spawn_recompute(self: &Arc<Self>, queued: Queued, progress: Arc<Progress>) {
        let Queued { run, ending } = queued;
        let begun = Run {
            status: RunStatus::Running,
            started_at_micros: self.clock.now_micros(),
            ..run
        };
        self.history.update(begun.clone());
        let (engine, unspawned) = (Arc::clone(self), begun.clone());
        let spawned = std::thread::Builder::new()
            .name("recompute".to_owned())
            .stack_size(PLANNING_STACK_BYTES)
            .spawn(move || {
                let started = engine.clock.monotonic();
                // Whatever happens, the run must end and the view be free for the next one.
                let work = AssertUnwindSafe(|| engine.recompute_now(begun.clone(), &progress));
                let mut ended = catch_unwind(work).unwrap_or_else(|_| Run {
                    status: RunStatus::Failed,
                    error: Some("the recompute panicked; see the log".to_owned()),
                    ..begun
                });
                ended.duration_ms = (engine.clock.monotonic() - started).as_millis() as u64;
                ended.counts = progress.told().counts;
                ended.timing = progress.timing();
                engine.meters.recomputed(&ended);
                engine.end_run(ended);
                engine.start_queued();
                drop(ending);
            });
        if let Err(error) = spawned {
            self.end_run(Run {
                status: RunStatus::Failed,
                error: Some(format!("no thread for the recompute: {error}")),
                ..unspawned
            });
        }
    }

    /// Keeps what became of a run, and lets the view have another. Both at once for who looks: a
    /// run that has ended is in nobody's way.
    fn end_run(&self, ended: Run) {
        if let Err(error) = self.history.make_room() {
            tracing::warn!(%error, "old runs could not be removed");
        }
        if let Err(error) = self.history.store(&ended) {
            tracing::warn!(%error, "the run's history could not be stored");
        }
        let mut running = lock(&self.running);
        running.remove(&ended.view);
        self.history.update(ended);
    }

    /// Asks a run to end. One that waits ends at once.
    pub(super) fn cancel_recompute(&self, run_id: &str) -> Result<(), EngineError> {
        let queued = {
            let mut running = lock(&self.running);
            let Some(found) = running.values_mut().find(|it| it.run_id == run_id) else {
                drop(running);
                return Err(match self.history.get(run_id) {
                    Some(_) => {
                        let message = format!("run {run_id} has ended");
                        EngineError::new(ErrorKind::Conflict, "run_ended", message)
                    }
                    None => {
                        let message = format!("there is no run {run_id}");
                        EngineError::not_found("unknown_run", message)
                    }
                });
            };
            found.cancel();
            found.queued.take()
        };
        if let Some(Queued { run, ending }) = queued {
            self.end_run(cancelled(run));
            drop(ending);
        }
        Ok(())
    }

    /// Asks the view's run to end, if it has one.
    pub(super) fn cancel_run_of(&self, view: &str) {
        let run_id = lock(&self.running).get(view).map(|run| run.run_id.clone());
        if let Some(Err(error)) = run_id.map(|run_id| self.cancel_recompute(&run_id)) {
            tracing::debug!(view, %error, "its run has just ended");
        }
    }

    /// Waits until a run has ended. Returns at once if it is not running.
    pub(super) async fn run_ended(&self, run_id: &str) {
        let ended = lock(&self.running)
            .values()
            .find(|running| running.run_id == run_id)
            .map(|running| running.ended.clone());
        if let Some(mut ended) = ended {
            // An error means that the sender is gone, which is the end we wait for.
            while ended.changed().await.is_ok() {}
        }
    }

    fn recompute_now(self: &Arc<Self>, begun: Run, progress: &Arc<Progress>) -> Run {
        let (mut run, view) = (begun.clone(), begun.view);
        let mut done = self.try_recompute(&view, &mut run, progress);
        if let Err(error) = &done
            && let Some(damage) = Damage::in_error(error.as_ref())
            && self.note(&damage) == Found::States
        {
            // The states to compare with were broken; without them there is nothing to compare.
            done = self.try_recompute(&view, &mut run, progress);
        }
        match done {
            Ok(()) => run.status = RunStatus::Succeeded,
            Err(_) if progress.cancelled.load(Ordering::Relaxed) => {
                tracing::info!(view, "recompute cancelled");
                run = cancelled(run);
            }
            Err(error) => {
                tracing::warn!(view, error = format!("{error:#}"), "recompute failed");
                run.status = RunStatus::Failed;
                run.error = Some(format!("{error:#}"));
            }
        }
        run
    }

    fn try_recompute(
        self: &Arc<Self>,
        name: &str,
        run: &mut Run,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<()> {
        progress.enter(Phase::Flushing);
        let view = self.fix_cut(name)?;
        let cut = view.stream.state.cut.clone();
        run.cut = cut.clone();
        let master = view.stream.master_files();
        progress.begin_reading(&master, self.history.last_timing_of(name));
        self.history.update(run.clone());
        let job = RecomputeJob {
            run_id: run.run_id.clone(),
            view: Arc::clone(&view.view),
            schema: Arc::clone(&view.stream.schema),
            master,
            output_folder: view.state.folder(),
            previous: previous_states(&view),
        };
        let (disk, task) = (Arc::clone(&self.disk), Arc::clone(&self.batch_task));
        let counted = Arc::clone(progress);
        let work = async move { job::run(&job, None, &disk, &task, &counted).await };
        let output = self.batch.block_on(self.batch.spawn(work))??;
        run.audit = output.audit.word().to_owned();
        run.states_rows = output.files.iter().map(|file| file.rows).sum();
        if let Audit::Compared(found) = &output.audit {
            run.groups_compared = found.groups;
            run.differences = found.differences.iter().map(told).collect();
        }
        let differs = !run.differences.is_empty();
        if differs {
            self.meters.differs(name);
            tracing::error!(
                view = name,
                run_id = run.run_id,
                "the stored states differ from a recompute: {}",
                shown(&run.differences)
            );
        }
        let holds = differs && view.state.on_mismatch == OnMismatch::Hold;
        if run.kind == RunKind::Verify || holds {
            for file in &output.files {
                self.disk.remove(&file.path)?;
            }
        }
        if run.kind == RunKind::Verify {
            return Ok(());
        }
        anyhow::ensure!(
            !holds,
            "the audit found that the stored states differ from a recompute ({}); nothing was \
             published. To take what was recomputed, ALTER MATERIALIZED VIEW {name} SET \
             (on_mismatch = 'publish') and recompute it",
            shown(&run.differences)
        );
        progress.enter(Phase::Publishing);
        run.version = Some(self.publish_version(&view, cut, output, &run.run_id)?);
        Ok(())
    }

    /// Flushes, and pins a snapshot whose flush cut is the run's cut. Under the stream's flush
    /// lock, so that no pane is combined across the cut between the two.
    fn fix_cut(self: &Arc<Self>, name: &str) -> anyhow::Result<Arc<ViewSnapshot>> {
        let find = || {
            let snapshot = self.publisher.snapshot();
            snapshot
                .views
                .get(name)
                .cloned()
                .ok_or_else(|| anyhow::anyhow!("view {name} is gone"))
        };
        let stream = find()?.state.stream.clone();
        let runtime = self
            .stream_runtime(&stream)
            .ok_or_else(|| anyhow::anyhow!("stream {stream} is gone"))?;
        self.flush_stream(&runtime)?;
        let flush_lock = lock(&runtime.flush);
        let view = find()?;
        if let Some(running) = lock(&self.running).get_mut(name) {
            running.cut = Some(view.stream.state.cut.clone());
        }
        drop(flush_lock);
        Ok(view)
    }

    fn publish_version(
        &self,
        view: &ViewSnapshot,
        cut: Cut,
        output: RecomputeOutput,
        run_id: &str,
    ) -> anyhow::Result<u64> {
        let now = self.clock.now_micros();
        let published = self.publisher.change(|next| -> Result<u64, ChangeError> {
            let state = next
                .views
                .get_mut(&view.state.name)
                .filter(|state| state.incarnation == view.state.incarnation)
                .ok_or(ChangeError::Unchanged)?;
            let state = Arc::make_mut(state);
            let number = state.version.as_ref().map_or(0, |version| version.number) + 1;
            state.definition_hash = view.view.definition_hash().to_owned();
            state.panes.retain(|pane| pane.range.from.covers(&cut));
            state.version = Some(ViewVersion {
                number,
                cut,
                files: output.files,
                finished_layout: output.has_finished.then_some(FINISHED_LAYOUT),
                created_at_micros: now,
                run_id: run_id.to_owned(),
            });
            Ok(number)
        });
        published.map_err(|error| match error {
            ChangeError::Unchanged => anyhow::anyhow!(
                "the view was dropped, or a column it reads changed its type, during the run"
            ),
            other => other.into_engine().into(),
        })
    }
}

/// The stored states of exactly the events before the flush cut, if nothing is missing.
fn previous_states(view: &ViewSnapshot) -> Option<Vec<ScanFile>> {
    let has_states = view.version.is_some() || !view.panes.is_empty();
    (has_states && view.gaps().is_empty())
        .then(|| [view.version_files(), view.pane_files()].concat())
}

fn cancelled(run: Run) -> Run {
    Run {
        status: RunStatus::Cancelled,
        error: Some("the run was cancelled; the version before it stays".to_owned()),
        ..run
    }
}

fn told(difference: &Difference) -> FoundDifference {
    FoundDifference {
        key: difference.key.clone(),
        column: difference.column.clone(),
        stored: difference.left.clone(),
        recomputed: difference.right.clone(),
    }
}

fn shown(differences: &[FoundDifference]) -> String {
    let shown = differences.iter().map(|it| {
        let FoundDifference {
            key,
            column,
            stored,
            recomputed,
        } = it;
        format!("{key} {column}: stored {stored}, recomputed {recomputed}")
    });
    shown.collect::<Vec<_>>().join("; ")
}
