//! How far a run has come, and how long it may still take.
//!
//! ```text
//!   queued -> flushing -> reading -> sorting -> writing -> comparing -> publishing
//!                         |<- counted events ->|<- as long as last time, in proportion ->|
//! ```
//!
//! Reading is what can be counted: how long the rest of it takes follows from what was read so far.
//! What comes after it depends on the groups of the view, and takes about as long beside the reading
//! as it did in the last run of the view. Where that is not known, or took longer already, nothing
//! is said.
//!
//! A run that begins again counts again; what is told never goes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lambdalake_data::Clock;
use lambdalake_data::scan::ScanFile;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::error::BatchError;

/// Reading must have gone on for so long before it says something about the rest of it.
const LEAST_READING: Duration = Duration::from_secs(1);

/// The same of what was read: one part in so many.
const LEAST_PART: u64 = 100;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for other runs to end.
    Queued,
    /// Moves the tail into the master dataset and fixes the cut.
    Flushing,
    /// Reads, maps and combines events.
    Reading,
    /// Every event is read: brings the states into order.
    Sorting,
    /// Merges the states and writes them.
    Writing,
    /// Compares the new states with those that were stored.
    Comparing,
    /// Makes the new version known.
    Publishing,
}

impl Phase {
    /// The word that programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Flushing => "flushing",
            Self::Reading => "reading",
            Self::Sorting => "sorting",
            Self::Writing => "writing",
            Self::Comparing => "comparing",
            Self::Publishing => "publishing",
        }
    }
}

/// What was read of the master dataset, of what is to be read; zeros until the cut is fixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub rows_read: u64,
    pub rows_total: u64,
    /// Of files; a column that a view does not need counts as read with those beside it.
    pub bytes_read: u64,
    pub bytes_total: u64,
    pub files_read: u64,
    pub files_total: u64,
}

impl Counts {
    fn all_of(files: &[ScanFile]) -> Self {
        Self {
            rows_total: files.iter().map(|file| file.rows).sum(),
            bytes_total: files.iter().map(|file| file.bytes).sum(),
            files_total: files.len() as u64,
            ..Self::default()
        }
    }

    /// Of two attempts, what was read by the one that came further; of the totals, these.
    fn at_least(self, before: Self) -> Self {
        Self {
            rows_read: self.rows_read.max(before.rows_read).min(self.rows_total),
            bytes_read: self.bytes_read.max(before.bytes_read).min(self.bytes_total),
            files_read: self.files_read.max(before.files_read).min(self.files_total),
            ..self
        }
    }
}

/// How long the parts of a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// From the first event to the last; 0 if it was not read.
    pub reading_ms: u64,
    /// From there to the end.
    pub rest_ms: u64,
}

impl Timing {
    /// How long the rest took for each second of reading.
    fn rest_per_reading(self) -> Option<f64> {
        (self.reading_ms > 0).then(|| self.rest_ms as f64 / self.reading_ms as f64)
    }
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub struct Progress {
    cancelled: CancellationToken,
    clock: Arc<dyn Clock>,
    /// A plain mutex: locked for a few additions per batch of rows, never over an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    counts: Counts,
    /// What earlier attempts were seen to have read.
    before: Counts,
    last_time: Timing,
    began_reading: Duration,
    ended_reading: Option<Duration>,
}

/// What can be told of a run at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub phase: Phase,
    pub counts: Counts,
    /// `None` while nothing sensible can be said.
    pub remaining: Option<Duration>,
}

