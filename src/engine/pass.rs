//! Passes: runs of one stream that are due together read the master dataset once.
//!
//! ```text
//!   queue: v1 v2 w1 v3  ->  pass v1 v2 v3 (one cut, one scan)  ->  pass w1
//!                           each: map, combine, sort    at the same time
//!                           each: write, compare, publish    one after another
//! ```
//!
//! A pass counts as one run where a setting limits how many go on at a time. What fails in a pass
//! for want of memory, or because of damaged states, is tried again alone, after the others.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::FutureExt;
use lambdalake_batch::BatchError;
use lambdalake_batch::history::{Run, RunStatus};
use lambdalake_batch::progress::{Phase, Progress};
use lambdalake_batch::shared::{Share, SharedScan};
use lambdalake_data::publication::{Publication, ViewState};
use lambdalake_views::PLANNING_STACK_BYTES;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::recompute::{PreparedRun, Queued, RunningViews};
use super::{Engine, lock};

/// What states take in memory, for each byte that they take on disk.
const EXPANSION: u64 = 6;

/// A run that begins.
struct Begun {
    run: Run,
    progress: Arc<Progress>,
    /// Dropped when it has ended.
    ending: watch::Sender<()>,
    ended: watch::Receiver<()>,
}

/// When a run of a pass may do what only one of them does at a time.
#[derive(Default)]
pub(super) struct Turn {
    /// Dropped when the run has ended, or leaves its turn to the others.
    own: Option<watch::Sender<()>>,
    /// The turns of the runs before it and after it, and the ends of those before it.
    earlier: Vec<watch::Receiver<()>>,
    later: Vec<watch::Receiver<()>>,
    ends: Vec<watch::Receiver<()>>,
}

impl Turn {
    pub(super) fn is_shared(&self) -> bool {
        self.own.is_some()
    }

    /// Lets the others go first, and waits for them. Who leaves its turn, too, keeps its place.
    /// Errors: `Cancelled`.
    pub(super) fn leave(
        &mut self,
        runtime: &Runtime,
        progress: &Progress,
    ) -> Result<(), BatchError> {
        self.own = None;
        let others = std::mem::take(&mut self.later).into_iter();
        let others = others.chain(std::mem::take(&mut self.ends));
        runtime.block_on(progress.unless_cancelled(all_closed(others).map(Ok)))
    }
}

/// A turn for each run of a pass.
fn turns(begun: &[Begun]) -> Vec<Turn> {
    if begun.len() < 2 {
        return begun.iter().map(|_| Turn::default()).collect();
    }
    let signals = begun.iter().map(|_| watch::channel(()));
    let (own, signals): (Vec<_>, Vec<_>) = signals.unzip();
    let ends: Vec<_> = begun.iter().map(|begun| begun.ended.clone()).collect();
    let turn = |(at, own)| Turn {
        own: Some(own),
        earlier: signals[..at].to_vec(),
        later: signals[at + 1..].to_vec(),
        ends: ends[..at].to_vec(),
    };
    own.into_iter().enumerate().map(turn).collect()
}

async fn all_closed(signals: impl Iterator<Item = watch::Receiver<()>>) {
    for mut signal in signals {
        // An error means that the sender is gone, which is what we wait for.
        while signal.changed().await.is_ok() {}
    }
}

/// What a view's states may take in memory, from what its last version takes on disk.
fn expected_bytes(state: &ViewState) -> u64 {
    let files = state.version.iter().flat_map(|version| &version.files);
    EXPANSION * files.map(|file| file.bytes).sum::<u64>()
}

fn spawn_recompute(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("recompute".to_owned());
    thread.stack_size(PLANNING_STACK_BYTES).spawn(work)?;
    Ok(())
}

impl Engine {
    /// Starts what waits longest, as long as fewer passes go on than may.
    pub(super) fn start_queued(self: &Arc<Self>) {
        loop {
            let publication = self.publisher.publication();
            let mut begun = Vec::new();
            {
                let mut running = lock(&self.running);
                let passes = running.values().filter_map(|run| run.pass.as_ref());
                if passes.collect::<BTreeSet<_>>().len() >= self.settings.recompute_concurrency {
                    return;
                }
                let views = self.next_pass(&running, &publication);
                let lead = views.first().and_then(|lead| running.get(lead));
                let Some(lead) = lead.map(|lead| lead.run_id.clone()) else {
                    return;
                };
                for view in &views {
                    let found = running.get_mut(view);
                    if let Some((found, queued)) =
                        found.and_then(|found| found.queued.take().map(|queued| (found, queued)))
                    {
                        found.pass = Some(lead.clone());
                        let others = views.iter().filter(|other| *other != view);
                        begun.push(self.begin(queued, &found.progress, others.cloned().collect()));
                    }
                }
            }
            self.spawn_pass(begun);
        }
    }

    /// The views of the next pass: that which waits longest, and those of the same stream that wait
    /// behind it, as long as their states are expected to fit into memory together.
    fn next_pass(&self, running: &RunningViews, publication: &Publication) -> Vec<String> {
        let queued = running.iter().filter(|(_, run)| run.is_queued());
        let mut queued: Vec<_> = queued.map(|(view, run)| (&run.run_id, view)).collect();
        // Names of runs begin with the time.
        queued.sort_unstable();
        let mut queued = queued.into_iter().map(|(_, view)| view);
        let Some(lead) = queued.next() else {
            return Vec::new();
        };
        let mut pass = vec![lead.clone()];
        let Some(lead) = publication.views.get(lead) else {
            return pass;
        };
        let mut bytes = expected_bytes(lead);
        for view in queued {
            let Some(state) = publication.views.get(view) else {
                continue;
            };
            let with_it = bytes.saturating_add(expected_bytes(state));
            if pass.len() < self.settings.recompute_shared_views
                && state.stream == lead.stream
                && with_it <= self.settings.batch_memory_bytes as u64
            {
                bytes = with_it;
                pass.push(view.clone());
            }
        }
        pass
    }

