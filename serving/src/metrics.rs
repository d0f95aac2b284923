//! Every metric of the engine: its name, its kind, its labels and what it says.
//!
//! Names begin with `lambdalake_`, units are base units (seconds, bytes), counters end in
//! `_total`. A counter counts since the start of the process, so a scraper sees a restart as
//! a reset. The state of streams, views, pools and workers is not counted but read from the
//! current snapshot at each scrape ([`Kind::Gauge`]), so it cannot drift.
//!
//! Cardinality is bounded by what the operator made: the only labels that are not taken from
//! a fixed list are `stream` and `view`, and they only ever name what exists or existed in
//! this process. No path, text of a query, client or key becomes a label.
//!
//! A [`Meters`] belongs to one engine. There is no global recorder, so several engines in one
//! process count apart.

use std::sync::Arc;

use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, NoopRecorder, Recorder,
    SharedString, Unit,
};

/// What a metric's value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// The state of something at the moment of the scrape.
    Gauge,
    /// A distribution in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Names of its labels; every sample has all of them.
    pub labels: &'static [&'static str],
    /// The HELP line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// Every metric, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    HTTP_REQUESTS: Counter "lambdalake_http_requests_total" ["route", "method", "status"]
        "Requests by route, method and status; 499 is a client that left before its answer.";
    HTTP_SECONDS: Histogram "lambdalake_http_request_duration_seconds" ["route", "method"]
        "Time from the head of a request to the head of its answer.";
    HTTP_IN_FLIGHT: Gauge "lambdalake_http_requests_in_flight" []
        "Requests whose answer has not begun.";
    HTTP_BUSY: Counter "lambdalake_http_busy_total" ["code"]
        "Requests answered with 429, by the code of the error: what was full.";

    QUERIES: Counter "lambdalake_queries_total" ["outcome", "layer"]
        "Statements by outcome (ok, abandoned, or the kind of error) and layer.";
    QUERY_SECONDS: Histogram "lambdalake_query_duration_seconds" ["layer"]
        "Time from a statement's arrival to its last row.";
    QUERY_ROWS_READ: Counter "lambdalake_query_rows_read_total" ["layer"]
        "Events that answers rest on.";
    QUERY_ROWS_RETURNED: Counter "lambdalake_query_rows_returned_total" ["layer"]
        "Rows of complete answers.";
    QUERIES_RUNNING: Gauge "lambdalake_queries_running" []
        "Statements that have not ended.";

    INGEST_ROWS: Counter "lambdalake_ingest_rows_total" ["stream"]
        "Rows accepted: on disk and visible.";
    INGEST_REPEATED: Counter "lambdalake_ingest_repeated_rows_total" ["stream"]
        "Rows that were sent again and recognised by their idempotency key.";
    INGEST_REJECTED: Counter "lambdalake_ingest_rejected_rows_total" ["stream", "reason"]
        "Rows rejected, by reason; not_listed are those beyond the reasons one answer lists.";
    INGEST_BYTES: Counter "lambdalake_ingest_bytes_total" ["stream"]
        "Bytes of ingest bodies that were taken, as sent.";
    LOG_COMMITS: Counter "lambdalake_log_group_commits_total" ["stream"]
        "Groups of requests written and synced together.";
    LOG_REQUESTS: Counter "lambdalake_log_requests_total" ["stream"]
        "Requests in these groups.";
    LOG_BYTES: Counter "lambdalake_log_bytes_total" ["stream"]
        "Bytes of these groups in the log.";
    LOG_SECONDS: Histogram "lambdalake_log_commit_seconds" ["stream"]
        "Time to write one group and to fdatasync it.";
    LOG_FAILURES: Counter "lambdalake_log_failures_total" ["stream"]
        "Groups that could not be written and synced.";
    WRITER_QUEUE: Gauge "lambdalake_writer_queue_requests" ["stream"]
        "Requests that wait for the writer of a stream.";

    STREAM_STOPPED: Gauge "lambdalake_stream_stopped" ["stream"]
        "1 while a stream is stopped because its files are damaged or missing.";
    STREAM_ROWS: Gauge "lambdalake_stream_rows" ["stream"]
        "Events of a stream, flushed or not.";
    STREAM_MASTER_BYTES: Gauge "lambdalake_stream_master_bytes" ["stream"]
        "Bytes of a stream's master dataset.";
    STREAM_MASTER_FILES: Gauge "lambdalake_stream_master_files" ["stream"]
        "Files of a stream's master dataset.";
    TAIL_ROWS: Gauge "lambdalake_tail_rows" ["stream"]
        "Events of a stream that are not flushed.";
    TAIL_BYTES: Gauge "lambdalake_tail_bytes" ["stream"]
        "Memory of the events of a stream that are not flushed.";
    STREAM_LAG: Gauge "lambdalake_stream_lag_events" ["stream"]
        "Events of a stream after its flush cut.";
    STREAM_FRESHNESS: Gauge "lambdalake_stream_freshness_seconds" ["stream"]
        "Age of a stream's newest event; absent while it has none.";
    DELTA_BEHIND: Gauge "lambdalake_delta_behind" ["stream"]
        "1 while the Delta table of a stream may lack what is published.";

    FLUSHES: Counter "lambdalake_flushes_total" ["stream", "outcome"]
        "Flushes of tail parts, succeeded or failed.";
    FLUSHED_ROWS: Counter "lambdalake_flushed_rows_total" ["stream"]
        "Events moved to the master dataset.";
    FLUSHED_FILES: Counter "lambdalake_flushed_files_total" ["stream"]
        "Files added to the master dataset.";
    FLUSHED_BYTES: Counter "lambdalake_flushed_bytes_total" ["stream"]
        "Bytes of the files added to the master dataset.";
    FLUSH_SECONDS: Histogram "lambdalake_flush_duration_seconds" ["stream"]
        "Time to flush one tail part, panes and publication included.";

    DAMAGED_FILES: Counter "lambdalake_damaged_files_total" ["kind"]
        "Files found damaged or missing: log, keys, master, states or delta.";

    VIEW_VERSION: Gauge "lambdalake_view_version" ["view"]
        "Number of a view's published version; 0 before the first.";
    VIEW_PANES: Gauge "lambdalake_view_panes" ["view"]
        "Panes of a view after its version.";
    VIEW_LAG: Gauge "lambdalake_view_lag_events" ["view"]
        "Events after the batch cut of a view; its answers have them.";
    VIEW_UNSTORED: Gauge "lambdalake_view_unstored_events" ["view"]
        "Flushed events that no stored states of a view cover.";
    VIEW_STATES_BYTES: Gauge "lambdalake_view_states_bytes" ["view"]
        "Bytes of the stored states of a view, version and panes.";

    RECOMPUTES: Counter "lambdalake_recomputes_total" ["view", "outcome"]
        "Recompute runs, succeeded, failed, over_budget or cancelled.";
    RECOMPUTE_SECONDS: Histogram "lambdalake_recompute_duration_seconds" ["view"]
        "Time of one recompute run.";
    RECOMPUTE_ROWS: Counter "lambdalake_recompute_rows_total" ["view"]
        "Events that recompute runs read.";
    AUDIT_DIFFERENCES: Counter "lambdalake_audit_differences_total" ["view"]
        "Runs whose audit found that stored states differ from what all events give.";
    RECOMPUTES_RUNNING: Gauge "lambdalake_recomputes_running" []
        "Recompute runs that have not ended.";

    POOL_USED: Gauge "lambdalake_memory_pool_used_bytes" ["pool"]
        "Memory that plans hold of the pool: query, batch or speed.";
    POOL_LIMIT: Gauge "lambdalake_memory_pool_limit_bytes" ["pool"]
        "Size of the pool.";
    WORKER_UP: Gauge "lambdalake_worker_up" ["worker", "stream"]
        "1 while a worker does its work, 0 when it does not; stream is empty for shared ones.";
    RESIDENT: Gauge "lambdalake_process_resident_memory_bytes" []
        "Resident memory of the process; absent where the system does not tell.";
    OPEN_FDS: Gauge "lambdalake_process_open_fds" []
        "Open file descriptors of the process; absent where the system does not tell.";
    UPTIME: Gauge "lambdalake_process_uptime_seconds" []
        "Time since the engine was opened.";
    BUILD_INFO: Gauge "lambdalake_build_info" ["version"]
        "Always 1; the label says which version runs.";
}

