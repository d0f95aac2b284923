//! Damage on disk: what it stops, what goes on, and how it shows.
//!
//! A stream whose log or master files are damaged or missing at start is *stopped*. It is listed
//! with the reason, everything that would read or write it is refused with `stream_damaged`, and
//! nothing of it is removed but by dropping it. All other streams run.
//!
//! Damage that is met later ends the query that met it:
//!
//! ```text
//!   states file   not used from then on: the query runs again and maps its events from the
//!                 master dataset, and a recompute makes the view quick again
//!   master file   the query fails and names it; health and the stream show it
//!   keys file     the flush fails and names it; health and the stream show it
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use lambdalake_data::publication::{MasterFile, Publication, StreamState};
use lambdalake_data::schema::{INGESTED_AT, StreamDefinition};
use lambdalake_data::{Cut, DataError, Disk};
use lambdalake_serving::engine::{Answer, EngineError, QueryRequest};
use lambdalake_serving::metrics as names;
use lambdalake_serving::query::Moment;
use lambdalake_serving::system::System;
use lambdalake_speed::SpeedError;

use super::port::unknown_stream;
use super::publisher::states_files;
use super::{Engine, StreamRuntime, lock};

/// How often a query is run again because states it needs were found broken. Each time all files
/// of one view are checked, so this many views of one query may be broken at once.
const ATTEMPTS: usize = 32;

/// What ends every reason why a stream is stopped.
const WAYS_OUT: &str = "stop the server and put the file back from a backup, or drop the stream";

/// Without an event for this long, the end of a stream's log is marked.
const QUIET: Duration = Duration::from_secs(1);

/// A stream to which nothing is sent.
pub(super) struct Quiet {
    end: Cut,
    since: Duration,
    is_marked: bool,
}

/// A damaged file that somebody met.
pub(super) struct Damage {
    pub(super) path: String,
    pub(super) reason: String,
}

impl Damage {
    pub(super) fn in_error(error: &(dyn Error + 'static)) -> Option<Self> {
        let (path, reason) = DataError::damage_in(error)?;
        Some(Self {
            path: path.to_string_lossy().into_owned(),
            reason,
        })
    }
}

/// What was found, by what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// States that are not used any more: what failed may be tried again.
    States,
    /// Nothing that helps itself.
    Other,
}

/// Makes every Parquet file that an entry names known to the disk that checks them.
pub(super) fn expect_all(disk: &Disk, publication: &Publication) {
    for stream in publication.streams.values() {
        let folder = stream.definition.master_folder();
        for file in &stream.files {
            disk.expect(&format!("{folder}/{}", file.path), file.bytes, file.crc32c);
        }
    }
    for view in publication.views.values() {
        for file in states_files(view) {
            disk.expect(&file.path, file.bytes, file.crc32c);
        }
    }
}

impl Engine {
    /// Starts a stream, or stops it if its files are not what was stored.
    pub(super) fn start_or_stop(self: &Arc<Self>, state: &StreamState) {
        let started = self.check_master_files(state).and_then(|()| {
            let last = last_flushed_at_micros(state);
            self.start_stream(&state.definition, &state.cut, &state.keys, last)?;
            Ok(())
        });
        if let Err(error) = started {
            let reason: Arc<str> = format!("{error:#}; {WAYS_OUT}").into();
            tracing::error!(
                stream = state.definition.name,
                reason = &*reason,
                "the stream is stopped; the others go on"
            );
            let damage = match error.downcast_ref::<SpeedError>() {
                Some(SpeedError::Data(error)) => DataError::damage_in(error),
                _ => DataError::damage_in(error.as_ref()),
            };
            let is_in = |root: &str| damage.as_ref().is_some_and(|it| it.0.starts_with(root));
            let kind = match (is_in("streams"), is_in("keys")) {
                (true, _) => "master",
                (_, true) => "keys",
                _ => "log",
            };
            self.count_damage(kind, 1);
            self.publisher.set_stopped(&state.definition, reason);
        }
    }

    /// Marks the end of the log of a stream that has been quiet for a moment, so that damage to its
    /// last events can be told from a write that a crash cut short.
    pub(super) fn mark_if_quiet(&self, stream: &StreamRuntime) {
        let snapshot = self.publisher.snapshot();
        let Some(tail) = snapshot.streams.get(&stream.definition.name) else {
            return;
        };
        let now = self.clock.monotonic();
        let mut quiet = lock(&stream.quiet);
        match quiet.as_mut().filter(|quiet| quiet.end == tail.end) {
            Some(quiet) if quiet.is_marked || now.saturating_sub(quiet.since) < QUIET => {}
            Some(quiet) => {
                quiet.is_marked = true;
                if let Err(error) = stream.writer.mark_end() {
                    let stream = &stream.definition.name;
                    tracing::warn!(stream, %error, "the end of the log is not marked");
                }
            }
            None => {
                *quiet = Some(Quiet {
                    end: tail.end.clone(),
                    since: now,
                    is_marked: false,
                });
            }
        }
    }

    /// Looks at the length of every master file; their content is checked when it is read.
    fn check_master_files(&self, state: &StreamState) -> anyhow::Result<()> {
        let folder = state.definition.master_folder();
        for file in &state.files {
            // The disk knows what it must be: see `expect_all`.
            self.disk.head(&format!("{folder}/{}", file.path))?;
        }
        Ok(())
    }

    /// Errors: `stream_damaged` if there is a stream of this name and it is stopped.
    pub(super) fn refuse_stopped(&self, name: &str) -> Result<(), EngineError> {
        let snapshot = self.publisher.snapshot();
        let stream = snapshot.streams.get(name);
        stream.map_or(Ok(()), |stream| stream.readable())
    }

