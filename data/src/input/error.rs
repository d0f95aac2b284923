use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use thiserror::Error;

/// Why nothing of a body could be taken.
#[derive(Debug, Error)]
pub enum InputError {
    /// The client should name one of the formats there are.
    #[error("unknown format {name:?}: expected ndjson, json, combined or common")]
    UnknownFormat { name: String },

    /// The client should send the body again, whole.
    #[error("the body is not valid gzip: {source}")]
    Compression {
        #[source]
        source: std::io::Error,
    },

    /// The client should send less at once.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge { what: &'static str, limit: usize },

    /// The JSON document is broken, so that its rows cannot be told apart.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        line: u64,
        column: u64,
        message: String,
    },

    /// The stream has a column this module cannot fill; the stream's definition is at fault.
    #[error("column {column} has type {data_type}, which events cannot be read into")]
    UnsupportedColumn { column: String, data_type: DataType },

    /// A bug: the rows were checked against the types the columns were then made with.
    #[error("building the batch failed: {0}")]
    Build(#[from] ArrowError),
}
