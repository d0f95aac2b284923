//! What a recompute would read, need and take now: `EXPLAIN RECOMPUTE`. Nothing runs.
//!
//! What would be read is exact. The rest is an estimate from what earlier runs and the stored
//! states show, and says what it rests on:
//!
//! ```text
//!   states   groups of the version, growing as they grew with its events
//!   memory   states x their width x how often they are held at the same time
//!   time     the fixed part of a run + events / (events per second of earlier runs)
//! ```

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, SchemaRef};
use lambdalake_batch::history::{Run, RunStatus};
use lambdalake_data::footers::{ColumnBytes, column_bytes};
use lambdalake_data::publication::{MasterFile, StatesFile};
use lambdalake_data::{CutRange, Disk};
use lambdalake_serving::engine::{EngineError, Expected};
use lambdalake_serving::snapshot::ViewSnapshot;

use super::{Engine, lock};

/// Footers that are read to tell columns apart; of more files, so many are taken as a sample.
const SAMPLED_FILES: usize = 32;

/// Runs whose speed is averaged.
const SAMPLED_RUNS: usize = 5;

/// Events for which a group is assumed while nothing is known of the view's groups.
const EVENTS_PER_GROUP: u64 = 10;

/// Bytes assumed of a state without a fixed width while no stored state shows it.
const WIDTH_BYTES: u64 = 32;

/// Bytes that a group takes beside its state, in hash tables and row formats. With [`copies`] it
/// fits what the batch pool held at most in runs over 400,000 groups.
const GROUP_BYTES: u64 = 150;

/// Tenths of the limit from which on a run is expected to spill: the operators at rest are sure of
/// the remaining one.
const SPILLS_FROM: u64 = 9;

/// Milliseconds of a run that do not depend on the events: flush, footers, publication.
const FIXED_MS: f64 = 20.0;

/// Events per second assumed while there was no run at all.
const EVENTS_PER_SECOND: f64 = 1_000_000.0;

/// A number and what it rests on.
#[derive(Debug, Clone, PartialEq)]
struct Estimate {
    value: u64,
    about: String,
}

impl Estimate {
    fn new(value: u64, about: impl Into<String>) -> Self {
        Self {
            value,
            about: about.into(),
        }
    }
}

/// The answer as it grows.
#[derive(Default)]
struct Figures(Vec<Expected>);

impl Figures {
    fn add(
        &mut self,
        name: &'static str,
        value: Option<String>,
        unit: &'static str,
        about: impl Into<String>,
    ) {
        self.0.push(Expected {
            name,
            value,
            unit,
            about: about.into(),
        });
    }

    fn word(&mut self, name: &'static str, value: impl Into<String>, about: impl Into<String>) {
        self.add(name, Some(value.into()), "", about);
    }

    fn number(&mut self, name: &'static str, value: u64, unit: &'static str, about: &str) {
        self.add(name, Some(value.to_string()), unit, about);
    }

    fn estimate(&mut self, name: &'static str, unit: &'static str, estimate: Estimate) {
        self.add(name, Some(estimate.value.to_string()), unit, estimate.about);
    }
}

impl Engine {
    /// See the module. Reads a few footers. Errors: `unknown_view`, `stream_damaged`.
    pub(super) fn expect_recompute(&self, name: &str) -> Result<Vec<Expected>, EngineError> {
        let snapshot = self.publisher.snapshot();
        let Some(view) = snapshot.views.get(name) else {
            let message = format!("there is no view {name}");
            return Err(EngineError::not_found("unknown_view", message));
        };
        view.stream.readable()?;
        let mut figures = Figures::default();
        what_runs(view, &mut figures);
        self.what_is_read(view, &mut figures);
        self.what_is_needed(view, &mut figures);
        self.how_long(view, &mut figures);
        Ok(figures.0)
    }

