//! The port of the serving layer: everything it asks of the rest of the engine.
//!
//! The layers never import each other. The binary implements [`Engine`] with the log, the speed
//! layer and the batch layer behind it, and hands it to [`crate::serve`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::Stream;
use lambdalake_data::input::{Encoding, InputOptions};
use lambdalake_data::publication::Comments;
use serde::Serialize;
use serde_json::{Value, json};

pub use crate::error::{EngineError, ErrorKind};
use crate::metrics::Meters;
pub use crate::params::Params;
use crate::provenance::Provenance;

/// What the serving layer needs from the engine. Every method may be called at any time, from
/// many requests at once; dropping a returned future cancels waiting, never work that was
/// already acknowledged.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Parses, appends and applies one request; returns once it is on disk and visible.
    async fn ingest(&self, request: IngestRequest) -> Result<IngestReply, EngineError>;
    /// Makes a stream. Conflict if it exists and the spec does not say `if_not_exists`.
    async fn create_stream(&self, spec: StreamSpec) -> Result<(), EngineError>;
    /// Makes a view. Conflict if it exists and the spec does not say `if_not_exists`.
    async fn create_view(&self, spec: ViewSpec) -> Result<(), EngineError>;
    /// Changes a view's options, or pauses its schedule. NotFound for an unknown view.
    async fn alter_view(&self, spec: AlterViewSpec) -> Result<(), EngineError>;
    /// Changes a stream's columns. NotFound for an unknown stream or column, Conflict for a
    /// column that exists or cannot change its type.
    async fn alter_stream(&self, spec: AlterSpec) -> Result<(), EngineError>;
    /// Removes a stream. NotFound unless `if_exists`; Conflict while views read it.
    async fn drop_stream(&self, name: &str, if_exists: bool) -> Result<(), EngineError>;
    /// Removes a view. NotFound unless `if_exists`.
    async fn drop_view(&self, name: &str, if_exists: bool) -> Result<(), EngineError>;
    /// Sets or removes a comment, durably. NotFound if there is no such stream, view or column.
    async fn comment(&self, spec: CommentSpec) -> Result<(), EngineError>;
    /// Moves everything acknowledged into the master dataset; of one stream, or of all.
    async fn flush(&self, stream: Option<&str>) -> Result<(), EngineError>;
    /// Starts a recompute, or has it wait for others, and returns its run id. NotFound for an
    /// unknown view, Conflict while the view has a run already.
    async fn recompute(&self, view: &str) -> Result<String, EngineError>;
    /// Starts a run that computes the view from all events and compares, but publishes nothing.
    /// Errors as [`Engine::recompute`].
    async fn verify_view(&self, view: &str) -> Result<String, EngineError>;
    /// Tells what a recompute of the view would read, need and take now, and runs nothing.
    /// NotFound for an unknown view.
    async fn explain_recompute(&self, view: &str) -> Result<Vec<Expected>, EngineError>;
    /// Asks a run to end; one that waits ends at once. NotFound for an unknown run, Conflict for
    /// one that has ended.
    async fn cancel_run(&self, run_id: &str) -> Result<(), EngineError>;
    /// Waits for the end of a run and returns it as [`Engine::run`] does. A run that failed may
    /// be returned as an error, or as an object with a non-null `error`.
    async fn wait_run(&self, run_id: &str) -> Result<Value, EngineError>;
    /// Runs, newest first.
    fn runs(&self) -> Vec<Value>;
    /// One run: an object whose `status` is `queued` or `running` until it ends.
    fn run(&self, id: &str) -> Option<Value>;
    /// Streams by name: objects with at least `name` and `schema`
    /// (`[{name, type, nullable}]`), and `rows` if known.
    fn streams(&self) -> Vec<Value>;
    /// One stream.
    fn stream(&self, name: &str) -> Option<Value>;
    /// Views by name: objects with at least `name`, `schema` and `definition` (SQL text).
    fn views(&self) -> Vec<Value>;
    /// One view.
    fn view(&self, name: &str) -> Option<Value>;
    /// Whether this node may take traffic, and why not.
    fn health(&self) -> Health;
    /// Where this engine's metrics are recorded.
    fn meters(&self) -> Meters;
    /// Everything recorded and the current state, as Prometheus text.
    fn metrics_text(&self) -> String;
    /// Plans and starts a read-only query (SELECT or EXPLAIN text) on one pinned snapshot.
    /// Dropping the answer's stream cancels it. CPU work happens on the engine's own runtime.
    async fn query(&self, request: QueryRequest) -> Result<Answer, EngineError>;
}

