//! Does a Delta table say what the publication says? Looks and changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use deltalake::DeltaTable;

use super::{APPLICATION, COMMITS_PER_CHECKPOINT, load, refused_column};
use crate::disk::{Disk, FileInfo};
use crate::error::Result;
use crate::publication::StreamState;

/// What a Delta table is, beside the publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It lists exactly the published files.
    Same,
    /// There is none, because of this column.
    Refused(String),
    /// It was right at an earlier version of the master dataset.
    Behind { version: u64 },
    /// It follows a publication that is not there any more.
    Ahead { version: u64 },
    /// It cannot be opened, or lists other files.
    Different(String),
}

/// What was found in a table's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaFound {
    pub entries: u64,
    pub bytes: u64,
    /// Rows that it lists.
    pub rows: u64,
    /// Entries that are damaged or missing, and what is wrong with them.
    pub broken: Vec<(String, String)>,
    pub agreement: Agreement,
}

impl DeltaFound {
    /// Why the log must be made again, if it must.
    pub fn damage(&self) -> Option<String> {
        let broken = self.broken.first();
        let broken = broken.map(|(path, problem)| format!("{path}: {problem}"));
        match &self.agreement {
            Agreement::Different(problem) => broken.or_else(|| Some(problem.clone())),
            Agreement::Ahead { .. } => None,
            _ => broken,
        }
    }
}

/// Which entries are looked at one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    All,
    /// Those that readers of the newest version may need.
    Recent,
}

/// Compares the table of a stream with what is published of it.
pub async fn look_at(disk: &Arc<Disk>, state: &StreamState, which: Entries) -> Result<DeltaFound> {
    let folder = state.definition.master_folder();
    let log = format!("{folder}/_delta_log");
    let files = disk.list(&log)?;
    let mut found = DeltaFound {
        entries: files.len() as u64,
        bytes: files.iter().map(|file| file.bytes).sum(),
        rows: 0,
        broken: Vec::new(),
        agreement: Agreement::Same,
    };
    if let Some(column) = refused_column(&state.definition) {
        found.agreement = Agreement::Refused(column);
        return Ok(found);
    }
    if files.is_empty() {
        // The first commit may not have been made before a crash; later ones say there was one.
        found.agreement = match state.master_version {
            0 | 1 => Agreement::Behind { version: 0 },
            _ => Agreement::Different(format!("{log} is missing")),
        };
        return Ok(found);
    }
    found.broken = broken_entries(disk, &log, &files, which)?;
    found.agreement = match load(disk, &folder).await {
        Ok(table) => {
            let (rows, agreement) = compare(&table, state).await?;
            found.rows = rows;
            agreement
        }
        Err(error) => Agreement::Different(format!("{log} cannot be read: {error}")),
    };
    Ok(found)
}

async fn compare(table: &DeltaTable, state: &StreamState) -> Result<(u64, Agreement)> {
    let snapshot = table.snapshot()?;
    let log_store = table.log_store();
    let done = snapshot.transaction_version(log_store.as_ref(), APPLICATION);
    let version = done.await?.unwrap_or(0) as u64;
    let mut listed = BTreeMap::new();
    let mut rows = 0;
    let files = snapshot.snapshot().log_data();
    for file in files.iter() {
        let records = file.num_records().unwrap_or(0) as u64;
        rows += records;
        listed.insert(file.path().to_string(), (file.size() as u64, records));
    }
    if version > state.master_version {
        return Ok((rows, Agreement::Ahead { version }));
    }
    if version < state.master_version {
        return Ok((rows, Agreement::Behind { version }));
    }
    let published = state.files.iter();
    let published: BTreeMap<String, (u64, u64)> = published
        .map(|file| (file.path.clone(), (file.bytes, file.rows)))
        .collect();
    let differs = published
        .iter()
        .find(|(path, size)| listed.get(*path) != Some(size))
        .or_else(|| {
            listed
                .iter()
                .find(|(path, _)| !published.contains_key(*path))
        });
    if let Some((path, _)) = differs {
        let told = |files: &BTreeMap<String, (u64, u64)>| match files.get(path) {
            Some((bytes, rows)) => format!("{bytes} bytes and {rows} rows"),
            None => "nothing".to_owned(),
        };
        let problem = format!(
            "of {path} the Delta table says {}, the publication {}",
            told(&listed),
            told(&published)
        );
        return Ok((rows, Agreement::Different(problem)));
    }
    let known = state.definition.stored_schema();
    let schema = snapshot.schema();
    let mut fields = schema.fields();
    if let Some(strange) = fields.find(|field| known.index_of(field.name()).is_err()) {
        let problem = format!("the Delta table has a column {}", strange.name());
        return Ok((rows, Agreement::Different(problem)));
    }
    Ok((rows, Agreement::Same))
}

/// Commits that are no JSON, and commits that are missing behind the oldest checkpoint: old entries
/// go, in no order that a power cut would keep.
fn broken_entries(
    disk: &Disk,
    log: &str,
    files: &[FileInfo],
    which: Entries,
) -> Result<Vec<(String, String)>> {
    let number = |file: &FileInfo| -> Option<u64> {
        let name = file.path.rsplit('/').next()?;
        name.strip_suffix(".json")?.parse().ok()
    };
    let commits: Vec<(u64, &FileInfo)> = files
        .iter()
        .filter_map(|file| Some((number(file)?, file)))
        .collect();
    let newest = commits.last().map_or(0, |(number, _)| *number);
    let checkpoint = |file: &FileInfo| -> Option<u64> {
        let name = file.path.rsplit('/').next()?;
        let (number, _) = name.split_once(".checkpoint.")?;
        number.parse().ok()
    };
    let first = match which {
        Entries::All => files.iter().filter_map(checkpoint).min().unwrap_or(0),
        Entries::Recent => newest.saturating_sub(2 * COMMITS_PER_CHECKPOINT),
    };
    let there: HashSet<u64> = commits.iter().map(|(number, _)| *number).collect();
    let mut broken: Vec<(String, String)> = (first..newest)
        .filter(|number| !there.contains(number))
        .map(|number| {
            (
                format!("{log}/{number:020}.json"),
                "it is missing".to_owned(),
            )
        })
        .collect();
    for (_, file) in commits.iter().filter(|(number, _)| *number >= first) {
        let bytes = disk.read(&file.path)?.unwrap_or_default();
        let mut lines = bytes.split(|&byte| byte == b'\n').filter(|l| !l.is_empty());
        let failed = lines.find_map(|line| {
            let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(line);
            let as_text = std::str::from_utf8(line).map(|_| ());
            parsed
                .err()
                .map(|e| e.to_string())
                .or(as_text.err().map(|e| e.to_string()))
        });
        if bytes.is_empty() {
            broken.push((file.path.clone(), "it is empty".to_owned()));
        }
        if let Some(problem) = failed {
            broken.push((file.path.clone(), problem));
        }
    }
    Ok(broken)
}
