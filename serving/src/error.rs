//! What can go wrong, named by what the caller does next.
//!
//! This file does not know HTTP: `http/errors.rs` alone turns a kind into a status.

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use lambdalake_data::DataError;

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Change the request: its text, a parameter or its data is wrong.
    BadRequest,
    /// Name something that exists.
    NotFound,
    /// Look at the current state first: the thing exists already, or is busy with the same work.
    Conflict,
    /// Wait for the same work, which is under way, and ask again.
    InProgress,
    /// Ask under another name: the one given stands for something else.
    Mismatch,
    /// Send less at once.
    TooLarge,
    /// Send it in an encoding that is understood.
    UnsupportedMedia,
    /// Ask for a format or coding that there is.
    NotAcceptable,
    /// Ask for less: the query does not fit its memory or row budget.
    OutOfMemory,
    /// Try again shortly: something is full right now.
    Busy,
    /// Ask for less or allow more time.
    Timeout,
    /// Try again later: starting, stopping, disk full or a failed worker.
    Unavailable,
    /// Nothing: this is a bug, and it is in the log.
    Internal,
}

/// An error as a client sees it, with its cause for the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// What the caller does next.
    pub kind: ErrorKind,
    /// A stable word for programs, such as `unknown_stream`.
    pub code: &'static str,
    /// A sentence for people. Sent to the client: no paths, no secrets.
    pub message: String,
    /// Line of the request text or body, from 1.
    pub line: Option<u64>,
    /// Character column in that line, from 1.
    pub position: Option<u64>,
    /// The cause; logged, never sent.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// An error without place or cause.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            message: message.into(),
            line: None,
            position: None,
            source: None,
        }
    }

    /// The request is wrong.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadRequest, code, message)
    }

    /// The thing does not exist.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, code, message)
    }

    /// A stream is stopped, because what is left of it on disk is not all that was stored.
    pub fn stream_damaged(stream: &str, reason: &str) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            "stream_damaged",
            format!("stream {stream} is stopped: {reason}"),
        )
    }

    /// A stored file that the request needs is not what was written. Paths are those inside the
    /// data folder.
    pub fn data_damaged(path: &std::path::Path, reason: &str) -> Self {
        let message = format!(
            "{} is damaged: {reason}; put it back from a backup",
            path.display()
        );
        Self::new(ErrorKind::Unavailable, "data_damaged", message)
    }

    /// A bug; the message is sent, the cause only logged.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, "internal", message)
    }

    /// The same error at a place in the request text.
    #[must_use]
    pub fn at(mut self, line: u64, position: u64) -> Self {
        self.line = Some(line);
        self.position = Some(position);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A syntax error, with the line and column that the parser put at the end of its message.
    pub fn from_parser(error: ParserError) -> Self {
        let text = match &error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => {
                let message = "the statement is nested too deeply";
                return Self::bad_request("statement_too_complex", message).because(error);
            }
        };
        let (message, place) = split_place(&text);
        let found = Self::bad_request("syntax_error", message).because(error);
        match place {
            Some((line, column)) => found.at(line, column),
            None => found,
        }
    }

    /// Sorts an error of planning or running a query into what the caller does next.
    ///
    /// An [`EngineError`] that travelled through DataFusion as `External` comes out as it was.
    pub fn from_datafusion(error: DataFusionError) -> Self {
        if let Some(inner) = find_engine_error(&error) {
            return Self {
                kind: inner.kind,
                code: inner.code,
                message: inner.message.clone(),
                line: inner.line,
                position: inner.position,
                source: Some(Box::new(error)),
            };
        }
        if let Some((path, reason)) = DataError::damage_in(&error) {
            return Self::data_damaged(&path, &reason).because(error);
        }
        let root = error.find_root();
        let message = root.strip_backtrace();
        let (kind, code) = match root {
            DataFusionError::SQL(parser, _) => return Self::from_parser((**parser).clone()),
            DataFusionError::Plan(_) | DataFusionError::SchemaError(..) => {
                (ErrorKind::BadRequest, "plan_error")
            }
            DataFusionError::NotImplemented(_) => (ErrorKind::BadRequest, "not_supported"),
            // Its planner says so of SQL that it lets through and cannot carry out, such as a
            // function it has no kernel for. Only other SQL helps; our invariants are errors of
            // ours, and a panic is an `ExecutionJoin`.
            DataFusionError::Internal(_) => {
                tracing::warn!(%error, "the SQL engine cannot carry out a statement");
                let message = format!(
                    "the SQL engine cannot carry this statement out; write it in another way: {}",
                    without_advice(&message)
                );
                return Self::bad_request("not_supported", message).because(error);
            }
            DataFusionError::Configuration(_) => (ErrorKind::BadRequest, "plan_error"),
            DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => {
                (ErrorKind::BadRequest, "execution_error")
            }
            // What a rule of the optimizer meets when it works on the user's constants, such as a
            // regular expression that does not compile.
            DataFusionError::External(_) if is_of_optimizer(&error) => {
                (ErrorKind::BadRequest, "plan_error")
            }
            DataFusionError::ResourcesExhausted(_) => (ErrorKind::OutOfMemory, "memory_limit"),
            DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
                (ErrorKind::Unavailable, "storage_error")
            }
            _ => (ErrorKind::Internal, "internal"),
        };
        let message = match kind {
            ErrorKind::Unavailable => "stored data could not be read".to_owned(),
            ErrorKind::Internal => "the query failed inside the engine".to_owned(),
            _ => message,
        };
        Self::new(kind, code, message).because(error)
    }
}

