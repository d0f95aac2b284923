//! Why a recompute ended without a new version. The old version stays in every case.

use bytesize::ByteSize;
use datafusion::error::DataFusionError;
use lambdalake_data::DataError;
use lambdalake_views::ViewError;

#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("the recompute was cancelled")]
    Cancelled,
    /// States that grow with the data took more than they may. Drop the view, ask it for less (a
    /// sketch instead of a list), or raise the limit.
    #[error(
        "the view's states take more than {0}, and grow with the data: raise batch_states_bytes, or \
         make a view with states of fixed size (approx_distinct, approx_percentile_cont, ...)"
    )]
    StatesTooLarge(ByteSize),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Data(#[from] DataError),
    /// Groups or lists of values that cannot be spilled did not fit.
    #[error(
        "the recompute needs more memory than batch_memory_bytes: raise it, lower \
         recompute_concurrency, or make a view with smaller states: {}", innermost(.0)
    )]
    OutOfMemory(DataFusionError),
    #[error(transparent)]
    DataFusion(DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

/// What the memory pool said, without what operators said around it: they name settings that there
/// are not here.
fn innermost(error: &DataFusionError) -> String {
    let text = error.to_string();
    let said = text.rsplit("Resources exhausted: ").next();
    said.unwrap_or(&text).to_owned()
}

impl From<DataFusionError> for BatchError {
    fn from(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::OutOfMemory(error),
            _ => Self::DataFusion(error),
        }
    }
}

impl BatchError {
    /// What was to be computed takes more than it may.
    pub fn is_over_budget(&self) -> bool {
        matches!(self, Self::StatesTooLarge(_) | Self::OutOfMemory(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_pool_said_is_told() {
        let pool =
            DataFusionError::ResourcesExhausted("ExternalSorter[0] wants 1.0 MiB".to_owned());
        let error = pool.context("Consider 'datafusion.runtime.memory_limit'");
        let error = BatchError::from(error);
        assert!(error.is_over_budget());
        let text = error.to_string();
        assert!(
            text.ends_with("with smaller states: ExternalSorter[0] wants 1.0 MiB"),
            "{text}"
        );
    }
}
