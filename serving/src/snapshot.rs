//! What one query sees, and nothing else.
//!
//! A snapshot is immutable. It names, per stream, the master files up to the flush cut and
//! the tail parts after it, and per view the stored states and their cuts. A query pins one
//! for its whole life (by holding the `Arc`), so every stream and view in it shows exactly
//! the same events; files that a pinned snapshot names are not removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::Result as PlanResult;
use lambdalake_data::publication::{StatesFile, StoredPane, StreamState, ViewState, ViewVersion};
use lambdalake_data::scan::ScanFile;
use lambdalake_data::schema::StreamDefinition;
use lambdalake_data::tail::TailPart;
use lambdalake_data::{Cut, CutRange};
use lambdalake_views::View;

use crate::error::EngineError;

/// Hands out the states of a tail part. The speed layer implements it; the layers do not
/// import each other, so the binary joins the two through this trait.
#[async_trait]
pub trait SpeedStates: Send + Sync + std::fmt::Debug {
    async fn states(&self, view: &ViewSnapshot, part: &TailPart) -> PlanResult<Vec<RecordBatch>>;

    /// Makes and keeps the states if at least so many rows of the part are not mapped yet.
    async fn map_ahead(
        &self,
        view: &ViewSnapshot,
        part: &TailPart,
        unmapped_rows: usize,
    ) -> PlanResult<()>;
}

/// Held by a snapshot so that a file or folder it names stays; the last holder lets go of it.
pub type Pin = Arc<dyn std::fmt::Debug + Send + Sync>;

/// A tail part and where its states come from.
#[derive(Clone, Debug)]
pub struct OpenPart {
    pub part: TailPart,
    pub states: Arc<dyn SpeedStates>,
}

#[derive(Debug)]
pub struct StreamSnapshot {
    pub definition: Arc<StreamDefinition>,
    /// All columns, hidden ones last.
    pub schema: SchemaRef,
    pub state: Arc<StreamState>,
    /// What is not in the master files yet, in order, without gap or overlap.
    pub parts: Vec<OpenPart>,
    pub end: Cut,
    pub last_ingested_at_micros: Option<i64>,
    /// Why nothing of it is read or written: its files are damaged or missing. Such a stream has
    /// no tail here, so what is left of it must not be served.
    pub stopped: Option<Arc<str>>,
    pub pins: Vec<Pin>,
}

impl StreamSnapshot {
    pub fn master_files(&self) -> Vec<ScanFile> {
        let folder = self.definition.master_folder();
        let files = self.state.files.iter();
        files
            .map(|file| ScanFile::of_master(&folder, file))
            .collect()
    }

    /// Errors: `stream_damaged` if the stream is stopped. Whoever reads it asks first.
    pub fn readable(&self) -> Result<(), EngineError> {
        match &self.stopped {
            Some(reason) => Err(EngineError::stream_damaged(&self.definition.name, reason)),
            None => Ok(()),
        }
    }

    pub fn master_rows(&self) -> u64 {
        self.state.files.iter().map(|file| file.rows).sum()
    }

    pub fn tail_rows(&self) -> u64 {
        self.parts.iter().map(|open| open.part.rows() as u64).sum()
    }
}

pub struct ViewSnapshot {
    pub state: Arc<ViewState>,
    pub view: Arc<View>,
    pub stream: Arc<StreamSnapshot>,
    /// The version and panes whose files were found whole; what is missing is a gap.
    pub version: Option<ViewVersion>,
    pub panes: Vec<StoredPane>,
    pub pins: Vec<Pin>,
}

impl std::fmt::Debug for ViewSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ViewSnapshot({})", self.state.name)
    }
}

impl ViewSnapshot {
    /// Tells this definition's states from every other's, for caches.
    pub fn key(&self) -> String {
        format!("{}-{}", self.state.name, self.state.incarnation)
    }

    /// Everything before it is in the version.
    pub fn batch_cut(&self) -> Cut {
        match &self.version {
            Some(version) => version.cut.clone(),
            None => Cut::start(self.stream.definition.shards),
        }
    }

    /// Flushed events that no stored states cover; they are mapped from the master dataset.
    pub fn gaps(&self) -> Vec<CutRange> {
        let whole = CutRange::new(self.batch_cut(), self.stream.state.cut.clone());
        let covered: Vec<CutRange> = self.panes.iter().map(|pane| pane.range.clone()).collect();
        lambdalake_data::cut::gaps(&whole, &covered)
    }

    /// Events after the batch cut.
    pub fn lag_events(&self) -> u64 {
        self.stream.end.events_since(&self.batch_cut())
    }

    pub fn version_files(&self) -> Vec<ScanFile> {
        self.version
            .iter()
            .flat_map(|version| scan_files(&version.files))
            .collect()
    }

    pub fn pane_files(&self) -> Vec<ScanFile> {
        self.panes
            .iter()
            .flat_map(|pane| scan_files(&pane.files))
            .collect()
    }
}

/// States files as the scan takes them.
pub fn scan_files(files: &[StatesFile]) -> Vec<ScanFile> {
    files.iter().map(ScanFile::of_states).collect()
}

/// Everything at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub publication: u64,
    pub streams: BTreeMap<String, Arc<StreamSnapshot>>,
    pub views: BTreeMap<String, Arc<ViewSnapshot>>,
}