    fn what_is_read(&self, view: &ViewSnapshot, figures: &mut Figures) {
        let stream = &view.stream;
        let cut: Vec<u64> = (0..stream.end.shards())
            .map(|shard| stream.end.offset(shard))
            .collect();
        let cut = format!("{cut:?}");
        figures.word(
            "cut",
            cut,
            "one offset for each shard: up to where it would read",
        );
        figures.number("events", stream.end.events(), "events", "up to the cut");
        let about = "of these, not flushed yet: the run begins with a flush";
        figures.number("tail_events", stream.tail_rows(), "events", about);
        let master = &stream.state.files;
        let about = "of the master dataset; the flush adds one if there is a tail";
        figures.number("files", master.len() as u64, "files", about);
        let bytes: u64 = master.iter().map(|file| file.bytes).sum();
        figures.number("bytes", bytes, "bytes", "all of these files on disk");
        let input = view.view.input_schema();
        let columns: Vec<&str> = input.fields().iter().map(|it| it.name().as_str()).collect();
        figures.word("columns", columns.join(", "), "that the view reads");
        let folder = stream.definition.master_folder();
        let of_columns = bytes_of_columns(&self.disk, &folder, master, &columns);
        figures.estimate("bytes_of_columns", "bytes", of_columns);
    }

    fn what_is_needed(&self, view: &ViewSnapshot, figures: &mut Figures) {
        let states = states(view);
        let stored: Vec<&StatesFile> = stored_files(view).collect();
        let (rows, bytes) = stored.iter().fold((0, 0), |(rows, bytes), file| {
            (rows + file.rows, bytes + file.bytes)
        });
        let width = self.state_width(&view.view.states_schema(), &stored);
        let partitions = self.batch_task.session_config().target_partitions() as u64;
        let held = states.value * (width.value + GROUP_BYTES) * copies(partitions);
        let about = format!(
            "most at a time: states of {} bytes ({}) and {GROUP_BYTES} beside each, held {} times",
            width.value,
            width.about,
            copies(partitions)
        );
        let memory = match self.last_measure(view).filter(|run| run.memory_bytes > 0) {
            Some(run) => {
                let growth = states.value as f64 / run.states_rows.max(1) as f64;
                let about = "most at a time: what all runs held during the last one of this view, \
                             growing with its states";
                Estimate::new((run.memory_bytes as f64 * growth) as u64, about)
            }
            None => Estimate::new(held, about),
        };
        let limit = self.settings.batch_memory_bytes as u64;
        figures.estimate("states", "rows", states.clone());
        let on_disk = (rows > 0).then(|| (states.value as f64 * bytes as f64 / rows as f64) as u64);
        figures.add(
            "states_bytes",
            on_disk.map(|bytes| bytes.to_string()),
            "bytes",
            match on_disk {
                Some(_) => "of the new version on disk, by the bytes of stored states",
                None => "of the new version on disk: no states are stored yet",
            },
        );
        let about = "the setting batch_memory_bytes, for all runs together";
        figures.number("memory_limit", limit, "bytes", about);
        let (spills, about) = match memory.value * 10 >= limit * SPILLS_FROM {
            true => (
                "yes",
                "the memory is nine tenths of the limit or more: states go to staging/ and back",
            ),
            false => ("no", "the memory is below nine tenths of the limit"),
        };
        let memory = Estimate::new(memory.value.min(limit), memory.about);
        figures.estimate("memory", "bytes", memory);
        figures.word("spills", spills, about);
    }

    fn last_measure(&self, view: &ViewSnapshot) -> Option<Run> {
        let runs = self.history.all().into_iter().rev();
        let mut own = runs.filter(|run| is_measure(run) && is_of(run, view));
        own.next()
    }

