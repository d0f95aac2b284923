//! What can go wrong below the layers, chosen by what the caller does next.

use std::io;
use std::path::PathBuf;

use parquet::errors::ParquetError;

pub type Result<T, E = DataError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The disk refused. Stop writing to the file concerned; report; `DiskFull` apart, a
    /// failed write or sync is final for that file.
    #[error("{operation} {path}: {source}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// No room. Nothing was acknowledged; the caller may try again once there is space.
    #[error("no space left on the data disk while trying to {operation} {path}")]
    DiskFull {
        operation: &'static str,
        path: PathBuf,
    },

    /// Bytes on disk are not what was written. Name the file, serve nothing from it.
    #[error("{path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },

    /// Another process owns the data folder. Stop it, or use another folder.
    #[error(
        "the data folder {path} is in use by another process; stop it or choose another --data-dir"
    )]
    Locked { path: PathBuf },

    /// A shared file of that name exists already. The writer is stale and must give up.
    #[error("{path} exists already; another writer published it")]
    Exists { path: PathBuf },

    /// Written by a version of the engine that this one does not know.
    #[error("{path} has format version {found}, this engine reads up to {known}")]
    UnknownVersion {
        path: PathBuf,
        found: u32,
        known: u32,
    },

    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("parquet: {0}")]
    Parquet(#[from] ParquetError),
    #[error("delta: {0}")]
    Delta(Box<deltalake::DeltaTableError>),
    #[error("datafusion: {0}")]
    DataFusion(#[from] datafusion::error::DataFusionError),
    #[error("json: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<deltalake::DeltaTableError> for DataError {
    fn from(error: deltalake::DeltaTableError) -> Self {
        Self::Delta(Box::new(error))
    }
}

impl DataError {
    /// True when the disk or a quota is full, at whatever depth the error says so (a writer of
    /// Parquet wraps it).
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let full = |e: &io::Error| e.kind() == io::ErrorKind::StorageFull;
            if matches!(error.downcast_ref(), Some(Self::DiskFull { .. }))
                || error.downcast_ref().is_some_and(full)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// The damaged file that an error tells of, at whatever depth, and what is wrong with it.
    pub fn damage_in(error: &(dyn std::error::Error + 'static)) -> Option<(PathBuf, String)> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(Self::Damaged { path, reason }) = error.downcast_ref() {
                return Some((path.clone(), reason.clone()));
            }
            let parquet = error
                .downcast_ref::<ParquetError>()
                .or_else(|| error.downcast_ref::<Box<ParquetError>>().map(AsRef::as_ref));
            if let Some(found) = parquet.and_then(|error| damage_in_text(&error.to_string())) {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }

    pub(crate) fn io(operation: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded) {
            Self::DiskFull {
                operation,
                path: path.to_path_buf(),
            }
        } else {
            Self::Io {
                operation,
                path: path.to_path_buf(),
                source,
            }
        }
    }
}

/// Reads `Damaged` back from its own words: where a Parquet reader cannot open a file, its error
/// keeps the text of the cause and not the cause.
fn damage_in_text(text: &str) -> Option<(PathBuf, String)> {
    let (before, reason) = text.split_once(" is damaged: ")?;
    let path = before.rsplit(char::is_whitespace).next()?;
    Some((PathBuf::from(path), reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_found_where_a_reader_kept_its_text_alone() {
        let damaged = DataError::Damaged {
            path: "views/v-1/a.parquet".into(),
            reason: "it is missing".to_owned(),
        };
        let text = format!("Failed to fetch metadata: Object Store error: {damaged}");
        let parquet = ParquetError::General(text);
        let expected = Some(("views/v-1/a.parquet".into(), "it is missing".to_owned()));
        assert_eq!(DataError::damage_in(&damaged), expected);
        assert_eq!(DataError::damage_in(&Box::new(parquet)), expected);
        // A text of the user is no damage.
        let other = arrow::error::ArrowError::CastError("'x is damaged: y'".to_owned());
        assert_eq!(DataError::damage_in(&other), None);
    }
}
