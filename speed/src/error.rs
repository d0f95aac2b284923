//! What a writer or a reader of the speed layer has to deal with.

use lambdalake_data::DataError;
use lambdalake_views::ViewError;

#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// Too many requests wait. Nothing was stored; send again after a while.
    #[error("stream {stream} takes no more events at the moment: its queue of requests is full")]
    Busy { stream: String },

    /// Nothing was stored; send again when a flush has made room.
    #[error(
        "stream {stream} takes no more events at the moment: its tail is full and the flush has not \
         caught up"
    )]
    TailFull { stream: String },

    /// The key belongs to another body. Nothing was stored; use another key for this body.
    #[error("{}", reused(stream, key))]
    KeyReused { stream: String, key: String },

    /// The first request with this key is not answered yet. Send again after a while.
    #[error("a request with the idempotency key {key:?} is still in progress in stream {stream}")]
    KeyInProgress { stream: String, key: String },

    /// Another request changed the stream's columns since this one was parsed. Parse the
    /// body again under the newest definition and resend.
    #[error("the columns of stream {stream} changed meanwhile")]
    SchemaMoved { stream: String },

    /// The writer has stopped (shutdown, dropped stream, or a failed log).
    #[error("stream {stream} is closed: {reason}")]
    Closed { stream: String, reason: String },

    /// The log could not be written. Nothing was acknowledged.
    #[error("stream {stream} could not be logged: {source}")]
    Log { stream: String, source: DataError },

    /// The stream's columns could not be changed as asked; nothing changed.
    #[error("the columns of stream {stream} were not changed: {source}")]
    NotRedefined {
        stream: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A view's states outgrew their budget; the stream is not affected.
    #[error(
        "the states of a part of the tail take {bytes} bytes, over the view's budget of {budget}"
    )]
    OverBudget { bytes: usize, budget: usize },

    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    DataFusion(#[from] datafusion::error::DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

fn reused(stream: &str, key: &str) -> String {
    format!(
        "the idempotency key {key:?} was used in stream {stream} for a body that is not this one: \
         send that body again, or this one with a key of its own"
    )
}