    /// A stream that runs. Errors: `stream_damaged`, `unknown_stream`.
    pub(super) fn running_stream(&self, name: &str) -> Result<Arc<StreamRuntime>, EngineError> {
        self.refuse_stopped(name)?;
        self.stream_runtime(name)
            .ok_or_else(|| unknown_stream(name))
    }

    /// Errors: `stream_damaged` naming the first stream that is stopped.
    pub(super) fn refuse_any_stopped(&self) -> Result<(), EngineError> {
        let snapshot = self.publisher.snapshot();
        let mut streams = snapshot.streams.values();
        streams.try_for_each(|stream| stream.readable())
    }
}

impl Engine {
    pub(super) fn count_damage(&self, kind: &str, files: usize) {
        if files > 0 {
            let counter = self.meters.meters.counter(&names::DAMAGED_FILES, &[kind]);
            counter.increment(files as u64);
        }
    }

    /// Does what can be done about a damaged file.
    pub(super) fn note(&self, damage: &Damage) -> Found {
        if damage.path.starts_with("views/") {
            // Without a view that has it, it was replaced meanwhile: the next try meets others.
            if let Some((view, lost)) = self.publisher.recheck_states(&damage.path) {
                self.count_damage("states", lost);
                lock(&self.to_fill).insert(view, "damaged_states");
            }
            return Found::States;
        }
        let (path, reason) = (damage.path.clone(), damage.reason.clone());
        let kind = match path.split('/').next() {
            Some("streams") => "master",
            Some("keys") => "keys",
            _ => return Found::Other,
        };
        let is_new = {
            let mut known = lock(&self.damaged_files);
            known.insert(path.clone(), reason.clone()).is_none()
        };
        if is_new {
            self.count_damage(kind, 1);
            tracing::error!(path, reason, kind, "a file is damaged");
        }
        Found::Other
    }

    /// Asks for a recompute of each view whose states were found broken at start.
    pub(super) fn rebuild_broken_states(&self) {
        for (view, files) in self.publisher.views_with_broken_states() {
            self.count_damage("states", files);
            lock(&self.to_fill).insert(view, "damaged_states");
        }
    }

    /// Forgets what was found in a stream that was dropped.
    pub(super) fn forget_damage(&self, definition: &StreamDefinition) {
        lock(&self.damaged_files).retain(|path, _| !is_file_of(path, definition));
    }

    /// Master files of a stream found damaged since the start.
    pub(super) fn damaged_master_files<'a>(&self, state: &'a StreamState) -> Vec<&'a MasterFile> {
        let known = lock(&self.damaged_files);
        if known.is_empty() {
            return Vec::new();
        }
        let folder = state.definition.master_folder();
        let is_known = |file: &&MasterFile| known.contains_key(&format!("{folder}/{}", file.path));
        state.files.iter().filter(is_known).collect()
    }

    /// Files of a stream found damaged since the start, in words.
    pub(super) fn damaged_files_of(&self, definition: &StreamDefinition) -> Option<String> {
        let known = lock(&self.damaged_files);
        let of_stream = known
            .iter()
            .filter(|(path, _)| is_file_of(path, definition));
        let told: Vec<String> = of_stream
            .map(|(path, reason)| format!("{path} is damaged: {reason}"))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Plans and starts a query, and waits for its first rows. States that turn out to be broken
    /// by then cost a second try, not the answer.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: QueryRequest,
    ) -> Result<Answer, EngineError> {
        let mut attempts = 0;
        loop {
            let moment = Moment {
                snapshot: self.publisher.snapshot(),
                system: Arc::clone(self) as Arc<dyn System>,
                now_micros: self.clock.now_micros(),
            };
            let error = match self.queries.run(moment, request.clone()).await {
                Ok(answer) => match first_rows(answer).await {
                    Ok(answer) => return Ok(self.watched(answer)),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            attempts += 1;
            let Some(damage) = Damage::in_error(&error) else {
                return Err(error);
            };
            let found = self.off_io(move |engine| engine.note(&damage)).await?;
            if found == Found::Other || attempts >= ATTEMPTS {
                return Err(error);
            }
        }
    }

    /// Notes damage that a later part of the answer meets. The answer breaks off; the next try
    /// is right.
    fn watched(self: &Arc<Self>, answer: Answer) -> Answer {
        let engine = Arc::clone(self);
        let batches = answer.batches.inspect(move |batch| {
            let Some(damage) = batch.as_ref().err().and_then(|e| Damage::in_error(e)) else {
                return;
            };
            let noting = Arc::clone(&engine);
            // Reads files: not on the thread that carries the answer.
            drop(engine.compute.spawn_blocking(move || noting.note(&damage)));
        });
        Answer {
            batches: Box::pin(RecordBatchStreamAdapter::new(
                Arc::clone(&answer.schema),
                batches,
            )),
            ..answer
        }
    }
}

/// When the newest flushed event was ingested; `None` without one.
fn last_flushed_at_micros(state: &StreamState) -> Option<i64> {
    let bounds = state.files.iter().flat_map(|file| &file.bounds);
    let ingested = bounds.filter(|bounds| bounds.column == INGESTED_AT);
    ingested.filter_map(|bounds| bounds.greatest).max()
}

fn is_file_of(path: &str, definition: &StreamDefinition) -> bool {
    let folder = path.rsplit_once('/').map(|(folder, _)| folder);
    folder == Some(&*definition.master_folder()) || folder == Some(&*definition.keys_folder())
}

/// The answer once its first batch is there; the error if it has none.
async fn first_rows(mut answer: Answer) -> Result<Answer, EngineError> {
    let first = answer.batches.next().await.transpose()?;
    let batches = stream::iter(first.map(Ok)).chain(answer.batches);
    Ok(Answer {
        batches: Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&answer.schema),
            batches,
        )),
        ..answer
    })
}