impl Progress {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State {
            phase: Phase::Queued,
            counts: Counts::default(),
            before: Counts::default(),
            last_time: Timing::default(),
            began_reading: Duration::ZERO,
            ended_reading: None,
        };
        Self {
            cancelled: CancellationToken::new(),
            clock,
            state: Mutex::new(state),
        }
    }

    /// Has the run end.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Ends the run if somebody wants it to. Errors: `Cancelled`.
    pub fn check(&self) -> Result<(), BatchError> {
        match self.is_cancelled() {
            true => Err(BatchError::Cancelled),
            false => Ok(()),
        }
    }

    /// Drops the work once somebody wants the run to end. Errors: `Cancelled`, or those of the work.
    pub async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, BatchError>>,
    ) -> Result<T, BatchError> {
        let done = self.cancelled.run_until_cancelled(work).await;
        done.unwrap_or(Err(BatchError::Cancelled))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt begins to read these files. `last_time` is how long an earlier run of the view
    /// took.
    pub fn begin_reading(&self, files: &[ScanFile], last_time: Timing) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.before = state.counts.at_least(state.before);
        state.counts = Counts::all_of(files);
        state.last_time = last_time;
        state.phase = Phase::Reading;
        state.began_reading = now;
        state.ended_reading = None;
    }

    pub fn enter(&self, phase: Phase) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if matches!(phase, Phase::Writing) {
            state.end_reading(now);
        }
        state.phase = phase;
    }

    pub(crate) fn read_rows(&self, rows: u64) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.counts.rows_read += rows;
        if state.counts.rows_read == state.counts.rows_total && state.phase == Phase::Reading {
            state.end_reading(now);
            state.phase = Phase::Sorting;
        }
    }

    pub(crate) fn read_bytes(&self, bytes: u64) {
        self.lock().counts.bytes_read += bytes;
    }

    pub(crate) fn read_file(&self) {
        self.lock().counts.files_read += 1;
    }

    pub fn told(&self) -> Told {
        let now = self.clock.monotonic();
        let state = self.lock();
        Told {
            phase: state.phase,
            counts: state.counts.at_least(state.before),
            remaining: state.remaining(now),
        }
    }

    /// For later runs to go by.
    pub fn timing(&self) -> Timing {
        let now = self.clock.monotonic();
        let state = self.lock();
        let Some(ended) = state.ended_reading else {
            return Timing::default();
        };
        let millis = |from: Duration, to: Duration| to.saturating_sub(from).as_millis() as u64;
        Timing {
            reading_ms: millis(state.began_reading, ended),
            rest_ms: millis(ended, now),
        }
    }
}

impl State {
    /// The last events may come before the reader of their file knows that there are no more.
    fn end_reading(&mut self, now: Duration) {
        self.ended_reading.get_or_insert(now);
        self.counts.bytes_read = self.counts.bytes_total;
        self.counts.files_read = self.counts.files_total;
    }

    fn remaining(&self, now: Duration) -> Option<Duration> {
        let rest_per_reading = self.last_time.rest_per_reading();
        match self.phase {
            Phase::Queued | Phase::Flushing => None,
            Phase::Reading => {
                let took = now.saturating_sub(self.began_reading);
                let (read, total) = (self.counts.rows_read, self.counts.rows_total);
                let whole = whole_reading(took, read, total)?;
                // Of a first run nobody knows the rest, which is mostly the smaller part.
                let rest = times(whole, rest_per_reading.unwrap_or(0.0))?;
                whole.saturating_sub(took).checked_add(rest)
            }
            _ => {
                let ended = self.ended_reading?;
                let reading = ended.saturating_sub(self.began_reading);
                let rest = times(reading, rest_per_reading?)?;
                rest.checked_sub(now.saturating_sub(ended))
                    .filter(|left| !left.is_zero())
            }
        }
    }
}

/// How long reading takes from its beginning to its end, once enough of it is done to tell.
fn whole_reading(took: Duration, read: u64, total: u64) -> Option<Duration> {
    let is_enough = took >= LEAST_READING && read > 0 && read >= total / LEAST_PART;
    match is_enough {
        true => times(took, total.max(read) as f64 / read as f64),
        false => None,
    }
}

/// `None` beyond all time there is.
fn times(span: Duration, factor: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(span.as_secs_f64() * factor).ok()
}

#[cfg(test)]
mod tests;
