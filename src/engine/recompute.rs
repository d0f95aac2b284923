//! Recomputes: fix a cut, run the job on the batch runtime, publish the new version.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lambdalake_batch::BatchError;
use lambdalake_batch::audit::{Audit, StoredStates};
use lambdalake_batch::history::{FoundDifference, Run, RunKind, RunStatus};
use lambdalake_batch::job::{self, RecomputeJob, RecomputeOutput};
use lambdalake_batch::progress::{Phase, Progress, Told};
use lambdalake_batch::shared::Share;
use lambdalake_data::Cut;
use lambdalake_data::publication::{OnMismatch, ViewVersion};
use lambdalake_serving::engine::{EngineError, ErrorKind};
use lambdalake_serving::snapshot::ViewSnapshot;
use lambdalake_views::{Difference, FINISHED_LAYOUT};
use tokio::sync::watch;

use super::damage::{Damage, Found};
use super::pass::Turn;
use super::streams::ChangeError;
use super::{Engine, lock};

/// By view.
pub(super) type RunningViews = HashMap<String, Running>;

/// A recompute that has not ended.
pub(super) struct Running {
    pub(super) run_id: String,
    pub(super) progress: Arc<Progress>,
    pub(super) cut: Option<Cut>,
    /// Closed when the run has ended, for those who wait.
    ended: watch::Receiver<()>,
    /// What it needs to begin, while it waits for others to end.
    pub(super) queued: Option<Queued>,
    /// The run that leads its pass, itself or another, once it has begun.
    pub(super) pass: Option<String>,
}

