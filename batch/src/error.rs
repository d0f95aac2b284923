//! Why a recompute ended without a new version. The old version stays in every case.

use lambdalake_data::DataError;
use lambdalake_views::ViewError;

#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The new states differ from version + panes. Nothing was published. Look at the
    /// differences; if the stored states are at fault, drop and create the view again.
    #[error(
        "the audit found differences between the recomputed and the incremental states, for example {0}"
    )]
    Audit(String),
    #[error("the recompute was cancelled")]
    Cancelled,
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    DataFusion(#[from] datafusion::error::DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}
