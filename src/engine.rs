//! The engine: the only place that knows all layers, and joins them.
//!
//! ```text
//!   HTTP (serving) --port--> ingest --> writer thread per stream (speed) --> publisher
//!                            query  --> snapshot <-------------------------- publisher
//!   maintenance thread ----> flush  --> master dataset, panes -------------> publisher
//!                            recompute (batch thread) ---------------------> publisher
//! ```
//!
//! Three runtimes keep work apart: the I/O runtime serves HTTP, `compute` plans and runs
//! queries and maps events, `batch` recomputes at a low priority, within memory of its own.

mod columns;
mod comments;
mod damage;
mod describe;
mod expect;
mod flush;
mod health;
mod ingest;
mod keys;
mod maintenance;
mod merge;
mod meters;
mod pass;
mod port;
pub(crate) mod publisher;
mod recompute;
pub(crate) mod rewrite;
mod schedule;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{SessionConfig, SessionContext};
use lambdalake_batch::history::History;
use lambdalake_batch::memory::{BatchPool, sort_reservation_bytes, spill_merge_fan_in};
use lambdalake_batch::triggers::Triggers;
use lambdalake_data::delta::DeltaMirror;
use lambdalake_data::disk::STAGING;
use lambdalake_data::schema::StreamDefinition;
use lambdalake_data::{Clock, Disk, SystemClock};
use lambdalake_serving::query::{Queries, runtime_env, session_config};
use lambdalake_serving::snapshot::Snapshot;
use lambdalake_speed::Mapper;
use lambdalake_speed::keys::{RememberedKeys, RunningKeys};
use lambdalake_speed::writer::WriterHandle;
use lambdalake_views::PLANNING_STACK_BYTES;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::settings::Settings;
pub use port::Port;
use publisher::Publisher;
pub use publisher::states_files;
use recompute::RunningViews;

/// What failed in the background is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// What one stream has beside its state in the publication log.
struct StreamRuntime {
    definition: StreamDefinition,
    writer: WriterHandle,
    /// Shared with the writer.
    keys: Arc<RememberedKeys>,
    /// Held for a whole flush: one at a time, and a recompute fixes its cut under it.
    flush: Mutex<DeltaMirror>,
    /// Wakes the requests that wait for room in the tail.
    room: Arc<Notify>,
    /// When the maintenance thread first saw the tail it holds now.
    waiting_since: Mutex<Option<Duration>>,
    /// Where the stream ended when the maintenance thread looked, and since when.
    quiet: Mutex<Option<damage::Quiet>>,
    /// Delta may lack what is published: after a start, and after a failed commit.
    mirror_is_behind: AtomicBool,
    /// Integer columns that hold what no float can: no use to try and widen them again.
    never_widened: Mutex<HashSet<String>>,
    /// A thread writes outdated files again, or merges small ones.
    is_rewriting: AtomicBool,
    /// When that failed last; it is tried again after [`RETRY`].
    rewrite_failed: Mutex<Option<Duration>>,
    /// The last flush or Delta commit failed with this; cleared by the next success.
    trouble: Mutex<Option<String>>,
    /// The last flush stored no pane of some view because of this; cleared by the next that does.
    pane_trouble: Mutex<Option<String>>,
}

pub struct Engine {
    settings: Settings,
    disk: Arc<Disk>,
    clock: Arc<dyn Clock>,
    publisher: Arc<Publisher>,
    streams: Mutex<BTreeMap<String, Arc<StreamRuntime>>>,
    mapper: Mapper,
    queries: Arc<Queries>,
    batch_task: Arc<TaskContext>,
    batch_pool: Arc<BatchPool>,
    has_upkeep: bool,
    history: History,
    running: Mutex<RunningViews>,
    /// When it was opened.
    started_micros: i64,
    triggers: Mutex<HashMap<String, Arc<Triggers>>>,
    next_runs: Mutex<HashMap<String, schedule::KnownNext>>,
    running_keys: Arc<RunningKeys>,
    /// Views whose states began anew and wait for a recompute.
    to_fill: Mutex<BTreeMap<String, &'static str>>,
    /// Master files found damaged while the engine runs, and what is wrong with them.
    damaged_files: Mutex<BTreeMap<String, String>>,
    /// Real folder for bodies that have to be whole before they can be read.
    spool: PathBuf,
    maintenance: Mutex<Option<maintenance::Maintenance>>,
    meters: meters::EngineMeters,
    pools: [meters::Pool; 3],
    health: health::HealthWatch,
    // Last: runtimes end after everything that runs on them. `None` once shut down.
    compute: Runtime,
    batch: Runtime,
}

/// What an engine has around it, all of which a simulation replaces.
pub struct Surroundings {
    pub disk: Arc<Disk>,
    pub clock: Arc<dyn Clock>,
    /// A real folder for DataFusion's spilling and for bodies that have to be whole before they
    /// can be read.
    pub spill: PathBuf,
    /// Threads of a query; a recompute takes as many, at a low priority.
    pub cores: usize,
    /// Whether a thread does what is due; else [`Engine::upkeep`] is called.
    pub has_upkeep: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn task_context(env: Arc<RuntimeEnv>, config: SessionConfig) -> Arc<TaskContext> {
    SessionContext::new_with_config_rt(config, env).task_ctx()
}

impl Engine {
    /// Opens the data folder, replays the logs and starts the threads.
    pub fn open(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let disk = Disk::open(&settings.data_dir)?;
        let spill = disk.shown(STAGING).join("spill");
        std::fs::create_dir_all(&spill).context("create the folder for spilled data")?;
        let surroundings = Surroundings {
            disk,
            clock: Arc::new(SystemClock::default()),
            spill,
            cores: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            has_upkeep: true,
        };
        Self::open_in(settings, surroundings)
    }

