//! Comments on streams, views and their columns: kept in the publication, so they are durable.

use std::sync::Arc;

use lambdalake_data::publication::{Comments, Publication};
use lambdalake_data::schema::is_hidden;
use lambdalake_serving::engine::{CommentSpec, CommentTarget, EngineError};

use super::Engine;
use super::streams::ChangeError;

impl Engine {
    /// Sets or removes a comment; durable on return.
    pub(super) fn set_comment(&self, spec: CommentSpec) -> Result<(), EngineError> {
        if let CommentTarget::Column { table, column } = &spec.target {
            self.check_column_exists(table, column)?;
        }
        let changed = self.publisher.change(|next| -> Result<(), ChangeError> {
            match &spec.target {
                CommentTarget::Stream(name) => stream_comments(next, name)?.table = spec.text,
                CommentTarget::View(name) => view_comments(next, name)?.table = spec.text,
                CommentTarget::Column { table, column } => {
                    let comments = match next.views.contains_key(table) {
                        true => view_comments(next, table)?,
                        false => stream_comments(next, table)?,
                    };
                    match spec.text {
                        Some(text) => comments.columns.insert(column.clone(), text),
                        None => comments.columns.remove(column),
                    };
                }
            }
            Ok(())
        });
        changed.map_err(ChangeError::into_engine)
    }

    fn check_column_exists(&self, table: &str, column: &str) -> Result<(), EngineError> {
        let snapshot = self.publisher.snapshot();
        let schema = if let Some(stream) = snapshot.streams.get(table) {
            if is_hidden(column) {
                let message = format!("the engine itself documents its hidden column {column}");
                return Err(EngineError::bad_request("hidden_column", message));
            }
            Arc::clone(&stream.schema)
        } else if let Some(view) = snapshot.views.get(table) {
            view.view.output_schema()
        } else {
            let message = format!("there is no stream or view {table}");
            return Err(EngineError::not_found("unknown_table", message));
        };
        if schema.field_with_name(column).is_ok() {
            return Ok(());
        }
        let message = format!("{table} has no column {column}");
        Err(EngineError::not_found("unknown_column", message))
    }
}

fn stream_comments<'a>(
    next: &'a mut Publication,
    name: &str,
) -> Result<&'a mut Comments, ChangeError> {
    let is_view = next.views.contains_key(name);
    match next.streams.get_mut(name) {
        Some(state) => Ok(&mut Arc::make_mut(state).comments),
        None if is_view => Err(unknown(
            "unknown_stream",
            format!("{name} is a view: use COMMENT ON MATERIALIZED VIEW"),
        )),
        None => Err(unknown(
            "unknown_stream",
            format!("there is no stream {name}"),
        )),
    }
}

fn view_comments<'a>(
    next: &'a mut Publication,
    name: &str,
) -> Result<&'a mut Comments, ChangeError> {
    let is_stream = next.streams.contains_key(name);
    match next.views.get_mut(name) {
        Some(state) => Ok(&mut Arc::make_mut(state).comments),
        None if is_stream => Err(unknown(
            "unknown_view",
            format!("{name} is a stream: use COMMENT ON TABLE"),
        )),
        None => Err(unknown("unknown_view", format!("there is no view {name}"))),
    }
}

fn unknown(code: &'static str, message: String) -> ChangeError {
    ChangeError::Engine(EngineError::not_found(code, message))
}