/// The bytes of a body in the pieces in which they arrive; an error ends them.
pub type IngestBody = Pin<Box<dyn Stream<Item = Result<Bytes, EngineError>> + Send>>;

/// One ingest request, whose body may still be arriving.
pub struct IngestRequest {
    /// The stream's name as in the path; not checked yet.
    pub stream: String,
    /// The `format` parameter; `None` and `auto` mean: find out.
    pub format: Option<String>,
    /// The `Content-Type` header.
    pub content_type: Option<String>,
    /// How the body is compressed; the engine unpacks it under its own limit (TooLarge past it).
    pub encoding: Encoding,
    /// The `producer` parameter.
    pub producer: Option<String>,
    /// The `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
    /// The body, at most `Limits::body_bytes`. Not polled, nothing more of it is received.
    pub body: IngestBody,
    /// Names the request in logs: the client's, or one unique for this process and, in all
    /// likelihood, over restarts.
    pub request_id: String,
}

/// What became of one ingest body.
#[derive(Debug, Default, Serialize)]
pub struct IngestReply {
    /// Rows that are on disk and visible.
    pub accepted: u64,
    /// Rows that were not taken.
    pub rejected: u64,
    /// Why, in the order of the body; may list fewer than `rejected`.
    pub errors: Vec<RowError>,
    /// Per shard the offsets the accepted rows got. Between those of a body of several blocks,
    /// events of other requests may lie.
    pub offsets: BTreeMap<String, OffsetRange>,
    /// How many of the accepted rows were stored before, by a request with the same key.
    #[serde(skip)]
    pub repeated: u64,
    /// Why the rest of the body was not taken, after the rows counted here were.
    #[serde(skip)]
    pub failure: Option<EngineError>,
}

/// Why one row was not taken.
#[derive(Debug, Clone, Serialize)]
pub struct RowError {
    /// Line (or row) of the body, from 1.
    pub line: u64,
    /// A stable word for programs.
    pub code: String,
    /// The field at fault, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// A sentence for people.
    pub message: String,
}

/// Offsets `from..to` of one shard, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OffsetRange {
    /// The first offset.
    pub from: u64,
    /// One past the last offset.
    pub to: u64,
}

/// A stream to make.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSpec {
    /// Checked: a letter, then letters, digits and underscores; at most 128.
    pub name: String,
    /// An existing stream is fine.
    pub if_not_exists: bool,
    /// The user's columns; empty means: taken from the first batch.
    pub fields: Vec<Field>,
    /// The column with the event's time; if `fields` is not empty, one of them.
    pub event_time: Option<String>,
    /// The column whose hash picks the shard; if `fields` is not empty, one of them.
    pub shard_key: Option<String>,
    /// Number of shards, at least 1; `None` means the engine's default.
    pub shards: Option<u32>,
    /// How its events are read.
    pub input: InputOptions,
    /// Rows that do not fit the columns are kept in the column `_rest` instead of rejected.
    pub keeps_rest: bool,
    /// What the statement says about the stream and its columns.
    pub comments: Comments,
}

/// Changes of a stream's columns: all of them or none.
#[derive(Debug, Clone, PartialEq)]
pub struct AlterSpec {
    /// The stream's name.
    pub stream: String,
    /// In the order of the statement.
    pub changes: Vec<ColumnChange>,
}