impl From<DataFusionError> for EngineError {
    fn from(error: DataFusionError) -> Self {
        Self::from_datafusion(error)
    }
}

impl From<EngineError> for DataFusionError {
    fn from(error: EngineError) -> Self {
        Self::External(Box::new(error))
    }
}

fn find_engine_error(error: &DataFusionError) -> Option<&EngineError> {
    let mut current: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(found) = current.downcast_ref::<EngineError>() {
            return Some(found);
        }
        // `External` answers `source` with the boxed error itself, so the walk meets it.
        current = current.source()?;
    }
}

fn is_of_optimizer(error: &DataFusionError) -> bool {
    matches!(error, DataFusionError::Context(what, _) if what.starts_with("Optimizer rule"))
}

/// An internal error of DataFusion without its request to report a bug there.
fn without_advice(message: &str) -> &str {
    let message = message.strip_prefix("Internal error: ").unwrap_or(message);
    let end = message.find("\nThis issue was likely caused by");
    message[..end.unwrap_or(message.len())].trim_end_matches(['.', '\n'])
}

/// Splits "... at Line: 1, Column: 16" into the message and the place.
fn split_place(text: &str) -> (String, Option<(u64, u64)>) {
    let place = text.rsplit_once(" at Line: ").and_then(|(message, rest)| {
        let (line, column) = rest.split_once(", Column: ")?;
        Some((
            message.to_owned(),
            line.trim().parse().ok()?,
            column.trim().parse().ok()?,
        ))
    });
    match place {
        Some((message, line, column)) => (message, Some((line, column))),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_other_sql_cannot_help_is_internal() {
        let internal = DataFusionError::Internal("no kernel for f()".to_owned());
        let refused = EngineError::from_datafusion(internal.context("while it ran"));
        assert_eq!(
            (refused.kind, refused.code),
            (ErrorKind::BadRequest, "not_supported")
        );
        assert!(
            refused.message.ends_with(": no kernel for f()"),
            "{}",
            refused.message
        );

        let broken = || DataFusionError::External("a cause".into());
        let invariant = EngineError::from_datafusion(broken());
        assert_eq!(invariant.kind, ErrorKind::Internal);
        assert!(!invariant.message.contains("a cause"));
        let ours = DataFusionError::from(EngineError::internal("ours"));
        assert_eq!(EngineError::from_datafusion(ours).kind, ErrorKind::Internal);

        let optimized = broken().context("Optimizer rule 'simplify_expressions' failed");
        let refused = EngineError::from_datafusion(optimized);
        assert_eq!(
            (refused.kind, refused.code),
            (ErrorKind::BadRequest, "plan_error")
        );
    }
}
