//! Running queries: how many may run, which do, and how to end one.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::engine::{Layer, QueryRequest};
use crate::error::{EngineError, ErrorKind};

/// Characters of a statement shown in the list.
const SHOWN_CHARS: usize = 1_000;

/// The running queries of one server.
pub(super) struct Queries {
    permits: Arc<Semaphore>,
    running: Running,
}

/// A plain mutex: it is held for a map operation, never over an await.
type Running = Arc<Mutex<BTreeMap<String, Entry>>>;

struct Entry {
    sql: String,
    layer: Layer,
    started: Instant,
    cancelled: Arc<Notify>,
}

impl Queries {
    pub(super) fn new(max_concurrent: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_concurrent)),
            running: Running::default(),
        }
    }

    /// Lets a query in, or says Busy.
    pub(super) fn admit(&self, request: &QueryRequest) -> Result<Ticket, EngineError> {
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|error| {
                EngineError::new(
                    ErrorKind::Busy,
                    "too_many_queries",
                    "as many queries run as may: try again shortly",
                )
                .because(error)
            })?;
        let started = Instant::now();
        let cancelled = Arc::new(Notify::new());
        let entry = Entry {
            sql: request.sql.chars().take(SHOWN_CHARS).collect(),
            layer: request.layer,
            started,
            cancelled: Arc::clone(&cancelled),
        };
        lock(&self.running).insert(request.query_id.clone(), entry);
        Ok(Ticket {
            id: request.query_id.clone(),
            started,
            deadline: started + request.timeout,
            cancelled,
            running: Arc::clone(&self.running),
            _permit: permit,
        })
    }

    /// The running queries, oldest first.
    pub(super) fn list(&self) -> Vec<Value> {
        let running = lock(&self.running);
        let mut queries: Vec<(&String, &Entry)> = running.iter().collect();
        queries.sort_by_key(|(_, entry)| entry.started);
        queries
            .into_iter()
            .map(|(id, entry)| {
                json!({
                    "query_id": id,
                    "sql": entry.sql,
                    "layer": entry.layer,
                    "elapsed_ms": u64::try_from(entry.started.elapsed().as_millis())
                        .unwrap_or(u64::MAX),
                })
            })
            .collect()
    }

    /// Asks a query to end. It has left the list when its last resource is back.
    pub(super) fn cancel(&self, id: &str) -> Result<(), EngineError> {
        match lock(&self.running).get(id) {
            Some(entry) => {
                // A stored permit: the query sees it even if it does not wait right now.
                entry.cancelled.notify_one();
                Ok(())
            }
            None => Err(EngineError::not_found(
                "unknown_query",
                format!("no query {id:?} is running"),
            )),
        }
    }
}

/// The right to run one query. Dropping it takes the query off the list.
pub(super) struct Ticket {
    pub(super) id: String,
    pub(super) started: Instant,
    deadline: Instant,
    cancelled: Arc<Notify>,
    running: Running,
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    /// Waits for `work` unless the query is cancelled or its time is up; then `work` is dropped.
    pub(super) async fn run<F: Future>(&self, work: F) -> Result<F::Output, EngineError> {
        tokio::select! {
            biased;
            () = self.cancelled.notified() => Err(EngineError::new(
                ErrorKind::Conflict,
                "query_cancelled",
                "the query was cancelled",
            )),
            () = sleep_until(self.deadline) => Err(EngineError::new(
                ErrorKind::Timeout,
                "query_timeout",
                "the statement took longer than it may: its timeout_ms, or else the setting query_timeout",
            )),
            output = work => Ok(output),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.id);
    }
}

fn lock(running: &Running) -> MutexGuard<'_, BTreeMap<String, Entry>> {
    // The map is whole after every single operation, so a panic elsewhere does not spoil it.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
