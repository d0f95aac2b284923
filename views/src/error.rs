//! What can go wrong when a view is defined or its steps are planned.

use datafusion::error::DataFusionError;

/// Why a view could not be compiled, or a step of it not be planned.
///
/// Variants follow what the caller does next: the first three are answered to whoever wrote
/// the SELECT, the last two are faults of the engine.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The text is not a SELECT that can be read, or names a column or function that is not
    /// there. The author corrects it.
    #[error("{reason} ({hint})")]
    Invalid {
        /// What is wrong, with the name or place.
        reason: String,
        /// What to do about it.
        hint: String,
    },

    /// The SELECT reads a stream that does not exist.
    #[error("there is no stream \"{name}\" (create it first, or check the spelling)")]
    UnknownStream {
        /// The name as written.
        name: String,
    },

    /// The SELECT is valid SQL but cannot be kept as a view with exact answers.
    #[error("{reason} ({hint})")]
    Refused {
        /// What cannot be done and why.
        reason: String,
        /// What would work instead.
        hint: String,
    },

    /// Rows or plans given to a step do not have the columns it asked for. A fault of the
    /// caller: nothing the author of the view can do.
    #[error("{step} was given other columns than it reads: {detail}")]
    Mismatch {
        /// The step: map, combine, finish, answer, relabel or differences.
        step: &'static str,
        /// Expected and given.
        detail: String,
    },

    /// DataFusion could not plan or evaluate a step.
    #[error("planning failed")]
    Plan(#[from] DataFusionError),
}

impl ViewError {
    pub(crate) fn refused(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused {
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn invalid(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid {
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    /// A hint for the author, where there is one.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid { hint, .. } | Self::Refused { hint, .. } => Some(hint),
            Self::UnknownStream { .. } => Some("create it first, or check the spelling"),
            Self::Mismatch { .. } | Self::Plan(_) => None,
        }
    }
}
