//! `COMMENT ON ...`, and comments in `CREATE TABLE`.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CommentDef, CommentObject, ObjectName,
};

use super::{fold, name_parts, table_name, unsupported};
use crate::engine::{CommentSpec, CommentTarget};
use crate::error::EngineError;

/// Bytes of one comment: comments are part of every publication.
const MAX_COMMENT_BYTES: usize = 4_096;

/// What a `COMMENT ON` says. An empty text removes the comment, as NULL does.
pub(super) fn comment_on(
    object: CommentObject,
    name: &ObjectName,
    text: Option<String>,
) -> Result<CommentSpec, EngineError> {
    let target = match object {
        CommentObject::Table => CommentTarget::Stream(table_name(name)?),
        CommentObject::View | CommentObject::MaterializedView => {
            CommentTarget::View(table_name(name)?)
        }
        CommentObject::Column => match &name_parts(name)?[..] {
            [table, column] => CommentTarget::Column {
                table: table.clone(),
                column: column.clone(),
            },
            _ => {
                return Err(EngineError::bad_request(
                    "invalid_name",
                    format!("{name} does not name a column: write it stream.column"),
                ));
            }
        },
        other => {
            return Err(unsupported(&format!(
                "COMMENT ON {other} is not supported, only TABLE, MATERIALIZED VIEW and COLUMN"
            )));
        }
    };
    let text = match text {
        Some(text) if !text.is_empty() => Some(checked(text)?),
        _ => None,
    };
    Ok(CommentSpec { target, text })
}

/// The comments in a column list.
pub(super) fn of_columns(columns: &[ColumnDef]) -> Result<BTreeMap<String, String>, EngineError> {
    let mut comments = BTreeMap::new();
    for column in columns {
        for option in &column.options {
            if let ColumnOption::Comment(text) = &option.option {
                comments.insert(fold(&column.name), checked(text.clone())?);
            }
        }
    }
    Ok(comments)
}

/// `COMMENT 'text'` or `COMMENT = 'text'` after the columns.
pub(super) fn of_table(comment: CommentDef) -> Result<String, EngineError> {
    let (CommentDef::WithEq(text) | CommentDef::WithoutEq(text)) = comment;
    checked(text)
}

pub(super) fn checked(text: String) -> Result<String, EngineError> {
    if text.len() <= MAX_COMMENT_BYTES {
        return Ok(text);
    }
    Err(EngineError::bad_request(
        "invalid_comment",
        format!(
            "the comment has {} bytes, and at most {MAX_COMMENT_BYTES} are kept",
            text.len()
        ),
    ))
}