/// Where one engine's metrics are recorded.
#[derive(Clone)]
pub struct Meters {
    recorder: Arc<dyn Recorder + Send + Sync>,
}

/// What the recorder is told about the origin of a sample; ours has no use for it.
const ORIGIN: Metadata<'static> = Metadata::new("lambdalake", Level::INFO, None);

impl Meters {
    /// Describes every metric to a recorder and records there.
    pub fn new(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        for metric in ALL {
            let name = KeyName::from_const_str(metric.name);
            let help = SharedString::const_str(metric.help);
            let unit: Option<Unit> = None;
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => recorder.describe_histogram(name, unit, help),
            }
        }
        Self { recorder }
    }

    /// Records nothing.
    pub fn nowhere() -> Self {
        Self {
            recorder: Arc::new(NoopRecorder),
        }
    }

    /// `values` are those of the metric's labels, in their order.
    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.recorder
            .register_counter(&key(metric, values), &ORIGIN)
    }

    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        self.recorder.register_gauge(&key(metric, values), &ORIGIN)
    }

    pub fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        self.recorder
            .register_histogram(&key(metric, values), &ORIGIN)
    }
}

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let legal = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let mut seen = HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is there twice");
            assert!(name.starts_with("lambdalake_") && legal(name), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            assert!(
                metric.kind != Kind::Histogram || name.ends_with("_seconds"),
                "{name} has no unit"
            );
            assert!(metric.labels.iter().all(|label| legal(label)), "{name}");
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
        }
    }
}