    /// Bytes of a state in memory.
    fn state_width(&self, schema: &SchemaRef, stored: &[&StatesFile]) -> Estimate {
        let mut unpacked: BTreeMap<String, ColumnBytes> = BTreeMap::new();
        let mut rows = 0;
        for file in sample(stored) {
            let Ok(columns) = column_bytes(&self.disk, &file.path, file.bytes) else {
                continue;
            };
            rows += file.rows;
            for (name, bytes) in columns {
                unpacked.entry(name).or_default().unpacked += bytes.unpacked;
            }
        }
        let width = |name: &str, data_type: &DataType| match data_type.primitive_width() {
            Some(width) => width as u64,
            None => match unpacked.get(name).filter(|_| rows > 0) {
                Some(bytes) => bytes.unpacked.div_ceil(rows) + 8,
                None => WIDTH_BYTES,
            },
        };
        let fields = schema.fields().iter();
        let value = fields
            .map(|field| width(field.name(), field.data_type()))
            .sum();
        Estimate::new(
            value,
            match rows {
                0 => "assumed, as no states are stored",
                _ => "by the stored ones",
            },
        )
    }

    fn how_long(&self, view: &ViewSnapshot, figures: &mut Figures) {
        let runs = self.history.all();
        let is_own = |run: &Run| is_of(run, view);
        let time = time_ms(&runs, is_own, view.stream.end.events());
        figures.estimate("time", "ms", time);
        let waiting = lock(&self.running).len() as u64;
        let about = format!(
            "that have not ended; the setting recompute_concurrency lets {} go on at a time",
            self.settings.recompute_concurrency
        );
        figures.number("runs_before", waiting, "runs", &about);
        let last = self.last_measure(view);
        let of_last = |of: fn(&Run) -> String| last.as_ref().map(of);
        let run_id = of_last(|run| run.run_id.clone());
        figures.add("last_run", run_id, "", "of this view that succeeded");
        let duration = of_last(|run| run.duration_ms.to_string());
        figures.add("last_run_time", duration, "ms", "that it took");
        let events = of_last(|run| run.counts.rows_read.to_string());
        figures.add("last_run_events", events, "events", "that it read");
        let states = of_last(|run| run.states_rows.to_string());
        figures.add("last_run_states", states, "rows", "that it wrote");
    }
}

fn what_runs(view: &ViewSnapshot, figures: &mut Figures) {
    figures.word("view", view.state.name.as_str(), "to be recomputed");
    figures.word("stream", view.state.stream.as_str(), "that it reads");
    let about = "all events of the stream, to a new version";
    figures.word("run", "recompute", about);
    let panes = view.panes.len();
    let compared = match (&view.version, view.gaps().is_empty()) {
        (_, false) => "nothing".to_owned(),
        (None, true) if panes == 0 => "nothing".to_owned(),
        (None, true) => format!("{panes} panes"),
        (Some(version), true) => format!("version {} and {panes} panes", version.number),
    };
    let about = "by the audit, before it is published; nothing if stored states are missing";
    figures.word("compared_with", compared, about);
}

/// How often a run holds all states at the same time: each partition maps its part of the events
/// to nearly all groups; they are combined, sorted, written, and compared with those before.
fn copies(partitions: u64) -> u64 {
    partitions + 4
}

fn stored_files(view: &ViewSnapshot) -> impl Iterator<Item = &StatesFile> {
    let version = view.version.iter().flat_map(|version| &version.files);
    version.chain(view.panes.iter().flat_map(|pane| &pane.files))
}

/// Some of the files, from the first to the last.
fn sample<T>(files: &[T]) -> impl Iterator<Item = &T> {
    files
        .iter()
        .step_by(files.len().div_ceil(SAMPLED_FILES).max(1))
}

fn bytes_of_columns(disk: &Disk, folder: &str, files: &[MasterFile], columns: &[&str]) -> Estimate {
    if files.is_empty() {
        return Estimate::new(0, "of these columns: no file is there yet");
    }
    let all: u64 = files.iter().map(|file| file.bytes).sum();
    let (mut looked_at, mut whole, mut part) = (0_usize, 0, 0);
    for file in sample(files) {
        let path = format!("{folder}/{}", file.path);
        let Ok(found) = column_bytes(disk, &path, file.bytes) else {
            continue;
        };
        looked_at += 1;
        whole += file.bytes;
        let read = columns.iter().filter_map(|name| found.get(*name));
        part += read.map(|bytes| bytes.stored).sum::<u64>();
    }
    if whole == 0 {
        return Estimate::new(all, "of these columns: all bytes, as no footer was read");
    }
    let share = part as f64 / whole as f64;
    let about = format!(
        "of these columns, by the footers of {looked_at} of {} files",
        files.len()
    );
    Estimate::new((all as f64 * share) as u64, about)
}

