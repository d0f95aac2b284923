//! What every run did, kept as one small file per run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use lambdalake_data::disk::Disk;
use lambdalake_data::{Cut, DataError};
use serde::{Deserialize, Serialize};

use crate::progress::{Counts, Timing};

const FOLDER: &str = "runs";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Waits for other runs to end.
    Queued,
    Running,
    Succeeded,
    Failed,
    /// Ended because the view's states would have taken more memory or disk than they may.
    OverBudget,
    Cancelled,
}

impl RunStatus {
    /// The word that programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::OverBudget => "over_budget",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Publishes a new version.
    #[default]
    Recompute,
    /// Only compares, and publishes nothing.
    Verify,
}

impl RunKind {
    /// The word that programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Recompute => "recompute",
            Self::Verify => "verify",
        }
    }
}

/// Where what was stored differs from what all events give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDifference {
    /// The group: `name=value`, joined by commas.
    pub key: String,
    /// `(row)` if only one side has the group.
    pub column: String,
    pub stored: String,
    pub recomputed: String,
}

/// One recompute, running or ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub run_id: String,
    pub view: String,
    #[serde(default)]
    pub kind: RunKind,
    pub status: RunStatus,
    /// The trigger that was due, or what else asked for it.
    #[serde(default)]
    pub started_by: String,
    /// What its triggers count from; may be earlier than its start, if it had to wait.
    #[serde(default)]
    pub asked_at_micros: i64,
    pub started_at_micros: i64,
    pub duration_ms: u64,
    /// What was read, of what was to be read.
    #[serde(flatten)]
    pub counts: Counts,
    #[serde(flatten)]
    pub timing: Timing,
    /// Rows of the new states.
    pub states_rows: u64,
    pub cut: Cut,
    /// `equal`, `nothing_to_compare`, `differences`, or empty while running.
    pub audit: String,
    /// Groups that the audit compared.
    #[serde(default)]
    pub groups_compared: u64,
    /// Some of what it found, if they differ.
    #[serde(default)]
    pub differences: Vec<FoundDifference>,
    /// Stored states that the run met and found damaged: the files, and why.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// The version that the run published.
    pub version: Option<u64>,
    pub error: Option<String>,
    /// The views whose runs read the master dataset in the same pass.
    #[serde(default)]
    pub shared_with: Vec<String>,
    /// The most batch memory that all runs together held while it went on; 0 if that is not known.
    #[serde(default)]
    pub memory_bytes: u64,
}

impl Run {
    /// A run that waits for others, and has not read anything.
    pub fn queued(
        run_id: String,
        view: &str,
        kind: RunKind,
        started_by: String,
        now_micros: i64,
    ) -> Self {
        Self {
            run_id,
            view: view.to_owned(),
            kind,
            status: RunStatus::Queued,
            started_by,
            asked_at_micros: now_micros,
            started_at_micros: now_micros,
            duration_ms: 0,
            counts: Counts::default(),
            timing: Timing::default(),
            states_rows: 0,
            cut: Cut::default(),
            audit: String::new(),
            groups_compared: 0,
            differences: Vec::new(),
            damaged: Vec::new(),
            version: None,
            error: None,
            shared_with: Vec::new(),
            memory_bytes: 0,
        }
    }
}

/// The runs, newest last by id.
pub struct History {
    disk: Arc<Disk>,
    /// Ended runs that are kept; older ones are removed, oldest first.
    kept: usize,
    runs: Mutex<Runs>,
}

#[derive(Default)]
struct Runs {
    by_id: BTreeMap<String, Run>,
    /// The ids of each view's runs: schedules ask for the last of each view ten times a second.
    of_view: HashMap<String, BTreeSet<String>>,
}

impl Runs {
    fn insert(&mut self, run: Run) {
        let id = run.run_id.clone();
        match self.of_view.get_mut(&run.view) {
            Some(ids) => {
                ids.insert(id.clone());
            }
            None => {
                let ids = BTreeSet::from([id.clone()]);
                self.of_view.insert(run.view.clone(), ids);
            }
        }
        self.by_id.insert(id, run);
    }

    fn remove(&mut self, run_id: &str) {
        let Some(run) = self.by_id.remove(run_id) else {
            return;
        };
        if let Some(ids) = self.of_view.get_mut(&run.view) {
            ids.remove(run_id);
            if ids.is_empty() {
                self.of_view.remove(&run.view);
            }
        }
    }

