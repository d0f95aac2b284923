//! The publication log: the one source of truth about what is in the master dataset and
//! in which states files every view lives.
//!
//! Each entry is a create-only, checksummed file that names everything; the newest whole
//! entry counts. Several tables change together because one entry names them all. Delta's
//! log is for other readers and is rolled forward from here ([`crate::master`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bounds::ColumnBounds;
use crate::cut::{Cut, CutRange};
use crate::disk::{Disk, FileInfo};
use crate::error::{DataError, Result};
use crate::keys::KeysFile;
use crate::schema::{Column, StreamDefinition};

const FOLDER: &str = "publications";
const FORMAT_VERSION: u32 = 1;

/// How many entries stay behind the newest one, for a reader of history and for repair.
pub const KEPT_ENTRIES: u64 = 16;

/// A Parquet file of the master dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterFile {
    /// Relative to the stream's master folder.
    pub path: String,
    pub range: CutRange,
    pub rows: u64,
    pub bytes: u64,
    pub crc32c: u32,
    pub schema_id: u32,
    /// The master version that brought it.
    pub version: u64,
    /// Of its time columns; empty in entries of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<ColumnBounds>,
    /// Columns of text that can be read as dictionaries; empty in entries of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dictionaries: Vec<String>,
}

/// A Parquet file of view states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatesFile {
    /// Relative to the data root.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    pub crc32c: u32,
    /// Of its time columns, keys of the view first; empty in entries of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<ColumnBounds>,
}

/// States of the events in `range`, in zero or more files (none if there are no states).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPane {
    pub range: CutRange,
    pub files: Vec<StatesFile>,
}

/// What a recompute made: states of everything before `cut`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewVersion {
    pub number: u64,
    pub cut: Cut,
    pub files: Vec<StatesFile>,
    /// Layout of the finished aggregates that the files hold beside the states, in one row for
    /// each key; `None` if they hold states only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_layout: Option<u32>,
    pub created_at_micros: i64,
    pub run_id: String,
}

/// What people say about a stream or view and its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comments {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
}

impl Comments {
    pub fn is_empty(&self) -> bool {
        self.table.is_none() && self.columns.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    pub definition: StreamDefinition,
    /// Counts the changes of `files`; 0 is the empty dataset.
    pub master_version: u64,
    /// Everything before it is in `files`.
    pub cut: Cut,
    pub files: Vec<MasterFile>,
    pub created_at_micros: i64,
    #[serde(default, skip_serializing_if = "Comments::is_empty")]
    pub comments: Comments,
    /// Idempotency keys of requests whose frames the log may have forgotten; oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeysFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewState {
    pub name: String,
    pub incarnation: u64,
    pub stream: String,
    /// The SELECT as it was given.
    pub select: String,
    /// The stream's columns when the view was made. It is always compiled against these, so
    /// that a stream that grows does not change the view's states.
    pub stream_columns: Vec<Column>,
    /// States made under another definition, schema or engine never mix: see `views`.
    pub definition_hash: String,
    /// Only in entries of engines that knew nothing but intervals; see [`Self::recompute`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute_every_ms: Option<u64>,
    #[serde(default)]
    pub schedule: ViewSchedule,
    #[serde(default)]
    pub on_mismatch: OnMismatch,
    pub version: Option<ViewVersion>,
    /// Ordered and disjoint, all above the version's cut. What is missing between them is
    /// mapped again from the master dataset.
    pub panes: Vec<StoredPane>,
    pub created_at_micros: i64,
    #[serde(default, skip_serializing_if = "Comments::is_empty")]
    pub comments: Comments,
}

/// What becomes of a recompute whose audit finds that the states before it were wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMismatch {
    /// Nothing is published; somebody has to look.
    #[default]
    Hold,
    /// It is published, and the difference is told.
    Publish,
}

/// When a view is recomputed without being asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ViewSchedule {
    /// As `WITH (recompute = '...')` has it.
    pub recompute: Option<String>,
    /// The name of the zone that its times are in; `None` for that of the settings.
    pub time_zone: Option<String>,
    /// Nothing but a request recomputes it.
    pub is_paused: bool,
    /// When any of this was changed last; what was due before does not count.
    pub changed_at_micros: i64,
}

impl ViewState {
    /// What recomputes it without being asked, as text.
    pub fn recompute(&self) -> Option<String> {
        let interval = || self.recompute_every_ms.map(|ms| format!("every {ms}ms"));
        self.schedule.recompute.clone().or_else(interval)
    }

    /// Everything before it is in the version.
    pub fn batch_cut(&self, shards: u32) -> Cut {
        self.version
            .as_ref()
            .map_or_else(|| Cut::start(shards), |version| version.cut.clone())
    }

    /// Where the states files of this view lie.
    pub fn folder(&self) -> String {
        format!("views/{}-{}", self.name, self.incarnation)
    }
}