/// Rows of the new version, one for each group.
fn states(view: &ViewSnapshot) -> Estimate {
    if view.view.key_columns() == 0 {
        return Estimate::new(1, "the view has one group");
    }
    let rows = |files: &[StatesFile]| files.iter().map(|file| file.rows).sum::<u64>();
    let in_panes: u64 = view.panes.iter().map(|pane| rows(&pane.files)).sum();
    let events_in_panes: u64 = view.panes.iter().map(|pane| pane.range.events()).sum();
    let unstored = view.gaps().iter().map(CutRange::events).sum::<u64>() + view.stream.tail_rows();
    match &view.version {
        Some(version) => grown(
            (version.cut.events(), rows(&version.files)),
            (view.lag_events(), in_panes + unstored),
            version.number,
        ),
        None if events_in_panes > 0 => {
            let share = in_panes as f64 / events_in_panes as f64;
            let value = in_panes + (unstored as f64 * share) as u64;
            Estimate::new(value, "states of the panes, which share no groups at most")
        }
        None => {
            let value = unstored.div_ceil(EVENTS_PER_GROUP);
            let about = format!("assumed: a group for every {EVENTS_PER_GROUP} events");
            Estimate::new(value, about)
        }
    }
}

/// Groups of a version of `events` and `groups` after `more` events, which cannot bring more than
/// `most` new ones.
fn grown((events, groups): (u64, u64), (more, most): (u64, u64), version: u64) -> Estimate {
    let rate = groups as f64 / events.max(1) as f64;
    let new = ((more as f64 * rate).ceil() as u64).min(most);
    let about = format!("the {groups} of version {version}, growing as they grew with its events");
    Estimate::new(groups + new, about)
}

/// There may have been another view of this name.
fn is_of(run: &Run, view: &ViewSnapshot) -> bool {
    let state = &view.state;
    run.view == state.name && run.started_at_micros >= state.created_at_micros
}

/// A run whose time tells something.
fn is_measure(run: &Run) -> bool {
    run.status == RunStatus::Succeeded && run.counts.rows_read > 0
}

/// Time for so many events, by the newest runs of the view, else by those of any.
fn time_ms(runs: &[Run], is_own: impl Fn(&Run) -> bool, events: u64) -> Estimate {
    let measures = || runs.iter().rev().filter(|run| is_measure(run));
    let own: Vec<&Run> = measures()
        .filter(|run| is_own(run))
        .take(SAMPLED_RUNS)
        .collect();
    let (whose, used) = match own.len() {
        0 => ("other views", measures().take(SAMPLED_RUNS).collect()),
        _ => ("this view", own),
    };
    let speed = |run: &&Run| {
        // Never all of it: a short run would seem to take no time.
        let taken = (run.duration_ms as f64 - FIXED_MS).max(run.duration_ms.max(1) as f64 / 10.0);
        run.counts.rows_read as f64 * 1e3 / taken
    };
    let (rests_on, per_second) = match used.len() {
        0 => ("assumed".to_owned(), EVENTS_PER_SECOND),
        count => {
            let mean = used.iter().map(speed).sum::<f64>() / count as f64;
            (format!("by the newest runs of {whose}: {count}"), mean)
        }
    };
    let value = FIXED_MS + events as f64 * 1e3 / per_second;
    let about = format!(
        "{FIXED_MS} ms and the events at {per_second:.0} events/s, {rests_on}; without the wait \
         for other runs"
    );
    Estimate::new(value.round() as u64, about)
}

#[cfg(test)]
mod tests;