    /// Whether it is the newest of its view and kind that has ended, or ended by itself. Schedules
    /// count from it, and health tells how it ended, however many others there were since.
    fn is_last(&self, run: &Run) -> bool {
        let is_newest = |counts: fn(&Run) -> bool| {
            let is_one = |it: &Run| it.kind == run.kind && it.status.has_ended() && counts(it);
            let newest = self.newest(&run.view, is_one);
            newest.is_some_and(|newest| newest.run_id == run.run_id)
        };
        is_newest(|_| true) || is_newest(|it| it.status != RunStatus::Cancelled)
    }

    fn newest(&self, view: &str, is_one: impl Fn(&Run) -> bool) -> Option<&Run> {
        let ids = self.of_view.get(view)?.iter().rev();
        let runs = ids.filter_map(|id| self.by_id.get(id));
        runs.into_iter().find(|run| is_one(run))
    }
}

impl History {
    /// Reads what earlier processes left. A file that does not parse is skipped with a warning:
    /// schedules then count from the view's version.
    pub fn open(disk: Arc<Disk>, kept: usize) -> Result<Self, DataError> {
        let mut runs = Runs::default();
        for info in disk.list(FOLDER)? {
            let bytes = disk.read(&info.path)?.unwrap_or_default();
            match serde_json::from_slice::<Run>(&bytes) {
                Ok(run) => runs.insert(run),
                Err(error) => tracing::warn!(path = info.path, %error, "run history is unreadable"),
            }
        }
        Ok(Self {
            disk,
            kept,
            runs: Mutex::new(runs),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a running run, or its progress; in memory only.
    pub fn update(&self, run: Run) {
        self.lock().insert(run);
    }

    /// Stores a run that has ended, durably. Who looks sees it with [`Self::update`].
    pub fn store(&self, run: &Run) -> Result<(), DataError> {
        let text = serde_json::to_vec(run)?;
        let path = format!("{FOLDER}/{}.json", run.run_id);
        self.disk.put_if_absent(&path, &text)
    }

    /// Removes the oldest ended runs, so that with `ending` there are as many as are kept. The last
    /// ones of each view stay.
    pub fn make_room(&self, ending: &Run, is_view: impl Fn(&str) -> bool) -> Result<(), DataError> {
        let is_outdated = |run: &Run| {
            let counts_less = |it: &Run| it.status == RunStatus::Cancelled;
            run.view == ending.view
                && run.kind == ending.kind
                && (counts_less(run) || !counts_less(ending))
        };
        let surplus: Vec<String> = {
            let mut runs = self.lock();
            let ended = runs.by_id.values().filter(|run| run.status.has_ended());
            let surplus = (ended.clone().count() + 1).saturating_sub(self.kept);
            let may_go = |run: &&Run| is_outdated(run) || !is_view(&run.view) || !runs.is_last(run);
            let old = ended.filter(may_go).take(surplus);
            let old: Vec<String> = old.map(|run| run.run_id.clone()).collect();
            old.iter().for_each(|id| runs.remove(id));
            old
        };
        surplus
            .iter()
            .try_for_each(|id| self.disk.remove(&format!("{FOLDER}/{id}.json")))
    }

    pub fn all(&self) -> Vec<Run> {
        self.lock().by_id.values().cloned().collect()
    }

    pub fn get(&self, run_id: &str) -> Option<Run> {
        self.lock().by_id.get(run_id).cloned()
    }

    pub fn last_of(&self, view: &str) -> Option<Run> {
        self.lock().newest(view, |_| true).cloned()
    }

    /// What `tell` says of the newest run of the view that ended by itself and that `is_one`.
    pub fn last_ended_of<T>(
        &self,
        view: &str,
        is_one: impl Fn(&Run) -> bool,
        tell: impl FnOnce(&Run) -> T,
    ) -> Option<T> {
        let has_ended = |run: &Run| run.status.has_ended() && run.status != RunStatus::Cancelled;
        let runs = self.lock();
        runs.newest(view, |run| has_ended(run) && is_one(run))
            .map(tell)
    }

    /// What `tell` says of the last run that was to publish a version.
    pub fn last_recompute_of<T>(&self, view: &str, tell: impl FnOnce(&Run) -> T) -> Option<T> {
        let runs = self.lock();
        runs.newest(view, |run| run.kind == RunKind::Recompute)
            .map(tell)
    }

    /// How long the parts of the view's last run took that did all of it; of one that waited for
    /// others of its pass only if there is no other.
    pub fn last_timing_of(&self, view: &str) -> Timing {
        let is_whole = |run: &Run| run.status == RunStatus::Succeeded && run.timing.reading_ms > 0;
        let is_alone = |run: &Run| is_whole(run) && run.shared_with.is_empty();
        let runs = self.lock();
        let last = runs.newest(view, is_alone);
        let last = last.or_else(|| runs.newest(view, is_whole));
        last.map_or_else(Timing::default, |run| run.timing)
    }
}
