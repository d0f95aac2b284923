//! The record of one statement: its metrics when it ends, and a line in the log if it was slow.
//!
//! It is written when the record is dropped, so that a client that leaves half-way through an
//! answer leaves a record too.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::App;
use super::trace::Names;
use crate::engine::{Layer, QueryRequest, QueryStats};
use crate::error::{EngineError, ErrorKind};
use crate::metrics::{
    Meters, QUERIES, QUERIES_RUNNING, QUERY_ROWS_READ, QUERY_ROWS_RETURNED, QUERY_SECONDS,
};

/// Characters of a statement in the slow-query line: enough to recognise it.
const LOGGED_CHARS: usize = 2_000;

/// How a statement fared so far.
struct Ending {
    outcome: &'static str,
    rows: u64,
    stats: Option<Arc<QueryStats>>,
}

/// One statement, from its arrival to its end.
pub(super) struct QueryRecord {
    meters: Meters,
    names: Names,
    layer: Layer,
    sql: String,
    slow_after: Duration,
    started: Instant,
    // A plain mutex: set a few times in a query's life, never held over an await.
    ending: Mutex<Ending>,
}

impl QueryRecord {
    pub(super) fn begin(app: &App, query: &QueryRequest, names: &Names) -> Arc<Self> {
        let meters = app.engine.meters();
        meters.gauge(&QUERIES_RUNNING, &[]).increment(1);
        Arc::new(Self {
            meters,
            names: names.clone(),
            layer: query.layer,
            sql: shortened(&query.sql),
            slow_after: app.limits.slow_query,
            started: Instant::now(),
            ending: Mutex::new(Ending {
                outcome: "abandoned",
                rows: 0,
                stats: None,
            }),
        })
    }

    fn ending(&self) -> MutexGuard<'_, Ending> {
        // Each field is whole after every assignment, so a panic elsewhere does not spoil it.
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its rows have begun to come.
    pub(super) fn answering(&self, stats: &Arc<QueryStats>) {
        self.ending().stats = Some(Arc::clone(stats));
    }

    /// All of it was handed over.
    pub(super) fn done(&self, rows: u64) {
        let mut ending = self.ending();
        ending.outcome = "ok";
        ending.rows = rows;
    }

    pub(super) fn failed(&self, error: &EngineError) {
        self.ending().outcome = outcome(error);
    }
}

impl Drop for QueryRecord {
    fn drop(&mut self) {
        let layer = layer_label(self.layer);
        let elapsed = self.started.elapsed();
        let ending = self.ending();
        let rows_read = ending
            .stats
            .as_ref()
            .map_or(0, |stats| stats.rows_read.load(Ordering::Relaxed));
        self.meters.gauge(&QUERIES_RUNNING, &[]).decrement(1);
        self.meters
            .counter(&QUERIES, &[ending.outcome, layer])
            .increment(1);
        self.meters
            .histogram(&QUERY_SECONDS, &[layer])
            .record(elapsed.as_secs_f64());
        self.meters
            .counter(&QUERY_ROWS_READ, &[layer])
            .increment(rows_read);
        self.meters
            .counter(&QUERY_ROWS_RETURNED, &[layer])
            .increment(ending.rows);
        if elapsed >= self.slow_after {
            tracing::warn!(
                query_id = self.names.query_id,
                request_id = self.names.request_id,
                elapsed_ms = elapsed.as_secs_f64() * 1e3,
                outcome = ending.outcome,
                rows_read,
                rows_returned = ending.rows,
                layer,
                sql = self.sql,
                "slow query"
            );
        }
    }
}

fn layer_label(layer: Layer) -> &'static str {
    match layer {
        Layer::Merged => "merged",
        Layer::Batch => "batch",
        Layer::Speed => "speed",
    }
}

fn outcome(error: &EngineError) -> &'static str {
    if error.code == "query_cancelled" {
        return "cancelled";
    }
    match error.kind {
        ErrorKind::BadRequest => "bad_request",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Conflict | ErrorKind::InProgress | ErrorKind::Mismatch => "conflict",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::UnsupportedMedia => "unsupported_media",
        ErrorKind::NotAcceptable => "not_acceptable",
        ErrorKind::OutOfMemory => "over_budget",
        ErrorKind::Busy => "busy",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Internal => "internal",
    }
}

fn shortened(sql: &str) -> String {
    match sql.char_indices().nth(LOGGED_CHARS) {
        Some((end, _)) => format!("{}...", &sql[..end]),
        None => sql.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_statements_are_cut_at_a_character() {
        assert_eq!(shortened("SELECT 1"), "SELECT 1");
        let long = "\u{e9}".repeat(LOGGED_CHARS + 1);
        assert_eq!(shortened(&long), "\u{e9}".repeat(LOGGED_CHARS) + "...");
    }
}
