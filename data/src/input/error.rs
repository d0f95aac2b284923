use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use thiserror::Error;

use super::Encoding;

/// Why nothing of a body, or nothing more of it, could be taken.
#[derive(Debug, Error)]
pub enum InputError {
    /// The client should name one of the formats there are.
    #[error(
        "unknown format {name:?}: expected auto, ndjson, json, combined, common, csv, arrow or \
         parquet"
    )]
    UnknownFormat { name: String },

    /// The client should send the body in one of the encodings there are.
    #[error(
        "the Content-Encoding {name:?} is not understood: allowed is one of {}",
        Encoding::NAMES
    )]
    UnknownEncoding { name: String },

    /// The client should send events; this content type cannot hold any.
    #[error(
        "the Content-Type {content_type:?} holds no events: send one of the formats, or name it with format="
    )]
    UnsupportedMedia { content_type: String },

    /// The client should send the body again, whole.
    #[error("the body is not valid {encoding}: {source}")]
    Compression {
        encoding: Encoding,
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

    /// The body breaks the rules of its format in a way that no single row is at fault for.
    /// `code` tells programs the format, such as `invalid_arrow`.
    #[error("{message}")]
    Invalid { code: &'static str, message: String },

    /// The stream has a column this module cannot fill; the stream's definition is at fault.
    #[error("column {column} has type {data_type}, which events cannot be read into")]
    UnsupportedColumn { column: String, data_type: DataType },

    /// A bug: the rows were checked against the types the columns were then made with.
    #[error("building the batch failed: {0}")]
    Build(#[from] ArrowError),

    /// The file that holds a body while it is read could not be used.
    #[error("the body could not be kept while it is read: {0}")]
    Spool(#[source] std::io::Error),
}

impl InputError {
    pub(super) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        InputError::Invalid {
            code,
            message: message.into(),
        }
    }
}
