//! Where an answer comes from: for each view and stream in it the version, the cuts and the panes
//! that it rests on, told so exactly that the answer can be repeated.
//!
//! ```text
//!   0          cut              master_cut            to
//!   |  version  |  panes and gaps    |      tail       |
//!   from batch --------------------->                       of a stream
//!   from batch ->  from speed ------------------------>     of a view
//! ```
//!
//! What it says follows from the pinned snapshot, without a look at files, but for the rows, which
//! are counted while the plan runs. It is put together when somebody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use lambdalake_data::through::Watch;
use lambdalake_data::{Cut, CutRange};
use serde_json::{Value, json};

use crate::engine::{Layer, QueryStats};
use crate::snapshot::{StreamSnapshot, ViewSnapshot};

/// Members of each object in `stats`, and columns of `EXPLAIN PROVENANCE` in this order: name,
/// type, whether it may be null. In the table, cuts are JSON as text.
pub const COLUMNS: [(&str, DataType, bool); 27] = [
    ("name", DataType::Utf8, false),
    ("kind", DataType::Utf8, false),
    ("stream", DataType::Utf8, false),
    ("definition_hash", DataType::Utf8, true),
    ("version", DataType::Int64, true),
    ("run_id", DataType::Utf8, true),
    ("cut", DataType::Utf8, false),
    ("master_version", DataType::Int64, false),
    ("master_cut", DataType::Utf8, false),
    ("publication", DataType::Int64, false),
    ("from", DataType::Utf8, false),
    ("to", DataType::Utf8, false),
    ("lag_events", DataType::Int64, false),
    ("panes", DataType::Int64, false),
    ("panes_from", DataType::Utf8, true),
    ("panes_to", DataType::Utf8, true),
    ("gaps", DataType::Int64, false),
    ("events_from_batch", DataType::Int64, false),
    ("events_from_panes", DataType::Int64, false),
    ("events_from_gaps", DataType::Int64, false),
    ("events_from_tail", DataType::Int64, false),
    ("share_from_batch", DataType::Float64, true),
    ("share_from_speed", DataType::Float64, true),
    ("rows_from_batch", DataType::Int64, false),
    ("rows_from_panes", DataType::Int64, false),
    ("rows_from_gaps", DataType::Int64, false),
    ("rows_from_tail", DataType::Int64, false),
];

/// A view or stream of the pinned snapshot.
#[derive(Debug, Clone)]
pub enum Origin {
    View(Arc<ViewSnapshot>),
    Stream(Arc<StreamSnapshot>),
}

/// A view or stream in an answer, and what was read of it.
#[derive(Debug)]
pub struct Provenance {
    origin: Origin,
    layer: Layer,
    publication: u64,
    rows: Arc<RowsRead>,
}

/// Rows that the scans of one table gave: finished rows and states of a view, events of a stream.
#[derive(Debug, Default)]
pub(crate) struct RowsRead {
    batch: AtomicU64,
    panes: AtomicU64,
    gaps: AtomicU64,
    tail: AtomicU64,
}

/// Which part of a table a scan reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Batch,
    Panes,
    Gaps,
    Tail,
}

impl RowsRead {
    fn of(&self, part: Part) -> &AtomicU64 {
        match part {
            Part::Batch => &self.batch,
            Part::Panes => &self.panes,
            Part::Gaps => &self.gaps,
            Part::Tail => &self.tail,
        }
    }

    fn get(&self, part: Part) -> u64 {
        self.of(part).load(Ordering::Relaxed)
    }

    /// Counts the rows of every batch that passes.
    pub(crate) fn watch(self: &Arc<Self>, part: Part) -> Watch {
        let rows = Arc::clone(self);
        Arc::new(move |batch| {
            let passed = batch.num_rows() as u64;
            rows.of(part).fetch_add(passed, Ordering::Relaxed);
            Ok(())
        })
    }
}

/// Events that an answer rests on, by where they come from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Events {
    batch: u64,
    panes: u64,
    gaps: u64,
    tail: u64,
}

impl Provenance {
    pub fn new(origin: Origin, layer: Layer, publication: u64) -> Self {
        Self {
            origin,
            layer,
            publication,
            rows: Arc::default(),
        }
    }

    pub fn name(&self) -> &str {
        match &self.origin {
            Origin::View(view) => &view.state.name,
            Origin::Stream(stream) => &stream.definition.name,
        }
    }

    pub(crate) fn rows(&self) -> Arc<RowsRead> {
        Arc::clone(&self.rows)
    }

    fn stream(&self) -> &StreamSnapshot {
        match &self.origin {
            Origin::View(view) => &view.stream,
            Origin::Stream(stream) => stream,
        }
    }

    /// Everything before it is from the batch layer.
    fn cut(&self) -> Cut {
        match &self.origin {
            Origin::View(view) => view.batch_cut(),
            Origin::Stream(stream) => stream.state.cut.clone(),
        }
    }

    fn lag_events(&self) -> u64 {
        self.stream().end.events_since(&self.cut())
    }