/// One change of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnChange {
    /// `ADD COLUMN`; older events have null in it.
    Add {
        /// A nullable column of a type that streams can hold.
        field: Field,
        /// A column of that name is fine.
        if_not_exists: bool,
    },
    /// `ALTER COLUMN ... TYPE`.
    SetType {
        /// The column.
        name: String,
        /// What it becomes.
        data_type: DataType,
    },
    /// `SET (on_conflict = 'rest')`: the stream gets the column `_rest`.
    KeepRest,
}

/// A comment to set or to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommentSpec {
    pub target: CommentTarget,
    /// `None` removes it.
    pub text: Option<String>,
}

/// What a comment is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommentTarget {
    Stream(String),
    View(String),
    /// A column of a stream or view.
    Column {
        table: String,
        column: String,
    },
}

/// Rows to add to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertSpec {
    /// The stream's name.
    pub stream: String,
    /// The columns that the source's columns go to, in order; `None`: the stream's first ones.
    pub columns: Option<Vec<String>>,
    /// The query whose rows are added.
    pub source: String,
}

/// A view to make.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewSpec {
    /// Checked like a stream's name.
    pub name: String,
    /// An existing view is fine.
    pub if_not_exists: bool,
    /// The defining query, as the user wrote it.
    pub select: String,
    /// As `WITH` has them; not checked yet.
    pub options: ViewOptions,
}

/// Options of a view, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// Triggers such as `0 3 * * * or after 1000000 events`; `None` means on demand only.
    pub recompute: Option<String>,
    /// The zone of their times; `None` means that of the settings.
    pub time_zone: Option<String>,
    /// What becomes of a recompute whose audit finds differences: `hold`, or `publish`.
    pub on_mismatch: Option<String>,
}

/// A change of a view's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterViewSpec {
    /// The view's name.
    pub view: String,
    /// What changes.
    pub change: ViewChange,
}

/// See [`AlterViewSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewChange {
    /// What is given takes the place of what was.
    Set(ViewOptions),
    /// What is true goes back to what it is without being said.
    Reset {
        /// The triggers.
        recompute: bool,
        /// The zone of their times.
        time_zone: bool,
        /// What becomes of a recompute whose audit finds differences.
        on_mismatch: bool,
    },
    /// Nothing but a request recomputes it.
    Pause,
    /// The triggers work again, from now on.
    Resume,
}

/// Which part of a view answers a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Batch and speed, merged: what users want.
    #[default]
    Merged,
    /// Only the newest published version.
    Batch,
    /// Only what came after it.
    Speed,
}

impl Layer {
    /// The layer of a request parameter.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "merged" => Some(Self::Merged),
            "batch" => Some(Self::Batch),
            "speed" => Some(Self::Speed),
            _ => None,
        }
    }
}

/// One figure of `EXPLAIN RECOMPUTE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// A stable word for programs.
    pub name: &'static str,
    /// Numbers as plain digits; `None` if it is not known.
    pub value: Option<String>,
    /// What the value counts; empty for words.
    pub unit: &'static str,
    /// What it means, and what it rests on if it is an estimate.
    pub about: String,
}

/// A read-only query.
#[derive(Debug, Clone)]
pub struct QueryRequest {
    /// SELECT, WITH, VALUES or EXPLAIN text.
    pub sql: String,
    /// The values of its placeholders.
    pub params: Params,
    /// Which layers answer.
    pub layer: Layer,
    /// Time for all of it. The serving layer gives up after it, too.
    pub timeout: Duration,
    /// Rows allowed. The engine ends the stream with an OutOfMemory error of code `row_limit`
    /// past it; it never cuts an answer short in silence.
    pub max_rows: u64,
    /// The id in `X-Query-Id` and in the list of running queries.
    pub query_id: String,
}

/// A running query.
pub struct Answer {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows. Polling is cheap: the work happens on the engine's query runtime.
    pub batches: SendableRecordBatchStream,
    /// Counted while the stream runs; complete at its end.
    pub stats: Arc<QueryStats>,
}