    /// The same in any surroundings.
    pub fn open_in(settings: Settings, surroundings: Surroundings) -> anyhow::Result<Arc<Self>> {
        let Surroundings {
            disk,
            clock,
            spill,
            cores,
            has_upkeep,
        } = surroundings;
        let compute = runtime("compute", cores, || ())?;
        let batch = runtime("batch", cores, step_back)?;
        let fair = |bytes| Arc::new(FairSpillPool::new(bytes));
        let query_env = runtime_env(&disk, fair(settings.query_memory_bytes), &spill)?;
        let speed_env = runtime_env(&disk, fair(settings.speed_memory_bytes), &spill)?;
        let batch_pool = Arc::new(BatchPool::new(settings.batch_memory_bytes));
        let batch_env = runtime_env(&disk, Arc::clone(&batch_pool) as _, &spill)?;
        let fan_in = spill_merge_fan_in(settings.batch_memory_bytes, cores);
        batch_env.disk_manager.set_max_spill_merge_fan_in(fan_in);
        let batch_config = session_config(cores)
            .with_sort_spill_reservation_bytes(sort_reservation_bytes(settings.batch_memory_bytes));
        let pool = |name, env: &Arc<RuntimeEnv>, limit_bytes| meters::Pool {
            name,
            pool: Arc::clone(&env.memory_pool),
            limit_bytes,
        };
        let pools = [
            pool("query", &query_env, settings.query_memory_bytes),
            pool("speed", &speed_env, settings.speed_memory_bytes),
            pool("batch", &batch_env, settings.batch_memory_bytes),
        ];
        let meters = meters::EngineMeters::new(clock.monotonic())?;
        let mapper = Mapper::new(task_context(speed_env, session_config(cores)));
        let queries = Arc::new(Queries::new(compute.handle().clone(), query_env, cores));
        let publisher = Publisher::open(
            Arc::clone(&disk),
            mapper.clone(),
            settings.view_state_budget_bytes,
        )?;
        let engine = Arc::new(Self {
            history: History::open(Arc::clone(&disk), settings.recompute_runs_kept)?,
            batch_task: task_context(batch_env, batch_config),
            batch_pool,
            has_upkeep,
            started_micros: clock.now_micros(),
            triggers: Mutex::default(),
            next_runs: Mutex::default(),
            settings,
            disk,
            clock,
            publisher: Arc::new(publisher),
            streams: Mutex::default(),
            mapper,
            queries,
            running: Mutex::default(),
            running_keys: Arc::default(),
            to_fill: Mutex::default(),
            damaged_files: Mutex::default(),
            spool: spill,
            maintenance: Mutex::default(),
            meters,
            pools,
            health: health::HealthWatch::default(),
            compute,
            batch,
        });
        damage::expect_all(&engine.disk, &engine.publisher.publication());
        for state in engine.publisher.publication().streams.values() {
            engine.start_or_stop(state);
        }
        engine.publisher.remove_orphans()?;
        engine.rebuild_broken_states();
        if has_upkeep {
            *lock(&engine.maintenance) = Some(maintenance::Maintenance::start(&engine)?);
        }
        Ok(engine)
    }

    /// Flushes what is in the tails and ends the threads. Everything acknowledged is in the
    /// log in any case; the flush only makes the next start quicker.
    pub fn shut_down(&self) {
        let is_stopping = &self.health.is_stopping;
        is_stopping.store(true, Ordering::Relaxed);
        // Not under the lock, which the thread takes itself to see whether it is alive.
        let maintenance = lock(&self.maintenance).take();
        if let Some(maintenance) = maintenance {
            maintenance.stop();
        }
        lock(&self.running).retain(|_, run| {
            run.cancel();
            !run.is_queued()
        });
        for stream in self.all_streams() {
            if let Err(error) = self.flush_stream(&stream) {
                tracing::warn!(stream = stream.definition.name, %error, "not flushed at shutdown");
            }
            if let Err(error) = stream.writer.mark_end() {
                tracing::warn!(stream = stream.definition.name, %error, "the log is not marked");
            }
        }
        lock(&self.streams).clear();
    }

    /// True while no thread works for a recompute, writes outdated files again or merges files.
    pub fn is_idle(&self) -> bool {
        let is_rewriting =
            |stream: &Arc<StreamRuntime>| stream.is_rewriting.load(Ordering::Acquire);
        lock(&self.running).is_empty() && !self.all_streams().iter().any(is_rewriting)
    }

    /// What queries see at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher.snapshot()
    }

    fn all_streams(&self) -> Vec<Arc<StreamRuntime>> {
        lock(&self.streams).values().cloned().collect()
    }

    fn stream_runtime(&self, name: &str) -> Option<Arc<StreamRuntime>> {
        lock(&self.streams).get(name).cloned()
    }
}

/// How much threads that nobody waits for (recomputes, flushes) step back behind ingest and
/// queries, as `nice` counts it: they may use every core that is idle, and get about a quarter of
/// one that is not.
const BACKGROUND_NICE: i32 = 5;

/// Lowers the priority of the current thread. Only on Linux is that not the whole process's.
/// Not by `nice`, which adds: a thread that this one starts begins with what it has.
fn step_back() {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE)
    {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}

fn runtime(
    name: &'static str,
    threads: usize,
    on_start: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .on_thread_start(on_start)
        .worker_threads(threads)
        .thread_stack_size(PLANNING_STACK_BYTES)
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("start the {name} runtime"))
}