    fn begin(&self, queued: Queued, progress: &Arc<Progress>, shared_with: Vec<String>) -> Begun {
        let Queued { run, ending } = queued;
        let run = Run {
            status: RunStatus::Running,
            started_at_micros: self.clock.now_micros(),
            shared_with,
            ..run
        };
        self.history.update(run.clone());
        Begun {
            run,
            progress: Arc::clone(progress),
            ended: ending.subscribe(),
            ending,
        }
    }

    fn spawn_pass(self: &Arc<Self>, mut begun: Vec<Begun>) {
        let runs: Vec<_> = begun.iter().map(|begun| begun.run.clone()).collect();
        let engine = Arc::clone(self);
        let spawned = spawn_recompute(move || {
            let turns = turns(&begun);
            let mut prepared: Vec<_> = begun.iter().map(|_| None).collect();
            if begun.len() > 1 {
                // Whatever happens, the runs must end: each alone finds out what is wrong.
                let work = AssertUnwindSafe(|| engine.prepare_pass(&mut begun, &turns));
                match catch_unwind(work) {
                    Ok(Ok(shared)) => prepared = shared,
                    Ok(Err(error)) => {
                        let error = format!("{error:#}");
                        tracing::warn!(error, "no shared pass; each view is recomputed alone");
                    }
                    Err(_) => tracing::error!("a shared pass panicked; each is recomputed alone"),
                }
            }
            let mut parts = begun.into_iter().zip(prepared).zip(turns);
            let first = parts.next();
            for ((begun, prepared), turn) in parts {
                engine.spawn_run(begun, prepared, turn);
            }
            if let Some(((begun, prepared), turn)) = first {
                engine.run_to_end(begun, prepared, turn);
            }
        });
        if let Err(error) = spawned {
            runs.into_iter()
                .for_each(|run| self.end_unspawned(run, &error));
        }
    }

    fn spawn_run(self: &Arc<Self>, begun: Begun, prepared: Option<PreparedRun>, turn: Turn) {
        let (engine, run) = (Arc::clone(self), begun.run.clone());
        let spawned = spawn_recompute(move || engine.run_to_end(begun, prepared, turn));
        if let Err(error) = spawned {
            self.end_unspawned(run, &error);
        }
    }

    fn end_unspawned(&self, run: Run, error: &std::io::Error) {
        self.end_run(Run {
            status: RunStatus::Failed,
            error: Some(format!("no thread for the recompute: {error}")),
            ..run
        });
    }

    /// Fixes one cut for all, and shares the scan among those whose views are still there.
    fn prepare_pass(
        self: &Arc<Self>,
        begun: &mut [Begun],
        turns: &[Turn],
    ) -> anyhow::Result<Vec<Option<PreparedRun>>> {
        begun
            .iter()
            .for_each(|it| it.progress.enter(Phase::Flushing));
        let names: Vec<String> = begun.iter().map(|it| it.run.view.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let views = self.fix_cut(&names)?;
        let mut prepared = Vec::new();
        for (view, begun) in views.into_iter().zip(begun.iter_mut()) {
            let Begun { run, progress, .. } = begun;
            prepared.push(view.map(|view| self.prepare_run(view, run, progress)));
        }
        let jobs = prepared.iter().zip(begun.iter());
        let jobs = jobs.filter_map(|(it, begun)| Some((&it.as_ref()?.job, &begun.progress)));
        let jobs: Vec<_> = jobs.collect();
        let Some((first, _)) = jobs.first() else {
            return Ok(prepared);
        };
        let (scan, events) = SharedScan::of(&first.master, &first.schema, &jobs, &self.batch_task)?;
        let sharing = prepared.iter_mut().zip(turns);
        let sharing = sharing.filter_map(|(prepared, turn)| Some((prepared.as_mut()?, turn)));
        for ((prepared, turn), events) in sharing.zip(events) {
            let after = all_closed(turn.earlier.clone().into_iter()).boxed();
            prepared.share = Some(Share { events, after });
        }
        let _detached = self.batch.spawn(scan.run(Arc::clone(&self.batch_task)));
        Ok(prepared)
    }

    fn run_to_end(self: &Arc<Self>, begun: Begun, prepared: Option<PreparedRun>, mut turn: Turn) {
        let Begun {
            run,
            progress,
            ending,
            ..
        } = begun;
        let (started, memory) = (self.clock.monotonic(), self.batch_pool.watch());
        // Whatever happens, the run must end and the view be free for the next one.
        let work =
            AssertUnwindSafe(|| self.recompute_now(run.clone(), &progress, prepared, &mut turn));
        let mut ended = catch_unwind(work).unwrap_or_else(|_| Run {
            status: RunStatus::Failed,
            error: Some("the recompute panicked; see the log".to_owned()),
            ..run
        });
        ended.duration_ms = (self.clock.monotonic() - started).as_millis() as u64;
        ended.counts = progress.told().counts;
        ended.timing = progress.timing();
        ended.memory_bytes = memory.most() as u64;
        self.meters.recomputed(&ended);
        self.end_run(ended);
        drop(turn);
        self.start_queued();
        drop(ending);
    }
}
