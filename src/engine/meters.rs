//! What the engine counts, and the state of it that a scrape reads.
//!
//! Counters and histograms live as long as the engine, in a recorder of its own. Gauges of
//! the engine's state are put together at each scrape in a recorder that is then thrown away:
//! they show one snapshot, and a dropped stream is gone from the next scrape.

use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::memory_pool::MemoryPool;
use lambdalake_batch::history::Run;
use lambdalake_serving::engine::IngestReply;
use lambdalake_serving::metrics as names;
use lambdalake_serving::metrics::Meters;
use lambdalake_serving::snapshot::{StreamSnapshot, ViewSnapshot};
use lambdalake_speed::meters::WriterMeters;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::Engine;

/// Upper bounds of the buckets of every histogram, seconds: from a fast fdatasync to the
/// longest query a client may ask for.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
    3600.0,
];

/// The label of rejections beyond those that an answer lists.
const NOT_LISTED: &str = "not_listed";

fn recorder() -> anyhow::Result<PrometheusRecorder> {
    Ok(PrometheusBuilder::new()
        .set_buckets(&BUCKETS)?
        .build_recorder())
}

/// The memory pool of one kind of work.
pub(super) struct Pool {
    pub(super) name: &'static str,
    pub(super) pool: Arc<dyn MemoryPool>,
    pub(super) limit_bytes: usize,
}

/// What one engine has counted since it was opened.
pub(super) struct EngineMeters {
    pub(super) meters: Meters,
    handle: PrometheusHandle,
    /// When the engine was opened, on its own clock.
    started: Duration,
}

impl EngineMeters {
    pub(super) fn new(started: Duration) -> anyhow::Result<Self> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        Ok(Self {
            meters: Meters::new(Arc::new(recorder)),
            handle,
            started,
        })
    }

    /// Sorts waiting samples into their buckets, so that they do not pile up between scrapes.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    pub(super) fn of_writer(&self, stream: &str) -> WriterMeters {
        WriterMeters {
            commits: self.meters.counter(&names::LOG_COMMITS, &[stream]),
            requests: self.meters.counter(&names::LOG_REQUESTS, &[stream]),
            bytes: self.meters.counter(&names::LOG_BYTES, &[stream]),
            seconds: self.meters.histogram(&names::LOG_SECONDS, &[stream]),
            failures: self.meters.counter(&names::LOG_FAILURES, &[stream]),
        }
    }

    /// Counts one ingest body of a stream that exists.
    pub(super) fn ingested(&self, stream: &str, bytes: u64, reply: &IngestReply) {
        let count = |metric, labels: &[&str], by: u64| {
            if by > 0 {
                self.meters.counter(metric, labels).increment(by);
            }
        };
        count(&names::INGEST_BYTES, &[stream], bytes);
        let stored = reply.accepted.saturating_sub(reply.repeated);
        count(&names::INGEST_ROWS, &[stream], stored);
        count(&names::INGEST_REPEATED, &[stream], reply.repeated);
        for error in &reply.errors {
            count(&names::INGEST_REJECTED, &[stream, &error.code], 1);
        }
        let not_listed = reply.rejected.saturating_sub(reply.errors.len() as u64);
        count(&names::INGEST_REJECTED, &[stream, NOT_LISTED], not_listed);
    }

    /// Counts the flush of one tail part.
    pub(super) fn flushed(&self, stream: &str, took: Duration, is_flushed: bool) {
        let outcome = if is_flushed { "succeeded" } else { "failed" };
        let flushes = self.meters.counter(&names::FLUSHES, &[stream, outcome]);
        flushes.increment(1);
        let seconds = self.meters.histogram(&names::FLUSH_SECONDS, &[stream]);
        seconds.record(took.as_secs_f64());
    }

    /// Counts what a flush published.
    pub(super) fn moved(&self, stream: &str, rows: u64, file_bytes: Option<u64>) {
        self.meters
            .counter(&names::FLUSHED_ROWS, &[stream])
            .increment(rows);
        if let Some(bytes) = file_bytes {
            self.meters
                .counter(&names::FLUSHED_FILES, &[stream])
                .increment(1);
            self.meters
                .counter(&names::FLUSHED_BYTES, &[stream])
                .increment(bytes);
        }
    }

    /// Counts a run that has ended.
    /// An audit has found that the stored states of a view are wrong.
    pub(super) fn differs(&self, view: &str) {
        let runs = self.meters.counter(&names::AUDIT_DIFFERENCES, &[view]);
        runs.increment(1);
    }

    pub(super) fn recomputed(&self, run: &Run) {
        let view = run.view.as_str();
        let outcome = run.status.word();
        let runs = self.meters.counter(&names::RECOMPUTES, &[view, outcome]);
        runs.increment(1);
        self.meters
            .histogram(&names::RECOMPUTE_SECONDS, &[view])
            .record(Duration::from_millis(run.duration_ms).as_secs_f64());
        self.meters
            .counter(&names::RECOMPUTE_ROWS, &[view])
            .increment(run.counts.rows_read);
    }
}

