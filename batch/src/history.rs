//! What every run did, kept as one small file per run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lambdalake_data::disk::Disk;
use lambdalake_data::{Cut, DataError};
use serde::{Deserialize, Serialize};

const FOLDER: &str = "runs";

/// Ended runs that are kept; older ones are removed, oldest first.
const KEPT_RUNS: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Running,
    Succeeded,
    Failed,
}

/// One recompute, running or ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub run_id: String,
    pub view: String,
    pub status: RunStatus,
    pub started_at_micros: i64,
    pub duration_ms: u64,
    /// Events read so far, of `rows_total`.
    pub rows_read: u64,
    pub rows_total: u64,
    /// Rows of the new states.
    pub states_rows: u64,
    pub cut: Cut,
    /// `equal`, `nothing_to_compare`, `differences`, or empty while running.
    pub audit: String,
    /// The version that the run published.
    pub version: Option<u64>,
    pub error: Option<String>,
}

/// The runs, newest last by id.
pub struct History {
    disk: Arc<Disk>,
    runs: Mutex<BTreeMap<String, Run>>,
}

impl History {
    /// Reads what earlier processes left. A file that does not parse is skipped with a
    /// warning: history is for people, nothing depends on it.
    pub fn open(disk: Arc<Disk>) -> Result<Self, DataError> {
        let mut runs = BTreeMap::new();
        for info in disk.list(FOLDER)? {
            let bytes = disk.read(&info.path)?.unwrap_or_default();
            match serde_json::from_slice::<Run>(&bytes) {
                Ok(run) => {
                    runs.insert(run.run_id.clone(), run);
                }
                Err(error) => tracing::warn!(path = info.path, %error, "run history is unreadable"),
            }
        }
        Ok(Self {
            disk,
            runs: Mutex::new(runs),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a running run, or its progress; in memory only.
    pub fn update(&self, run: Run) {
        self.lock().insert(run.run_id.clone(), run);
    }

    /// Takes back a run that could not begin.
    pub fn forget(&self, run_id: &str) {
        self.lock().remove(run_id);
    }

    /// Records a run's end, durably.
    pub fn end(&self, run: Run) -> Result<(), DataError> {
        let text = serde_json::to_vec(&run)?;
        let path = format!("{FOLDER}/{}.json", run.run_id);
        self.update(run);
        self.disk.put_if_absent(&path, &text)?;
        let surplus: Vec<String> = {
            let mut runs = self.lock();
            let surplus = runs.len().saturating_sub(KEPT_RUNS);
            let old: Vec<String> = runs.keys().take(surplus).cloned().collect();
            runs.retain(|id, _| !old.contains(id));
            old
        };
        surplus
            .iter()
            .try_for_each(|id| self.disk.remove(&format!("{FOLDER}/{id}.json")))
    }

    pub fn all(&self) -> Vec<Run> {
        self.lock().values().cloned().collect()
    }

    pub fn get(&self, run_id: &str) -> Option<Run> {
        self.lock().get(run_id).cloned()
    }

    pub fn last_of(&self, view: &str) -> Option<Run> {
        self.lock()
            .values()
            .rev()
            .find(|run| run.view == view)
            .cloned()
    }
}
