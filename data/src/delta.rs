//! The master dataset as a Delta table, for the readers that users have.
//!
//! The publication log decides what is in the dataset; Delta's log follows it. A commit
//! carries the master version as an application transaction, so after any doubt the table
//! is opened again, asked how far it is, and rolled forward: a file is never added twice
//! and never left out.

mod agree;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, MetadataExt, Remove, StructType, Transaction};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::checkpoints::{cleanup_metadata, create_checkpoint};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::config::TablePropertiesExt;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use url::Url;

use crate::disk::Disk;
use crate::error::{DataError, Result};
use crate::publication::StreamState;
use crate::schema::{Column, ColumnType, StreamDefinition};
use crate::store::DiskStore;

pub use agree::{Agreement, DeltaFound, Entries, look_at};

/// The application id of the engine's transactions in the Delta log.
const APPLICATION: &str = "lambdalake";

/// Commits between two checkpoints; the handle is opened anew after each.
const COMMITS_PER_CHECKPOINT: u64 = 20;

/// Commits between two looks for entries of the log that are older than the table keeps them, 30
/// days by default; a multiple of [`COMMITS_PER_CHECKPOINT`].
const COMMITS_PER_CLEANUP: u64 = 100;

/// Characters that Delta (without column mapping) refuses in a column name.
const REFUSED_IN_NAMES: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// A stream's Delta table, open. One per stream, owned by the thread that flushes it.
pub struct DeltaMirror {
    disk: Arc<Disk>,
    folder: String,
    table: Option<DeltaTable>,
}

/// Why a stream has no Delta table: a column name that Delta cannot carry.
/// Delta tells columns apart without regard to case.
pub fn refused_column(definition: &StreamDefinition) -> Option<String> {
    fn refused(columns: &[Column]) -> Option<String> {
        let mut seen = HashSet::new();
        columns.iter().find_map(|column| {
            let is_refused = column.name.is_empty()
                || column.name.contains(REFUSED_IN_NAMES)
                || !seen.insert(column.name.to_lowercase());
            if is_refused {
                Some(column.name.clone())
            } else {
                refused_inside(&column.column_type)
            }
        })
    }
    fn refused_inside(column_type: &ColumnType) -> Option<String> {
        match column_type {
            ColumnType::Object(columns) => refused(columns),
            ColumnType::List(item) => refused_inside(&item.column_type),
            _ => None,
        }
    }
    refused(&definition.columns)
}

impl DeltaMirror {
    pub fn new(disk: Arc<Disk>, definition: &StreamDefinition) -> Self {
        Self {
            disk,
            folder: definition.master_folder(),
            table: None,
        }
    }

    /// Brings the Delta table to the published state of the stream. After an error the
    /// table is behind but right; the next call rolls it forward.
    ///
    /// Every file must have the types of the stream's columns: what Delta's readers see has
    /// one type per column.
    ///
    /// The first time, the table is compared with the publication. If its log is damaged, or
    /// says other things, it is made again from the publication, and the reason returned.
    ///
    /// Errors: `Damaged` if the table follows a publication that is not there any more.
    pub async fn roll_forward(&mut self, state: &StreamState) -> Result<Option<String>> {
        if refused_column(&state.definition).is_some() {
            return Ok(None);
        }
        let result = self.roll_checked(state).await;
        if result.is_err() {
            self.table = None;
        }
        result
    }

    async fn roll_checked(&mut self, state: &StreamState) -> Result<Option<String>> {
        if self.table.is_some() {
            self.try_roll_forward(state).await?;
            return Ok(None);
        }
        let before = look_at(&self.disk, state, Entries::Recent).await?;
        if let Agreement::Ahead { version } = before.agreement {
            return Err(DataError::Damaged {
                path: format!("{}/_delta_log", self.folder).into(),
                reason: format!(
                    "it follows version {version} of the master dataset, the newest publication \
                     has {}: publications are missing",
                    state.master_version
                ),
            });
        }
        let mut damage = before.damage();
        if damage.is_some() {
            self.forget_log()?;
        }
        self.try_roll_forward(state).await?;
        if damage.is_none() {
            // A table that was behind can be compared only now.
            let after = look_at(&self.disk, state, Entries::Recent).await?;
            damage = after.damage();
            if damage.is_some() {
                self.forget_log()?;
                self.try_roll_forward(state).await?;
            }
        }
        Ok(damage)
    }

    /// The table's log goes; the next step makes a table with all published files.
    fn forget_log(&mut self) -> Result<()> {
        self.table = None;
        let log = format!("{}/_delta_log", self.folder);
        self.disk.remove_folder(&log)
    }