/// One entry: the whole durable state of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub number: u64,
    pub streams: BTreeMap<String, Arc<StreamState>>,
    pub views: BTreeMap<String, Arc<ViewState>>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format_version: u32,
    crc32c: u32,
    #[serde(borrow)]
    body: &'a serde_json::value::RawValue,
}

/// The publication log, open. One writer, who holds it.
#[derive(Debug)]
pub struct PublicationLog {
    disk: Arc<Disk>,
}

fn path_of(number: u64) -> String {
    format!("{FOLDER}/{number:020}")
}

impl PublicationLog {
    /// Opens the log and reads the newest entry. A damaged newest entry is an error: what
    /// it named may have been acknowledged and the log segments behind it may be gone.
    ///
    /// The newest entry is written again: the process that wrote it may have died between its
    /// name and the sync of the folder, or that sync may have failed.
    pub fn open(disk: Arc<Disk>) -> Result<(Self, Publication)> {
        let mut numbers = Vec::new();
        for entry in entries(&disk)? {
            match entry.number {
                Some(number) => numbers.push(number),
                None => tracing::warn!(path = entry.info.path, "not a publication: ignored"),
            }
        }
        let log = Self { disk };
        let Some(&newest) = numbers.last() else {
            return Ok((log, Publication::default()));
        };
        let path = path_of(newest);
        let publication = read_entry(&log.disk, &path).map_err(newest_damaged)?;
        let bytes = log.disk.read(&path)?.unwrap_or_default();
        log.disk.write_again(&path, &bytes)?;
        for number in numbers {
            if number + KEPT_ENTRIES <= newest {
                log.remove(number);
            }
        }
        Ok((log, publication))
    }

    fn remove(&self, number: u64) {
        if let Err(error) = self.disk.remove(&path_of(number)) {
            tracing::warn!(%error, "an old publication could not be removed");
        }
    }

    /// Makes `next` the newest entry; it must carry the next number. Durable on return.
    pub fn publish(&self, next: &Publication) -> Result<()> {
        let body = serde_json::value::to_raw_value(next)?;
        let crc32c = crc32c::crc32c(body.get().as_bytes());
        let entry = Envelope {
            format_version: FORMAT_VERSION,
            crc32c,
            body: &body,
        };
        let bytes = serde_json::to_vec(&entry)?;
        let path = path_of(next.number);
        if let Err(error) = self.disk.put_if_absent(&path, &bytes) {
            // In doubt: it may have failed after the entry got its name. Then it counts, and
            // is written again: what a failed sync has left is not safe by another sync.
            let is_ours = self.disk.read(&path)?.as_deref() == Some(&bytes[..]);
            if matches!(error, DataError::Exists { .. }) || !is_ours {
                return Err(error);
            }
            self.disk.write_again(&path, &bytes)?;
        }
        if let Some(old) = next.number.checked_sub(KEPT_ENTRIES) {
            self.remove(old);
        }
        Ok(())
    }
}

/// Says what a damaged newest entry means.
fn newest_damaged(error: DataError) -> DataError {
    match error {
        DataError::Damaged { path, reason } => DataError::Damaged {
            path,
            reason: format!(
                "{reason}. It is the newest publication, which names everything that counts; an \
                 older one would lose events, so none is used instead. Put this file back from a \
                 backup, or restore the whole folder"
            ),
        },
        other => other,
    }
}

/// A file among the publications.
pub struct Entry {
    pub info: FileInfo,
    /// `None` for a file that somebody else put there.
    pub number: Option<u64>,
}

/// What is among the publications, oldest entry first.
pub fn entries(disk: &Disk) -> Result<Vec<Entry>> {
    let entry = |info: FileInfo| {
        let name = info.path.rsplit('/').next().unwrap_or_default();
        let number = name
            .parse()
            .ok()
            .filter(|&number| path_of(number) == info.path);
        Entry { info, number }
    };
    Ok(disk.list(FOLDER)?.into_iter().map(entry).collect())
}

/// Reads one entry. Errors: `Damaged`, also if it is another one than its name says;
/// `UnknownVersion`.
pub fn read_entry(disk: &Disk, path: &str) -> Result<Publication> {
    let damaged = |reason: String| DataError::Damaged {
        path: path.into(),
        reason,
    };
    let bytes = disk
        .read(path)?
        .ok_or_else(|| damaged("it vanished".to_owned()))?;
    let entry: Envelope =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if entry.format_version > FORMAT_VERSION {
        return Err(DataError::UnknownVersion {
            path: path.into(),
            found: entry.format_version,
            known: FORMAT_VERSION,
        });
    }
    if crc32c::crc32c(entry.body.get().as_bytes()) != entry.crc32c {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    let publication: Publication =
        serde_json::from_str(entry.body.get()).map_err(|error| damaged(error.to_string()))?;
    if path_of(publication.number) != path {
        let number = publication.number;
        return Err(damaged(format!("it says that its number is {number}")));
    }
    Ok(publication)
}
