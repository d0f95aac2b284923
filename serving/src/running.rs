//! The queries that run right now, as `lambdalake.queries` lists them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Layer, QueryRequest};
use crate::system::QueryRow;

/// Characters of a statement shown in the list.
const SHOWN_CHARS: usize = 1_000;

/// Its length is bounded by the number of queries that are let in.
#[derive(Clone, Default)]
pub(crate) struct RunningQueries {
    // A plain mutex: held for a map operation, never over an await.
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
    next: Arc<AtomicU64>,
}

struct Entry {
    query_id: String,
    sql: String,
    layer: Layer,
    started_at_micros: i64,
    rows: Arc<AtomicU64>,
}

impl RunningQueries {
    /// Lists a query until the returned value is dropped.
    pub(crate) fn begin(&self, request: &QueryRequest, now_micros: i64) -> Listed {
        // A number of its own: one request may run several queries under one id.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let rows = Arc::new(AtomicU64::new(0));
        let entry = Entry {
            query_id: request.query_id.clone(),
            sql: request.sql.chars().take(SHOWN_CHARS).collect(),
            layer: request.layer,
            started_at_micros: now_micros,
            rows: Arc::clone(&rows),
        };
        self.lock().insert(number, entry);
        Listed {
            queries: self.clone(),
            number,
            rows,
        }
    }

    /// Oldest first.
    pub(crate) fn rows(&self) -> Vec<QueryRow> {
        let entries = self.lock();
        let row = |entry: &Entry| QueryRow {
            query_id: entry.query_id.clone(),
            sql: entry.sql.clone(),
            layer: match entry.layer {
                Layer::Merged => "merged",
                Layer::Batch => "batch",
                Layer::Speed => "speed",
            }
            .to_owned(),
            started_at_micros: entry.started_at_micros,
            rows: entry.rows.load(Ordering::Relaxed),
        };
        entries.values().map(row).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        // The map is whole after every operation, so a panic elsewhere does not spoil it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query on the list.
pub(crate) struct Listed {
    queries: RunningQueries,
    number: u64,
    rows: Arc<AtomicU64>,
}

impl Listed {
    pub(crate) fn count(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.queries.lock().remove(&self.number);
    }
}
