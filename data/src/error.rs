//! What can go wrong below the layers, chosen by what the caller does next.

use std::io;
use std::path::PathBuf;

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
    Parquet(#[from] parquet::errors::ParquetError),
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