    async fn try_roll_forward(&mut self, state: &StreamState) -> Result<()> {
        let mut table = match self.table.take() {
            Some(table) => table,
            None => self.open(&state.definition).await?,
        };
        let log_store = table.log_store();
        let done = table
            .snapshot()?
            .transaction_version(log_store.as_ref(), APPLICATION)
            .await?
            .unwrap_or(0);
        if done as u64 >= state.master_version {
            self.table = Some(table);
            return Ok(());
        }
        let (removed, removed_rows) = removed(&table, state)?;
        let added = || state.files.iter().filter(|file| file.version > done as u64);
        // Files that others took the place of hold the same events: readers that follow the
        // table's changes have seen them.
        let added_rows: u64 = added().map(|file| file.rows).sum();
        let data_change = removed.is_empty() || removed_rows != Some(added_rows);
        let removed = removed.into_iter().map(|file| Remove {
            data_change,
            ..file
        });
        let mut actions: Vec<Action> = removed.map(Action::Remove).collect();
        let schema = kernel_schema(&state.definition)?;
        if table.snapshot()?.schema().as_ref() != &schema {
            let metadata = table
                .snapshot()?
                .metadata()
                .clone()
                .with_schema(&schema)
                .map_err(DeltaTableError::from)?;
            actions.push(Action::Metadata(metadata));
        }
        actions.extend(added().map(|file| {
            Action::Add(Add {
                path: file.path.clone(),
                partition_values: HashMap::new(),
                size: file.bytes as i64,
                modification_time: state.created_at_micros / 1000,
                data_change,
                stats: Some(format!("{{\"numRecords\":{}}}", file.rows)),
                tags: None,
                deletion_vector: None,
                base_row_id: None,
                default_row_commit_version: None,
                clustering_provider: None,
            })
        }));
        let properties = CommitProperties::default()
            .with_application_transactions(vec![Transaction::new(
                APPLICATION,
                state.master_version as i64,
            )])
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: None,
            predicate: None,
        };
        let commit = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(table.snapshot()?), log_store, operation)
            .await?;
        table.state = Some(commit.snapshot());
        // By ourselves: deltalake makes them at numbers of its own, which a table may change.
        let is_checkpoint = commit.version().is_multiple_of(COMMITS_PER_CHECKPOINT);
        if is_checkpoint {
            create_checkpoint(&table, None).await?;
            let keeps_all = !table
                .snapshot()?
                .table_config()
                .enable_expired_log_cleanup();
            if !keeps_all && commit.version().is_multiple_of(COMMITS_PER_CLEANUP) {
                cleanup_metadata(&table, None).await?;
            }
        }
        self.table = (!is_checkpoint).then_some(table);
        Ok(())
    }

    async fn open(&self, definition: &StreamDefinition) -> Result<DeltaTable> {
        if !self
            .disk
            .list(&format!("{}/_delta_log", self.folder))?
            .is_empty()
        {
            return load(&self.disk, &self.folder).await;
        }
        let schema = kernel_schema(definition)?;
        Ok(CreateBuilder::new()
            .with_log_store(builder(&self.disk, &self.folder)?.build_storage()?)
            .with_table_name(&definition.name)
            .with_columns(schema.fields().cloned())
            .await?)
    }
}

fn builder(disk: &Arc<Disk>, folder: &str) -> Result<DeltaTableBuilder> {
    let store = Arc::new(DiskStore::new(Arc::clone(disk), ""));
    let location = table_url(folder)?;
    let builder = DeltaTableBuilder::from_url(location.clone())?;
    Ok(builder.with_storage_backend(store, location))
}

async fn load(disk: &Arc<Disk>, folder: &str) -> Result<DeltaTable> {
    Ok(builder(disk, folder)?.load().await?)
}

/// Files of the table that the stream has no more, and their rows, if the table says how many.
fn removed(table: &DeltaTable, state: &StreamState) -> Result<(Vec<Remove>, Option<u64>)> {
    let kept: HashSet<&str> = state.files.iter().map(|file| file.path.as_str()).collect();
    let files = table.snapshot()?.snapshot().log_data();
    let gone = || {
        let is_gone = |path: &str| !kept.contains(path);
        files
            .iter()
            .filter(move |file| is_gone(file.path().as_ref()))
    };
    let rows = gone().map(|file| file.num_records()).sum::<Option<usize>>();
    let removed = gone().map(|file| file.remove_action(true)).collect();
    Ok((removed, rows.map(|rows| rows as u64)))
}

fn kernel_schema(definition: &StreamDefinition) -> Result<StructType> {
    Ok(definition.stored_schema().as_ref().try_into_kernel()?)
}

/// Only a name for the log store; all access goes through the injected disk.
fn table_url(folder: &str) -> Result<Url> {
    Url::parse(&format!("memory:///{folder}"))
        .map_err(|error| DeltaTableError::InvalidTableLocation(format!("{folder}: {error}")).into())
}