/// What a query read. Counters grow while the query runs; the rest is known from its snapshot.
#[derive(Debug, Default)]
pub struct QueryStats {
    /// Events that the answer rests on, of streams and of views.
    pub rows_read: AtomicU64,
    /// Of these, from the batch layer: master dataset or view states.
    pub from_batch: AtomicU64,
    /// Of these, from the speed layer: tail or panes.
    pub from_speed: AtomicU64,
    /// Age of the newest event of the streams behind the answer, in the snapshot; `None` without
    /// events.
    pub freshness_ms: Option<u64>,
    /// The version of the view that is furthest behind, or the master version if there are only
    /// streams; `None` if it has none yet.
    pub batch_version: Option<u64>,
    /// Events after the batch cut (for a stream: not flushed yet), of the view or stream that is
    /// furthest behind.
    pub lag_events: u64,
    /// The views and streams that answered, by name.
    pub provenance: Vec<Provenance>,
    /// Files of the tables that were asked, before any was ruled out.
    pub files_total: AtomicU64,
    /// Of these, the files that the plan may open; the others were ruled out by their bounds.
    pub files_read: AtomicU64,
    /// Row groups of the files that were opened. Known at the end, like all below.
    pub row_groups_total: AtomicU64,
    /// Of these, what their statistics did not rule out.
    pub row_groups_read: AtomicU64,
    /// Rows decoded from files or taken from memory, before filters above the scan.
    pub rows_scanned: AtomicU64,
    /// Bytes read from files.
    pub bytes_scanned: AtomicU64,
}

impl QueryStats {
    /// Counts events that the batch layer answers for.
    pub(crate) fn count_batch(&self, events: u64) {
        self.from_batch.fetch_add(events, Ordering::Relaxed);
        self.rows_read.fetch_add(events, Ordering::Relaxed);
    }

    /// Counts events that the speed layer answers for.
    pub(crate) fn count_speed(&self, events: u64) {
        self.from_speed.fetch_add(events, Ordering::Relaxed);
        self.rows_read.fetch_add(events, Ordering::Relaxed);
    }

    /// Counts files of a table, and those of them that may hold a match.
    pub(crate) fn count_files(&self, total: usize, read: usize) {
        self.files_total.fetch_add(total as u64, Ordering::Relaxed);
        self.files_read.fetch_add(read as u64, Ordering::Relaxed);
    }

    /// The `stats` object of an answer.
    pub fn to_json(&self, elapsed: Duration) -> Value {
        let mut stats = json!({
            "elapsed_ms": (elapsed.as_secs_f64() * 1e6).round() / 1e3,
            "rows_read": self.rows_read.load(Ordering::Relaxed),
            "from_batch": self.from_batch.load(Ordering::Relaxed),
            "from_speed": self.from_speed.load(Ordering::Relaxed),
            "lag_events": self.lag_events,
            "files_total": self.files_total.load(Ordering::Relaxed),
            "files_read": self.files_read.load(Ordering::Relaxed),
            "row_groups_total": self.row_groups_total.load(Ordering::Relaxed),
            "row_groups_read": self.row_groups_read.load(Ordering::Relaxed),
            "rows_scanned": self.rows_scanned.load(Ordering::Relaxed),
            "bytes_scanned": self.bytes_scanned.load(Ordering::Relaxed),
            "provenance": self.provenance.iter().map(Provenance::to_json).collect::<Vec<_>>(),
        });
        if let Some(freshness_ms) = self.freshness_ms {
            stats["freshness_ms"] = freshness_ms.into();
        }
        if let Some(batch_version) = self.batch_version {
            stats["batch_version"] = batch_version.into();
        }
        stats
    }
}

/// Whether this node may take traffic.
#[derive(Debug, Clone)]
pub struct Health {
    /// Traffic is welcome.
    pub ready: bool,
    /// Why, and what state its parts are in.
    pub details: Value,
}