    /// The events that the answer rests on, with the layer that was asked.
    fn range(&self) -> CutRange {
        let start = || Cut::start(self.stream().definition.shards);
        let end = || self.stream().end.clone();
        match self.layer {
            Layer::Merged => CutRange::new(start(), end()),
            Layer::Batch => CutRange::new(start(), self.cut()),
            Layer::Speed => CutRange::new(self.cut(), end()),
        }
    }

    fn events(&self, gaps: &[CutRange]) -> Events {
        let mut events = Events::default();
        if self.layer != Layer::Speed {
            events.batch = self.cut().events();
        }
        if self.layer != Layer::Batch {
            events.tail = self.stream().tail_rows();
            events.gaps = gaps.iter().map(CutRange::events).sum();
            if let Origin::View(view) = &self.origin {
                events.panes = view.panes.iter().map(|pane| pane.range.events()).sum();
            }
        }
        events
    }

    /// An object with the members of [`COLUMNS`].
    pub fn to_json(&self) -> Value {
        let view = match &self.origin {
            Origin::View(view) => Some(view),
            Origin::Stream(_) => None,
        };
        let with_speed = view.filter(|_| self.layer != Layer::Batch);
        let gaps = with_speed.map(|view| view.gaps()).unwrap_or_default();
        let panes = with_speed.map_or(&[][..], |view| &view.panes);
        let events = self.events(&gaps);
        let speed = events.panes + events.gaps + events.tail;
        let share = |part: u64| match events.batch + speed {
            0 => None,
            all => Some(part as f64 / all as f64),
        };
        let version = view.and_then(|view| view.version.as_ref());
        let range = self.range();
        let stream = self.stream();
        json!({
            "name": self.name(),
            "kind": if view.is_some() { "view" } else { "stream" },
            "stream": stream.definition.name,
            "definition_hash": view.map(|view| view.view.definition_hash()),
            "version": version.map(|version| version.number),
            "run_id": version.map(|version| &version.run_id),
            "cut": offsets(&self.cut()),
            "master_version": stream.state.master_version,
            "master_cut": offsets(&stream.state.cut),
            "publication": self.publication,
            "from": offsets(&range.from),
            "to": offsets(&range.to),
            "lag_events": self.lag_events(),
            "panes": panes.len(),
            "panes_from": panes.first().map(|pane| offsets(&pane.range.from)),
            "panes_to": panes.last().map(|pane| offsets(&pane.range.to)),
            "gaps": gaps.len(),
            "events_from_batch": events.batch,
            "events_from_panes": events.panes,
            "events_from_gaps": events.gaps,
            "events_from_tail": events.tail,
            "share_from_batch": share(events.batch),
            "share_from_speed": share(speed),
            "rows_from_batch": self.rows.get(Part::Batch),
            "rows_from_panes": self.rows.get(Part::Panes),
            "rows_from_gaps": self.rows.get(Part::Gaps),
            "rows_from_tail": self.rows.get(Part::Tail),
        })
    }
}

fn offsets(cut: &Cut) -> Vec<u64> {
    (0..cut.shards()).map(|shard| cut.offset(shard)).collect()
}

/// What is known of an answer before it runs. `batch_version` is that of the view that is furthest
/// behind (of several, the first by name), or of the stream if there is no view.
pub(crate) fn stats_of(provenance: Vec<Provenance>, now_micros: i64) -> QueryStats {
    let newest = provenance
        .iter()
        .filter_map(|it| it.stream().last_ingested_at_micros)
        .max();
    let lag_events = provenance.iter().map(Provenance::lag_events).max();
    let is_view = |it: &&Provenance| matches!(it.origin, Origin::View(_));
    // Of those that are equally far behind, `max_by_key` takes the last.
    let behind = provenance
        .iter()
        .rev()
        .max_by_key(|it| (is_view(it), it.lag_events()));
    let batch_version = behind.and_then(|it| match &it.origin {
        Origin::View(view) => view.version.as_ref().map(|version| version.number),
        Origin::Stream(stream) => Some(stream.state.master_version),
    });
    QueryStats {
        freshness_ms: newest.map(|at| (now_micros.saturating_sub(at).max(0) / 1000) as u64),
        batch_version,
        lag_events: lag_events.unwrap_or(0),
        provenance,
        ..QueryStats::default()
    }
}

/// The answer to `EXPLAIN PROVENANCE`: a row for each view and stream, by name.
pub(crate) fn table(provenance: &[Provenance]) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<Value> = provenance.iter().map(Provenance::to_json).collect();
    let fields = COLUMNS.map(|(name, data_type, nullable)| Field::new(name, data_type, nullable));
    let columns = fields.iter().map(|field| -> ArrayRef {
        let values = rows.iter().map(|row| &row[field.name()]);
        match field.data_type() {
            DataType::Int64 => Arc::new(values.map(Value::as_i64).collect::<Int64Array>()),
            DataType::Float64 => Arc::new(values.map(Value::as_f64).collect::<Float64Array>()),
            _ => Arc::new(values.map(text).collect::<StringArray>()),
        }
    });
    let columns = columns.collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        nested => Some(nested.to_string()),
    }
}