/// See [`Running::queued`].
pub(super) struct Queued {
    pub(super) run: Run,
    pub(super) ending: watch::Sender<()>,
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
        self.progress.cancel();
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
        let run = Run::queued(run_id.clone(), name, kind, started_by, now);
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
                let message = format!("view {name} has a run that has not ended: {}", other.run_id);
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
                pass: None,
            };
            running.insert(name.to_owned(), waiting);
        }
        Ok(run_id)
    }

    /// Keeps what became of a run, and lets the view have another. Both at once for who looks: a
    /// run that has ended is in nobody's way.
    pub(super) fn end_run(&self, ended: Run) {
        let publication = self.publisher.publication();
        let is_view = |name: &str| publication.views.contains_key(name);
        if let Err(error) = self.history.make_room(&ended, is_view) {
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

    /// Does a run that has begun. What `prepared` cannot do is tried again alone, after the others.
    pub(super) fn recompute_now(
        self: &Arc<Self>,
        begun: Run,
        progress: &Arc<Progress>,
        prepared: Option<PreparedRun>,
        turn: &mut Turn,
    ) -> Run {
        let (mut run, view) = (begun.clone(), begun.view);
        let mut done = match prepared {
            Some(prepared) => self.do_job(prepared, &mut run, progress),
            None => self.recompute_alone(&view, &mut run, progress, turn),
        };
        if let Err(error) = &done
            && self.is_worth_another_try(error, turn.is_shared(), &mut run)
            && !progress.is_cancelled()
        {
            done = self.recompute_alone(&view, &mut run, progress, turn);
        }
        match done {
            Ok(()) => run.status = RunStatus::Succeeded,
            Err(_) if progress.is_cancelled() => {
                tracing::info!(view, "recompute cancelled");
                run = cancelled(run);
            }
            Err(error) => {
                tracing::warn!(view, error = format!("{error:#}"), "recompute failed");
                run.status = match is_over_budget(&error) {
                    true => RunStatus::OverBudget,
                    false => RunStatus::Failed,
                };
                run.error = Some(format!("{error:#}"));
            }
        }
        run
    }

    fn is_worth_another_try(&self, error: &anyhow::Error, is_shared: bool, run: &mut Run) -> bool {
        match Damage::in_error(error.as_ref()) {
            // The states to compare with were broken; without them there is nothing to compare.
            Some(damage) if self.note(&damage) == Found::States => {
                let Damage { path, reason } = damage;
                run.damaged.push(format!("{path}: {reason}"));
                true
            }
            Some(_) => false,
            // Alone it has all the memory.
            None => is_shared && is_over_budget(error),
        }
    }

    /// After the others of its pass, if it has one.
    fn recompute_alone(
        self: &Arc<Self>,
        name: &str,
        run: &mut Run,
        progress: &Arc<Progress>,
        turn: &mut Turn,
    ) -> anyhow::Result<()> {
        turn.leave(&self.batch, progress)?;
        progress.enter(Phase::Flushing);
        let views = self.fix_cut(&[name])?;
        let Some(Some(view)) = views.into_iter().next() else {
            anyhow::bail!("view {name} is gone");
        };
        let prepared = self.prepare_run(view, run, progress);
        self.do_job(prepared, run, progress)
    }

    /// Describes the job of a run whose cut is fixed.
    pub(super) fn prepare_run(
        &self,
        view: Arc<ViewSnapshot>,
        run: &mut Run,
        progress: &Progress,
    ) -> PreparedRun {
        run.cut = view.stream.state.cut.clone();
        let master = view.stream.master_files();
        progress.begin_reading(&master, self.history.last_timing_of(&run.view));
        self.history.update(run.clone());
        let job = RecomputeJob {
            run_id: run.run_id.clone(),
            view: Arc::clone(&view.view),
            schema: Arc::clone(&view.stream.schema),
            master,
            output_folder: view.state.folder(),
            previous: previous_states(&view),
            states_budget: has_long_states(&view).then_some(self.settings.batch_states_bytes),
        };
        PreparedRun {
            view,
            job,
            share: None,
        }
    }

    fn do_job(
        self: &Arc<Self>,
        prepared: PreparedRun,
        run: &mut Run,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<()> {
        let PreparedRun { view, job, share } = prepared;
        let (name, cut) = (&view.state.name, run.cut.clone());
        let (disk, task) = (Arc::clone(&self.disk), Arc::clone(&self.batch_task));
        let counted = Arc::clone(progress);
        let work = async move { job::run(&job, share, &disk, &task, &counted).await };
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

    /// Flushes, and pins a snapshot whose flush cut is the cut of the runs of these views, all of
    /// one stream. Under the stream's flush lock, so that no pane is combined across the cut
    /// between the two. `None` for a view that is gone.
    pub(super) fn fix_cut(
        self: &Arc<Self>,
        names: &[&str],
    ) -> anyhow::Result<Vec<Option<Arc<ViewSnapshot>>>> {
        let find = || {
            let snapshot = self.publisher.snapshot();
            let views = names.iter().map(|&name| snapshot.views.get(name).cloned());
            views.collect::<Vec<_>>()
        };
        let views = find();
        let Some(view) = views.iter().flatten().next() else {
            return Ok(views);
        };
        let stream = &view.state.stream;
        let runtime = self
            .stream_runtime(stream)
            .ok_or_else(|| anyhow::anyhow!("stream {stream} is gone"))?;
        self.flush_stream(&runtime)?;
        let flush_lock = lock(&runtime.flush);
        // A view may have been made again meanwhile, over another stream.
        let is_of_it = |view: &Arc<ViewSnapshot>| view.state.stream == *stream;
        let views: Vec<_> = find()
            .into_iter()
            .map(|view| view.filter(is_of_it))
            .collect();
        let mut running = lock(&self.running);
        for view in views.iter().flatten() {
            if let Some(running) = running.get_mut(&view.state.name) {
                running.cut = Some(view.stream.state.cut.clone());
            }
        }
        drop(flush_lock);
        Ok(views)
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

/// A run whose cut is fixed.
pub(super) struct PreparedRun {
    pub(super) view: Arc<ViewSnapshot>,
    pub(super) job: RecomputeJob,
    /// Its part of a scan that other runs read, too.
    pub(super) share: Option<Share>,
}

fn has_long_states(view: &ViewSnapshot) -> bool {
    view.view.aggregates().iter().any(|it| it.data_sized)
}

/// The stored states of exactly the events before the flush cut, if nothing is missing.
fn previous_states(view: &ViewSnapshot) -> Option<StoredStates> {
    let has_states = view.version.is_some() || !view.panes.is_empty();
    (has_states && view.gaps().is_empty()).then(|| StoredStates {
        version: view.version_files(),
        panes: view.pane_files(),
    })
}

/// Memory did not suffice, or states took more than they may.
fn is_over_budget(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<BatchError>();
    error.is_some_and(BatchError::is_over_budget)
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