impl Engine {
    /// Everything counted and the current state, as Prometheus text.
    pub(super) fn metrics_text(&self) -> String {
        let counted = self.meters.handle.render();
        match self.state_text() {
            Ok(state) => counted + &state,
            Err(error) => {
                tracing::error!(%error, "the state of the engine is missing from a scrape");
                counted
            }
        }
    }

    fn state_text(&self) -> anyhow::Result<String> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        let state = State(Meters::new(Arc::new(recorder)));
        let snapshot = self.publisher.snapshot();
        for stream in snapshot.streams.values() {
            state.stream(self, stream);
        }
        for view in snapshot.views.values() {
            state.view(view);
        }
        for pool in &self.pools {
            let used = pool.pool.reserved() as f64;
            state.set(&names::POOL_USED, &[pool.name], used);
            state.set(&names::POOL_LIMIT, &[pool.name], pool.limit_bytes as f64);
        }
        for worker in self.workers() {
            let stream = worker.stream.as_deref().unwrap_or_default();
            let is_up = !worker.is_dead && worker.error.is_none();
            let up = f64::from(u8::from(is_up));
            state.set(&names::WORKER_UP, &[worker.name, stream], up);
        }
        let running = super::lock(&self.running).len() as f64;
        state.set(&names::RECOMPUTES_RUNNING, &[], running);
        state.set(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let uptime = self.clock.monotonic().saturating_sub(self.meters.started);
        state.set(&names::UPTIME, &[], uptime.as_secs_f64());
        if let Some(bytes) = resident_bytes() {
            state.set(&names::RESIDENT, &[], bytes as f64);
        }
        if let Some(open) = open_fds() {
            state.set(&names::OPEN_FDS, &[], open as f64);
        }
        Ok(handle.render())
    }
}

/// The gauges of one scrape.
struct State(Meters);

impl State {
    fn set(&self, metric: &names::Metric, labels: &[&str], value: f64) {
        self.0.gauge(metric, labels).set(value);
    }

    fn stream(&self, engine: &Engine, stream: &StreamSnapshot) {
        let name = stream.definition.name.as_str();
        let set = |metric, value: u64| self.set(metric, &[name], value as f64);
        let tail_bytes: usize = stream.parts.iter().map(|open| open.part.bytes()).sum();
        set(&names::STREAM_STOPPED, u64::from(stream.stopped.is_some()));
        set(&names::STREAM_ROWS, stream.end.events());
        set(&names::STREAM_MASTER_FILES, stream.state.files.len() as u64);
        set(
            &names::STREAM_MASTER_BYTES,
            stream.state.files.iter().map(|file| file.bytes).sum(),
        );
        set(&names::TAIL_ROWS, stream.tail_rows());
        set(&names::TAIL_BYTES, tail_bytes as u64);
        set(&names::STREAM_LAG, stream.tail_rows());
        if let Some(last) = stream.last_ingested_at_micros {
            let age = engine.clock.now_micros().saturating_sub(last).max(0);
            self.set(&names::STREAM_FRESHNESS, &[name], age as f64 / 1e6);
        }
        if let Some(runtime) = engine.stream_runtime(name) {
            set(&names::WRITER_QUEUE, runtime.writer.queued() as u64);
            set(&names::DELTA_BEHIND, u64::from(runtime.delta_is_behind()));
        }
    }

    fn view(&self, view: &ViewSnapshot) {
        let name = view.state.name.as_str();
        let set = |metric, value: u64| self.set(metric, &[name], value as f64);
        let version = view.version.as_ref().map_or(0, |version| version.number);
        let gaps = view.gaps();
        let unstored = gaps.iter().map(lambdalake_data::CutRange::events);
        let files = [view.version_files(), view.pane_files()].concat();
        set(&names::VIEW_VERSION, version);
        set(&names::VIEW_PANES, view.panes.len() as u64);
        set(&names::VIEW_LAG, view.lag_events());
        set(&names::VIEW_UNSTORED, unstored.sum());
        set(
            &names::VIEW_STATES_BYTES,
            files.iter().map(|file| file.bytes).sum(),
        );
    }
}

/// Resident memory as Linux tells it; `None` elsewhere.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Open files and sockets as Linux tells them; `None` elsewhere.
fn open_fds() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}
